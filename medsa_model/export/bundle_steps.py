"""The steps of a MONAI bundle from a folder of files to a folder of masks.

They are those of `medsa-predict`, in the parts that a bundle has: `cases` makes the data list,
`OpenCase` is the preprocessing, `PromptInferer` the inferer, `WriteMask` the postprocessing, and
`Evaluator` goes through all cases. The inferer gets a case in its own pixels, as MONAI's sliding
window does: it makes the model frame, asks the network and brings the answer back.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.inferers import Inferer
from monai.transforms import Compose, Transform
from torch import Tensor

from medsa_model.data.nifti import write_labels
from medsa_model.errors import DataError
from medsa_model.export.bundle_network import Network
from medsa_model.logs import logger
from medsa_model.predict.asked import Mark
from medsa_model.predict.case import Request, ask
from medsa_model.predict.inputs import Input, find_inputs
from medsa_model.predict.opened import Opened, open_case
from medsa_model.predict.results import mask_bytes, write_whole
from medsa_model.predict.run import requests_of
from medsa_model.predict.segment import segment_image, segment_volume
from medsa_model.task import Task

Item = dict[str, Any]
"""A case on its way: `image`, an `Input` and then `Opened`; `request`; at last `pred`, its mask."""
Numbers = list[Any] | None
"""Of one click or box, or a list of such lists."""


def cases(
    task: Task, dataset_dir: str, structure: str | Sequence[str] = (), click: Numbers = None,
    off: Numbers = None, box: Numbers = None, prompts: str | None = None,
) -> list[Item]:  # fmt: skip
    """The cases of a file or a folder, and what is asked in each, as for `medsa-predict`.

    `click` and `off` (a click off the structure) are one point or several, `box` is one; `prompts`
    is a CSV or JSON file. Raises `ConfigError` and `DataError` as that command does.
    """
    found = find_inputs(Path(dataset_dir), task.volumes)
    drawn: dict[Mark, Numbers] = {"click": click, "not": off, "box": box}
    marks = [(mark, each) for mark, numbers in drawn.items() for each in _each(numbers)]
    names = [structure] if isinstance(structure, str) else list(structure)
    options = argparse.Namespace(
        structure=names, marks=marks, rough=None,
        prompts=Path(prompts) if prompts else None,
    )  # fmt: skip
    requests = requests_of(options, task, found)
    return [{"image": source, "request": requests[source.case]} for source in found.inputs]


def _each(numbers: Numbers) -> list[tuple[float, ...]]:
    """One list of numbers, or several, as several."""
    if not numbers:
        return []
    many = [each for each in numbers if isinstance(each, list | tuple)] or [numbers]
    return [tuple(float(number) for number in each) for each in many]


@dataclass(frozen=True)
class OpenCase(Transform):
    """Reads the file of a case, into the frame in which volumes are upright."""

    task: Task

    def __call__(self, item: Item) -> Item:
        """`image` becomes `Opened`; of a file that cannot be used `problem` says why."""
        source: Input = item["image"]
        try:
            opened = open_case(source, self.task)
        except DataError as error:
            return {**item, "problem": str(error)}
        for remark in opened.sample.remarks:
            logger.warning("case %s: %s", source.case, remark)
        return {**item, "image": opened}


def single_case(items: Sequence[Item]) -> Item:
    """The item of a batch of one: cases differ in size and are not joined."""
    (item,) = items
    return item


@dataclass(frozen=True)
class PromptInferer(Inferer):
    """Segments one case with its prompts, in `precision` (auto, bfloat16 or float32)."""

    precision: str = "float32"

    def __call__(  # type: ignore[override]  # MONAI's own take a tensor: this one needs a case
        self, inputs: Item, network: Network, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Numbers (H, W) or (D, H, W) uint8: 0 background, 1 the first structure."""
        opened: Opened = inputs["image"]
        request: Request = inputs["request"]
        task = network.task
        rows, _, words = ask(opened, request, task)
        asked = [number for number in request.structures if number in words]
        model, named = network.model, task.named > 0
        if opened.geometry is None:
            single = {number: slices[0] for number, slices in rows.items()}
            return segment_image(
                model, opened.sample, single, asked, named, None, self.precision
            )  # fmt: skip
        return segment_volume(
            model, opened.sample, rows, asked, named, None, self.precision, task.volume
        )


@dataclass(frozen=True)
class WriteMask(Transform):
    """Writes `pred` as CASE.png, or as CASE.nii.gz with the affine and the shape of the image."""

    output_dir: str
    structures: int

    def __call__(self, item: Item) -> Item:
        """Raises `DataError` when the file cannot be written."""
        opened: Opened = item["image"]
        numbers: Tensor = item["pred"]
        folder = Path(self.output_dir)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # masks are patients' data
        case = opened.source.case
        if opened.geometry is None:
            place = folder / f"{case}.png"
            write_whole(place, mask_bytes(numbers, self.structures))
        else:
            place = folder / f"{case}.nii.gz"
            write_labels(place, numbers, opened.geometry)
        place.chmod(0o600)
        return item


@dataclass(frozen=True)
class Evaluator:
    """Goes through all cases; MONAI's own evaluator needs pytorch-ignite."""

    dataloader: Iterable[Item]
    network: Network
    inferer: PromptInferer
    postprocessing: Compose

    def run(self) -> None:
        """Segment every case and write its mask.

        Raises one `DataError` at the end for all cases that have none.
        """
        problems: list[str] = []
        for item in self.dataloader:
            if problem := item.get("problem"):
                problems.append(problem)
                continue
            try:
                pred = self.inferer(item, self.network)
            except DataError as error:
                problems.append(str(error))
                continue
            self.postprocessing({**item, "pred": pred})
            found = {
                name: int((pred == number).sum())
                for number, name in enumerate(self.network.task.structures, 1)
            }
            logger.info("%s: %s", item["image"].source.case, _told(found))
        if problems:
            listed = "\n  ".join(problems)
            raise DataError(
                f"{len(problems)} case(s) have no mask, the others are written:\n  {listed}"
            )


def _told(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in found.items())
