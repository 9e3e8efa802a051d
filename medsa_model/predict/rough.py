"""Prompts from a rough mask: the box around each structure, of a volume on every slice."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from medsa_model.errors import DataError
from medsa_model.predict.inputs import listed
from medsa_model.predict.opened import Opened, channels, read_numbers
from medsa_model.predict.places import Rows, slice_of_volume
from medsa_model.predict.segment import slices_of_mask
from medsa_model.prompts import Row, tight_box
from medsa_model.task import Task


def ask_by_rough(
    path: Path, opened: Opened, structures: Sequence[int], task: Task
) -> tuple[Rows, Tensor, dict[int, str]]:
    """Boxes in pixels of the case, the rough mask (K, ...) bool, and the prompts in words.

    Boxes and words are of the structures (from 0) that the mask shows; of a volume that is
    resampled they are those of the slices that the model is asked on. Raises `DataError` for a mask
    that does not lie on the case, that shows none of `structures`, or one of them only on slices
    that are left out.
    """
    case, count = opened.source.case, len(task.structures)
    rough = channels(read_numbers(path, opened, task.structures), count)
    rows = rough_rows(rough, structures)
    if not rows:
        names = ", ".join(task.structures[n] for n in structures)
        raise DataError(f"case {case}: the rough mask shows none of [{names}]")
    if opened.geometry is None:
        return rows, rough, dict.fromkeys(rows, "box of the rough mask")
    shown = slices_of_mask(rough, opened.sample, task.volume.slice_distance)
    depth, slices = shown.shape[1], rough.shape[1]
    if lost := [task.structures[n] for n in rows if not bool(shown[n].any())]:
        raise DataError(
            f"case {case}: the rough mask shows {listed(lost)} only on slices that are left out, "
            f"since the model sees {depth} of the {slices} slices (one every "
            f"{task.volume.slice_distance:g} mm); draw it on the neighbouring slices too"
        )
    words = {n: _told(int(shown[n].sum()), depth, slices) for n in rows}
    seen = {slice_of_volume(place, depth, slices) for place in range(depth)}
    rows = {n: {place: row for place, row in each.items() if place in seen}
            for n, each in rows.items()}  # fmt: skip
    return rows, rough, words


def rough_rows(rough: Tensor, structures: Sequence[int]) -> Rows:
    """The boxes around `rough (K, H, W)` or `(K, D, H, W) bool`, on each slice."""
    rows: Rows = {}
    for number in structures:
        planes = rough[number] if rough.dim() == 4 else rough[number][None]
        for place in planes.flatten(1).any(1).nonzero()[:, 0].tolist():
            row: Row = ([], [], tight_box(planes[place].numpy()))
            rows.setdefault(number, {})[place] = row
    return rows


def _told(asked: int, depth: int, slices: int) -> str:
    """`asked` slices of the model frame; how many that has, where the file has others."""
    words = f"boxes of the rough mask on {asked} slice{'' if asked == 1 else 's'}"
    return words if depth == slices else f"{words} of {depth} (resampled from {slices})"
