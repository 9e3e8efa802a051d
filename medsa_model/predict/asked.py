"""What a person asks for: clicks and boxes of a case, in the numbers of the file.

x goes to the right and y down, both from 0; (0, 0) is the centre of the upper left pixel of the
image as a viewer shows it, with its EXIF rotation. In a volume a click has the voxel numbers i, j,
k of the file's axes, from 0 as nibabel, 3D Slicer and FSLeyes count them (the cursor of ITK-SNAP
counts from 1); a box has its slice last.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from medsa_model.errors import ConfigError
from medsa_model.predict.inputs import listed
from medsa_model.task import Task

Mark = Literal["click", "not", "box"]
LENGTHS = {False: {"click": 2, "not": 2, "box": 4}, True: {"click": 3, "not": 3, "box": 5}}
WRITTEN = {
    False: {"click": "X,Y", "not": "X,Y", "box": "X0,Y0,X1,Y1"},
    True: {"click": "I,J,K", "not": "I,J,K", "box": "X0,Y0,X1,Y1,Z"},
}


@dataclass(frozen=True)
class Given:
    """One click (x, y or i, j, k) or box (x0, y0, x1, y1 and of a volume z) on `structure`, which
    is a number from 0. `numbers` are those of the file. `case` is where it is asked; of a command
    about one case it is empty."""

    structure: int
    mark: Mark
    numbers: tuple[float, ...]
    case: str = field(default="", compare=False)

    def told(self) -> str:
        """For tables: `click 12,30`."""
        return f"{self.mark} {','.join(f'{number:g}' for number in self.numbers)}"


def problem_of(mark: Mark, numbers: Sequence[float], volume: bool) -> str:
    """What is wrong with the numbers of a mark wherever it lies; empty: nothing."""
    if len(numbers) != LENGTHS[volume][mark]:
        where = "a volume" if volume else "an image"
        return f"{mark} has {len(numbers)} numbers; expected {WRITTEN[volume][mark]} for {where}"
    if volume and mark == "box" and numbers[-1] != int(numbers[-1]):
        return f"{mark} is on slice {numbers[-1]:g}; expected a whole number"
    if mark == "box" and (numbers[2] < numbers[0] or numbers[3] < numbers[1]):
        return "box ends before it begins; expected X0 <= X1 and Y0 <= Y1"
    return ""


def together(marks: Iterable[Given], structures: Sequence[str], volume: bool) -> str:
    """What is wrong with all marks of one case; empty: nothing.

    A click off a structure needs a click on it or a box beside it, and a structure has one box; in
    a volume that holds for every slice of the box.
    """
    places: dict[int, list[Mark]] = {}
    for given in marks:
        places.setdefault(given.structure, []).append(given.mark)
    for structure, found in places.items():
        name = structures[structure]
        if set(found) == {"not"}:
            return f"{name}: clicks off it alone; expected a click on it or a box too"
        if not volume and found.count("box") > 1:
            return f"{name}: {found.count('box')} boxes; expected one on an image"
    return ""


def choose_structures(names: Sequence[str], task: Task) -> tuple[int, ...]:
    """Numbers of the structures `names`, of all when there are none.

    Raises `ConfigError` for names that the adapter does not know, with those that it knows.
    """
    if unknown := [name for name in names if name not in task.structures]:
        raise ConfigError(
            f"structure {', '.join(unknown)}: the adapter does not know it; expected some of "
            f"[{', '.join(task.structures)}]"
        )
    return tuple(n for n, each in enumerate(task.structures) if each in names or not names)


def by_itself(structures: Sequence[int], task: Task) -> str:
    """How structures are asked for without a drawn prompt: `class` by their names, or `none`.

    Raises `ConfigError` when the adapter was trained on neither.
    """
    if task.named:
        return "class"
    if "none" in task.prompts and len(structures) == 1:
        return "none"
    trained = ", ".join(task.prompts)
    if "none" in task.prompts:
        names = listed([task.structures[number] for number in structures])
        raise ConfigError(
            f"no prompt is given, and without one {names} would get the same mask; give "
            f"--structure with one of them, or a prompt (trained on: {trained})"
        )
    raise ConfigError(
        f"no prompt is given, and the adapter was trained on {trained} alone; give --click, --box, "
        "--rough or --prompts"
    )


def untrained(marks: Iterable[Given], task: Task) -> list[str]:
    """Warnings about prompts of any number of cases that the adapter has not seen in training."""
    marks = list(marks)
    kinds = {"box" if each.mark == "box" else "click" for each in marks}
    trained = {"click" if kind == "clicks" else kind for kind in task.prompts}
    said = [
        f"the adapter was not trained on prompts of the kind {kind} (but on "
        f"{', '.join(task.prompts)}): look at these masks with more care"
        for kind in sorted(kinds - trained)
    ]
    prompts: dict[tuple[str, int, float], set[str]] = {}  # case, structure, slice
    for each in marks:
        # a click has its slice last too, where the file's third axis leads through the slices
        place = each.numbers[-1] if task.volumes else 0
        kind = "box" if each.mark == "box" else "click"
        prompts.setdefault((each.case, each.structure, place), set()).add(kind)
    both = [prompt for prompt, found in prompts.items() if found == {"box", "click"}]
    if both:
        cases = list(dict.fromkeys(case for case, *_ in both if case))
        where = f"{'cases' if len(cases) > 1 else 'case'} {listed(cases)}: " if cases else ""
        said.append(
            f"{where}a box together with clicks on one structure was not in the training: look at "
            "these masks with more care"
        )
    return said
