"""One case from its file to its mask, overlay and scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medsa_model.data.dicom_seg import write_segmentation
from medsa_model.data.geometry import Geometry
from medsa_model.data.nifti import write_labels
from medsa_model.errors import ConfigError, DataError
from medsa_model.logs import logger
from medsa_model.predict.asked import Given, by_itself
from medsa_model.predict.failures import told
from medsa_model.predict.inputs import Input
from medsa_model.predict.opened import Opened, open_case, read_numbers
from medsa_model.predict.overlays import draw_overlay, image_plane, volume_planes
from medsa_model.predict.places import Rows, file_slice, image_rows, volume_rows
from medsa_model.predict.results import (
    MASKS,
    OVERLAYS,
    Size,
    mask_bytes,
    picture_bytes,
    sizes_of,
    write_whole,
)
from medsa_model.predict.rough import ask_by_rough
from medsa_model.predict.scores import Metrics, metrics_of
from medsa_model.predict.segment import segment_image, segment_volume
from medsa_model.sam import MedSam
from medsa_model.task import Task

MOST_TOLD = 3  # structures whose prompts are told under a picture


@dataclass(frozen=True)
class Request:
    """What is asked in one case: `marks`, else the boxes of the mask `rough`, else nothing.

    `structures` (from 0) may be asked for. `lacking` says why there is no prompt although prompts
    are given: such a case is not segmented without.
    """

    structures: tuple[int, ...]
    marks: tuple[Given, ...] = ()
    rough: Path | None = None
    lacking: str = ""

    def check(self, case: str) -> None:
        """Raise `DataError` for a case that lacks its prompt."""
        if self.lacking:
            raise DataError(f"case {case}: {self.lacking}")

    def by_itself(self, task: Task) -> str:
        """See `asked.by_itself`."""
        return by_itself(self.structures, task)


@dataclass(frozen=True)
class Answer:
    """What was found in one case: sizes, and with labels the metrics of structures (from 1).

    `mask` and `overlay` are the names of its files in the output folder, `reference` that of the
    label, without its folder.
    """

    source: Input
    sizes: tuple[Size, ...]
    mask: str
    overlay: str = ""
    metrics: Mapping[int, Metrics] | None = None
    reference: str = ""
    problems: tuple[str, ...] = ()
    "What went wrong beside the mask: its scores, its DICOM SEG."

    def line(self) -> str:
        """One line for a log."""
        found = ", ".join(
            f"{each.structure} {each.voxels:,}" + (" (nothing found)" if not each.voxels else "")
            for each in self.sizes
        )
        unit = "voxels" if self.source.is_volume else "pixels"
        dice = [f"{each['Dice']:.3f}" for each in (self.metrics or {}).values()]
        return f"{self.source.case}: {found} {unit}" + (f"; Dice {', '.join(dice)}" if dice else "")

    def asked(self) -> dict[str, str]:
        """Structure -> its prompt."""
        return {each.structure: each.prompt for each in self.sizes}

    def scored(self) -> dict[str, Any]:
        """As `scores.summary` takes it."""
        return {"metrics": self.metrics, "prediction_file": self.mask,
                "reference_file": self.reference}  # fmt: skip


def segment_case(
    model: MedSam, task: Task, precision: str, out: Path, source: Input, request: Request,
    label: Path | None, *, overlays: bool, dicom_seg: bool,
) -> Answer:  # fmt: skip
    """Read, segment and write one case; with `label` also score it.

    Raises `DataError` when the case or its prompt cannot be used. Scores and a DICOM SEG that fail
    cost neither each other nor the mask: the answer has the problems.
    """
    request.check(source.case)  # before a volume is read for nothing
    opened = open_case(source, task)
    sample = opened.sample
    for remark in [*sample.remarks, *(["every pixel has the same colour"] * sample.blank)]:
        logger.warning("case %s: %s", source.case, remark)
    rows, rough, words = ask(opened, request, task)
    asked = [n for n in request.structures if n in words]
    named = task.named > 0
    if opened.geometry is None:
        single = {number: slices[0] for number, slices in rows.items()}
        numbers = segment_image(model, sample, single, asked, named, rough, precision)
    else:
        numbers = segment_volume(model, sample, rows, asked, named, rough, precision, task.volume)
    prompts = [words[number] for number in asked]
    sizes = sizes_of(source.case, numbers, asked, task.structures, prompts, opened.geometry)
    metrics: Mapping[int, Metrics] | None = None
    problems: list[str] = []
    if label is not None:
        with told(problems, source.case, model.sam.device.type):
            truth = read_numbers(label, opened, task.structures)
            metrics = {number + 1: metrics_of(numbers, truth, number + 1) for number in asked}
    if dicom_seg and opened.geometry is not None:
        with told(problems, source.case, model.sam.device.type):
            _write_dicom(numbers, opened.geometry, source, task, out)
    overlay = f"{OVERLAYS}/{source.case}.png" if overlays else ""
    if overlays:
        _write_overlay(out / overlay, numbers, opened, rows, asked, task, words)
    mask = _write_mask(numbers, opened, task, out)  # last: where it is, the case is done
    reference = label.name if label else ""
    return Answer(source, tuple(sizes), mask, overlay, metrics, reference, tuple(problems))


def ask(opened: Opened, request: Request, task: Task) -> tuple[Rows, Tensor | None, dict[int, str]]:
    """Prompts in pixels of the case, the rough mask (K, ...) if any, and prompts in words.

    The words say what is asked for each structure that is asked for, by its number from 0. Raises
    `DataError` for prompts that do not lie on the case, and where there is none but should be.
    """
    case, sample = opened.source.case, opened.sample
    request.check(case)
    if request.marks:
        if opened.geometry is None:
            height, width = sample.image.shape[1:]
            rows = image_rows(request.marks, (height, width), case)
        else:
            rows = volume_rows(request.marks, opened.geometry, case)
        words = {n: "; ".join(m.told() for m in request.marks if m.structure == n) for n in rows}
        return rows, None, words
    if request.rough is not None:
        return ask_by_rough(request.rough, opened, request.structures, task)
    try:
        kind = request.by_itself(task)
    except ConfigError as error:
        raise DataError(f"case {case}: {error}") from error
    return {}, None, dict.fromkeys(request.structures, "by name" if kind == "class" else "none")


def _write_mask(numbers: Tensor, opened: Opened, task: Task, out: Path) -> str:
    """Write the mask; returns its name in the output folder."""
    source, geometry = opened.source, opened.geometry
    if geometry is None:
        name = f"{MASKS}/{source.case}.png"
        write_whole(out / name, mask_bytes(numbers, len(task.structures)))
        return name
    name = f"{MASKS}/{source.case}.nii.gz"
    write_labels(out / name, numbers, geometry)
    return name


def _write_dicom(numbers: Tensor, geometry: Geometry, source: Input, task: Task, out: Path) -> None:
    place = out / MASKS / f"{source.case}.dcm"
    written = write_segmentation(
        place, source.path, source.case, numbers, geometry, task.structures
    )
    if not written:
        logger.warning("case %s: nothing found, so no DICOM SEG is written", source.case)


def _write_overlay(
    path: Path, numbers: Tensor, opened: Opened, rows: Rows, asked: list[int], task: Task,
    words: Mapping[int, str],
) -> None:  # fmt: skip
    sample, geometry = opened.sample, opened.geometry
    if geometry is None or sample.spacing_mm is None:
        planes = [image_plane(sample.image, numbers, rows)]
    else:
        depth = len(numbers)
        in_file = {place: str(file_slice(place, geometry)) for place in range(depth)}
        planes = volume_planes(sample.image[0], numbers, rows, sample.spacing_mm, in_file)
    names = {number: task.structures[number] for number in asked}
    each = dict.fromkeys(words[number] for number in asked)
    prompt = next(iter(each)) if len(each) == 1 else "as drawn"
    if len(each) > 1 and len(asked) <= MOST_TOLD:
        prompt = "; ".join(f"{task.structures[number]}: {words[number]}" for number in asked)
    prompt += " · seen from the feet, the patient's right on the left" if geometry else ""
    picture = draw_overlay(planes, names, f"{sample.case} · prompt: {prompt}")
    write_whole(path, picture_bytes(picture))
