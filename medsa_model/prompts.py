"""Prompts: clicks and boxes on one object, drawn from its mask with a given random generator.

Coordinates are (x, y) in pixels of the S x S model frame; pixel (0, 0) is the centre of the upper
left pixel, as in the `segment-anything` package. A box is (x0, y0, x1, y1) with both corners
inside the object's extent. An empty mask never gets a positive click: its prompt is padding only.

In evaluation a prompt is a function of (seed, case), in training of (seed, round, step): the
caller passes the generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
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
    `classes (B) int64`: the structure that is asked for by its name, -1 for none. `None`: no image
    has one.
    """

    points: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor | None = None
    classes: torch.Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Prompt":
        """The same prompts on `device`; `non_blocking` as in `torch.Tensor.to`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Prompt":
        """With `change` of every tensor that there is."""
        boxes = None if self.boxes is None else change(self.boxes)
        classes = None if self.classes is None else change(self.classes)
        return Prompt(change(self.points), change(self.labels), boxes, classes)

    def __len__(self) -> int:
        return self.points.shape[0]


def collate(rows: Sequence[Row], classes: Sequence[int] = ()) -> Prompt:
    """Join single prompts, padding to the largest number of points.

    `classes` are the structures that rows ask for by name, -1 for none; empty: no row does.
    """
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
    named = torch.tensor(classes) if max(classes, default=-1) >= 0 else None
    return Prompt(points, labels, None if bool(boxes.isnan().all()) else boxes, named)


def widened(prompt: Prompt, kinds: Sequence["PromptSection"]) -> Prompt:
    """`prompt` padded to the shape that prompts of `kinds` have together.

    SAM's decoder sees padding. In a batch without it the answer for one image would depend on the
    kinds of the others; with it, on `kinds` alone.
    """
    everything = np.ones((2, 2), bool)
    rows = [kind.draw(everything, np.random.default_rng(0)) for kind in kinds]
    widest = collate(rows, [0 if kind.by_class else -1 for kind in kinds])
    count, more = len(prompt), widest.points.shape[1] - prompt.points.shape[1]
    boxes, classes = prompt.boxes, prompt.classes
    if boxes is None and widest.boxes is not None:
        boxes = torch.full((count, 4), torch.nan)
    if classes is None and widest.classes is not None:
        classes = torch.full((count,), -1)
    return Prompt(
        F.pad(prompt.points, (0, 0, 0, more)), F.pad(prompt.labels, (0, more), value=PADDING),
        boxes, classes,
    )  # fmt: skip


class PromptSection(Protocol):
    """What every kind of prompt can do."""

    @property
    def name(self) -> str:
        """A short name for tables and metrics."""
        ...

    @property
    def weight(self) -> float:
        """How often this kind is drawn in training, relative to the others."""
        ...

    @property
    def by_class(self) -> bool:
        """Whether the structure is asked for by its name, also where there is none of it."""
        ...

    @property
    def everywhere(self) -> bool:
        """In a volume: whether all slices are asked about, also those without the structure."""
        ...

    @property
    def followed(self) -> bool:
        """In a volume: whether one slice is prompted, and the answer followed through the rest."""
        ...

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """A prompt for the object `mask (S, S)`; padding only when the mask is empty."""
        ...


class Asked(Section):
    """What all kinds of prompt have."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How often this kind is drawn in training, relative to the others."""


class Shown(Asked):
    """A prompt that is drawn on the image."""

    followed: bool = False
    """Volumes: prompt the slice with the largest area alone, and follow the answer through the
    others, the box around it being the prompt of the next slice. False: prompt every slice."""

    everywhere: ClassVar[bool] = False
    by_class: ClassVar[bool] = False


def random_click(mask: Mask, generator: np.random.Generator) -> tuple[float, float]:
    """A uniformly drawn pixel of a mask that is not empty, as (x, y)."""
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[generator.integers(len(pixels))]), mask.shape[1])
    return float(x), float(y)


def with_way(name: str, followed: bool) -> str:
    """The name of a prompt that is followed through a volume differs from one on every slice."""
    return f"{name} followed" if followed else name


class Click(Shown):
    """One random click on the object ("1-point" of the Med-SA paper)."""

    kind: Literal["click"] = "click"

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return with_way("click", self.followed)

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        return ([random_click(mask, generator)], [POSITIVE], None) if mask.any() else ([], [], None)


class Clicks(Shown):
    """Several random clicks on the object ("3-points" of the Med-SA paper)."""

    kind: Literal["clicks"] = "clicks"
    number: int = Field(3, ge=1, le=32)
    """Clicks per object."""

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return with_way(f"{self.number} clicks", self.followed)

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        if not mask.any():
            return [], [], None
        clicks = [random_click(mask, generator) for _ in range(self.number)]
        return clicks, [POSITIVE] * self.number, None


class Box(Shown):
    """A box around the object whose IoU with the tight box is `overlap` ("BBox 0.75")."""

    kind: Literal["box"] = "box"
    overlap: float = Field(1.0, gt=0.2, le=1.0)
    """Intersection over union of the box with the tight box; 1 is the tight box."""

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        name = "box" if self.overlap == 1 else f"box {self.overlap:g}"
        return with_way(name, self.followed)

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        if not mask.any():
            return [], [], None
        return [], [], shifted_box(tight_box(mask), self.overlap, generator)


class NoPrompt(Asked):
    """No prompt at all: the model segments by itself."""

    kind: Literal["none"] = "none"

    by_class: ClassVar[bool] = False
    everywhere: ClassVar[bool] = True
    followed: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return "none"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        return [], [], None


class ByClass(Asked):
    """The name of the structure: one learned embedding for each, trained and averaged with the
    adapters, so that structures are found without a click."""

    kind: Literal["class"] = "class"

    by_class: ClassVar[bool] = True
    everywhere: ClassVar[bool] = True
    followed: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See `PromptSection.name`."""
        return "class"

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`; the name is not part of the row."""
        return [], [], None


PromptKind = Annotated[Click | Clicks | Box | ByClass | NoPrompt, Field(discriminator="kind")]


def choose(kinds: Sequence[PromptSection], generator: np.random.Generator) -> PromptSection:
    """One of `kinds` at random, by their weights."""
    weights = [kind.weight for kind in kinds]
    if len(set(weights)) == 1:
        return kinds[int(generator.integers(len(kinds)))]
    shares = np.array(weights) / sum(weights)
    return kinds[int(generator.choice(len(kinds), p=shares))]


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


def corrected(
    prompt: Prompt, masks: NDArray[np.bool_], answers: NDArray[np.bool_],
    generator: np.random.Generator,
) -> Prompt:  # fmt: skip
    """`prompt` with a further click for each row, on the larger error of its answer.

    `masks` and `answers (B, S, S)`. A row that was not drawn on the image, that has an empty mask,
    or whose answer is right, gets padding.
    """
    points, labels = torch.zeros(len(prompt), 1, 2), torch.full((len(prompt), 1), PADDING)
    for row, (mask, answer) in enumerate(zip(masks, answers, strict=True)):
        drawn = bool((prompt.labels[row] != PADDING).any())
        drawn |= prompt.boxes is not None and not bool(prompt.boxes[row].isnan().any())
        if not drawn or not mask.any():
            continue
        if click := corrective_click(mask, answer, generator):
            points[row, 0], labels[row, 0] = torch.tensor(click[0]), click[1]
    return Prompt(
        torch.cat([prompt.points, points], 1), torch.cat([prompt.labels, labels], 1),
        prompt.boxes, prompt.classes,
    )  # fmt: skip
