"""Training examples of the embedded backbone: generated scenes, turned and mirrored, with prompts.

A scene costs more to paint than its share of a training step, so each is used several times: every
use turns or mirrors it, asks for other objects and draws other prompts. Example i is a function of
(seed, i) and of the settings, so that an interrupted run goes on with the same examples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medsa_model.prompts import Row, random_click, tight_box
from medsa_model.scenes import MOST_OBJECTS, Scene, generate_scene

BOX_JITTER = 0.05  # standard deviation of each edge, in widths or heights of the object
WINDOW = 512  # scenes in memory; a scene comes back after as many others

Example = tuple[Tensor, Tensor, list[Row]]


class SceneExamples(Dataset[Example]):
    """Example i: image (3, S, S), masks (P, S, S) of P drawn objects, a click or box for each.

    `uses` is how often each scene is used; `curriculum` the share of `length` examples over which
    the largest number of objects in a scene grows from 1 to 12.
    """

    def __init__(
        self, seed: int, length: int, size: int, prompts: int, uses: int, curriculum: float
    ) -> None:
        self.seed, self.length, self.size, self.prompts = seed, length, size, prompts
        self.uses, self.curriculum = uses, curriculum
        self._kept: dict[int, tuple[int, Scene]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        place = index % WINDOW
        number = index // (WINDOW * self.uses) * WINDOW + place
        if self._kept.get(place, (-1,))[0] != number:
            self._kept[place] = (number, self._paint(number))
        scene = self._kept[place][1]
        rng = np.random.default_rng((self.seed, index, 7))
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        image = _turned(scene.image, turns, mirrored)
        drawn = rng.choice(scene.prompted(), self.prompts)
        objects = _turned(scene.objects, turns, mirrored)
        masks = np.stack([objects == chosen for chosen in drawn])
        rows = [draw_prompt(mask, bool(rng.random() < 0.5), rng) for mask in masks]
        return torch.from_numpy(image), torch.from_numpy(masks), rows

    def _paint(self, number: int) -> Scene:
        progress = ramp(number * self.uses / self.length, self.curriculum)
        most = 1 + round((MOST_OBJECTS - 1) * progress)
        count = int(np.random.default_rng((self.seed, number, 5)).integers(1, most + 1))
        return generate_scene(self.seed, number, self.size, count)


def _turned(picture: NDArray[np.generic], turns: int, mirrored: bool) -> NDArray[np.generic]:
    """`picture (..., S, S)` turned by quarters, then mirrored."""
    turned = np.rot90(picture, turns, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)


def draw_prompt(mask: NDArray[np.bool_], box: bool, rng: np.random.Generator) -> Row:
    """A jittered box or a random click."""
    if not box:
        return [random_click(mask, rng)], [1], None
    x0, y0, x1, y1 = tight_box(mask)
    width, height = x1 - x0 + 1, y1 - y0 + 1
    jitter = rng.normal(0, BOX_JITTER, 4) * (width, height, width, height)
    return [], [], (x0 + jitter[0], y0 + jitter[1], x1 + jitter[2], y1 + jitter[3])


def join_examples(examples: Sequence[Example]) -> tuple[Tensor, Tensor, list[Row]]:
    """Images (B, 3, S, S), masks (B * P, S, S), B * P prompts."""
    images, masks, rows = zip(*examples, strict=True)
    return torch.stack(images), torch.cat(masks), [row for group in rows for row in group]


def ramp(progress: float, share: float) -> float:
    """From 0 to 1 over the first `share` of the run; 1 when there is no such share."""
    return min(1.0, progress / share) if share else 1.0
