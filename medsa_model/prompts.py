"""Prompts: clicks and boxes on one object, drawn from its mask with a given random generator.

Coordinates are (x, y) in pixels of the S x S model frame; pixel (0, 0) is the centre of the upper
left pixel, as in the `segment-anything` package. A box is (x0, y0, x1, y1) with both corners
inside the object's extent. An empty mask never gets a positive click: its prompt is padding only.

In evaluation a prompt is a function of (seed, case), in training of (seed, round, step): the
caller passes the generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from medsa_model.section import Section

Mask = NDArray[np.bool_]
Row = tuple[list[tuple[float, float]], list[int], tuple[float, float, float, float] | None]

POSITIVE, NEGATIVE, PADDING = 1, 0, -1


@dataclass(frozen=True)
class Prompt:
    """One prompt for each of B images.

    `points (B, N, 2) float32`: x, y in pixels of the model frame.
    `labels (B, N) int64`: 1 on the object, 0 off it, -1 padding.
    `boxes (B, 4) float32`: x0, y0, x1, y1; a row of NaN has no box. `None`: no image has one.
    """

    points: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> "Prompt":
        """The same prompts on `device`."""
        boxes = None if self.boxes is None else self.boxes.to(device)
        return Prompt(self.points.to(device), self.labels.to(device), boxes)

    def __len__(self) -> int:
        return self.points.shape[0]


def collate(rows: Sequence[Row]) -> Prompt:
    """Join single prompts, padding to the largest number of points."""
    most = max((len(points) for points, _, _ in rows), default=0)
    points = torch.zeros(len(rows), most, 2)
    labels = torch.full((len(rows), most), PADDING)
    boxes = torch.full((len(rows), 4), torch.nan)
    for number, (row_points, row_labels, box) in enumerate(rows):
        if row_points:
            points[number, : len(row_points)] = torch.tensor(row_points)
            labels[number, : len(row_labels)] = torch.tensor(row_labels)
        if box is not None:
            boxes[number] = torch.tensor(box)
    return Prompt(points, labels, None if bool(boxes.isnan().all()) else boxes)


class PromptSection(Protocol):
    """What every kind of prompt can do."""

    @property
    def name(self) -> str:
        """A short name for tables and metrics."""
        ...

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """A prompt for the object `mask (S, S)`; padding only when the mask is empty."""
        ...


def random_click(mask: Mask, generator: np.random.Generator) -> tuple[float, float]:
    """A uniformly drawn pixel of a mask that is not empty, as (x, y)."""
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[generator.integers(len(pixels))]), mask.shape[1])
    return float(x), float(y)


class Click(Section):
    """One random click on the object ("1-point" of the Med-SA paper)."""

    kind: Literal["click"] = "click"

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return "click"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        return ([random_click(mask, generator)], [POSITIVE], None) if mask.any() else ([], [], None)


class Clicks(Section):
    """Several random clicks on the object ("3-points" of the Med-SA paper)."""

    kind: Literal["clicks"] = "clicks"
    number: int = Field(3, ge=1, le=32)
    """Clicks per object."""

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return f"{self.number} clicks"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        if not mask.any():
            return [], [], None
        clicks = [random_click(mask, generator) for _ in range(self.number)]
        return clicks, [POSITIVE] * self.number, None


class Box(Section):
    """A box around the object whose IoU with the tight box is `overlap` ("BBox 0.75")."""

    kind: Literal["box"] = "box"
    overlap: float = Field(1.0, gt=0.2, le=1.0)
    """Intersection over union of the box with the tight box; 1 is the tight box."""

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return "box" if self.overlap == 1 else f"box {self.overlap:g}"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        if not mask.any():
            return [], [], None
        return [], [], shifted_box(tight_box(mask), self.overlap, generator)


class NoPrompt(Section):
    """No prompt at all: the model segments by itself."""

    kind: Literal["none"] = "none"

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return "none"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        return [], [], None


PromptKind = Annotated[Click | Clicks | Box | NoPrompt, Field(discriminator="kind")]


def tight_box(mask: Mask) -> tuple[float, float, float, float]:
    """The extent of a mask that is not empty: x0, y0, x1, y1, both corners inside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def inscribed_ellipse(box: tuple[float, float, float, float], shape: tuple[int, int]) -> Mask:
    """The ellipse that fills a box, in a mask of `shape` (H, W): the answer without an image."""
    x0, y0, x1, y1 = box
    y, x = np.mgrid[: shape[0], : shape[1]]
    u = (x - (x0 + x1) / 2) / max((x1 - x0 + 1) / 2, 0.5)
    v = (y - (y0 + y1) / 2) / max((y1 - y0 + 1) / 2, 0.5)
    return np.asarray(u * u + v * v <= 1)


def shifted_box(
    box: tuple[float, float, float, float], overlap: float, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Move and scale a box at random so that its IoU with the given one is exactly `overlap`.

    A random direction of change of the four edges is drawn; how far to go along it is found by
    bisection. Edges may leave the frame by a little, as a hand-drawn box does.
    """
    if overlap >= 1:
        return box
    x0, y0, x1, y1 = box
    width, height = x1 - x0 + 1, y1 - y0 + 1
    change = generator.uniform(-1, 1, 4) * (width, height, width, height)

    def at(step: float) -> tuple[float, float, float, float]:
        a, b, c, d = (float(v) for v in np.array(box) + step * change)
        return min(a, c), min(b, d), max(a, c), max(b, d)

    low, high = 0.0, 1.0
    while box_iou(box, at(high)) > overlap:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if box_iou(box, at(middle)) > overlap else (low, middle)
    return at(low)


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes, counted in whole pixels (a corner is a pixel)."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(width, 0.0) * max(height, 0.0)
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return shared / (area - shared)


def corrective_click(
    mask: Mask, predicted: Mask, generator: np.random.Generator
) -> tuple[tuple[float, float], int] | None:
    """The next click of an iterative session: a random pixel of the larger error.

    Positive where the object was missed, negative where too much was taken; `None` when the
    prediction is right.
    """
    missed, extra = mask & ~predicted, predicted & ~mask
    error, label = (missed, POSITIVE) if missed.sum() >= extra.sum() else (extra, NEGATIVE)
    return (random_click(error, generator), label) if error.any() else None
