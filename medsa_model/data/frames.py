"""Training batches: framed images with prompts, a function of (seed, site, round, step).

Decoding and resizing are done once per case; frames are kept in memory as 8-bit images.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import Framed, draw_variant, turned
from medsa_model.data.volume_frames import FramedVolume
from medsa_model.prompts import Prompt, PromptSection, Row, choose, collate


@dataclass(frozen=True)
class Batch:
    """Images or volumes and what is asked about them.

    `image (B, 3, S, S)` or `(B, 3, D, S, S) float32 in [0, 255]`; N prompts, each with its `mask
    (N, S, S) bool`; `owner (N) int64`, the image of each, slices counted through (b * D + d);
    `seed` of what is drawn while training, such as corrections. `keys`: of each image or slice,
    slices counted as by `owner`, its case and its variant; equal keys have equal pixels. Empty when
    pixels have no second use.
    """

    image: Tensor
    mask: Tensor
    prompt: Prompt
    owner: Tensor
    seed: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()

    def pinned(self, device: torch.device) -> "Batch":
        """The same batch, for a CUDA device in pinned memory, from which copies need no waiting."""
        if device.type != "cuda":
            return self
        with torch.cuda.device(device):  # a thread knows of no other device than the first
            return replace(
                self, image=self.image.pin_memory(), mask=self.mask.pin_memory(),
                prompt=self.prompt.each(Tensor.pin_memory), owner=self.owner.pin_memory(),
            )  # fmt: skip


Frame = TypeVar("Frame", Framed, FramedVolume)
Kept = dict[tuple[str, int], Any]


class Frames(Sequence[Frame]):
    """The cases of one site in the model frame of `size` pixels, read at first use and kept.

    `kept` may be shared by several: it holds frames by case and size. `frame` makes them. `threads`
    read beside each other what `read` is asked for; 0: one case is read after the other.
    """

    def __init__(
        self, cases: Sequence[Case], size: int, frame: Callable[[Sample, int], Frame],
        kept: Kept | None = None, threads: int = 0,
    ) -> None:  # fmt: skip
        self.cases, self.size, self.threads = cases, size, threads
        self.frame: Callable[[Sample, int], Frame] = frame
        self._kept = {} if kept is None else kept
        self._reading = Lock()  # no case twice, when several batches are prepared at once

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> Frame:  # type: ignore[override]
        key = (self.cases[number].case, self.size)
        if key not in self._kept:
            self.read([number])
        return self._kept[key]  # type: ignore[no-any-return]

    def read(self, numbers: Iterable[int]) -> None:
        """Read what is not kept yet of the cases `numbers`.

        Of several that cannot be read the first raises its error.
        """
        with self._reading:
            asked = {(self.cases[n].case, self.size): self.cases[n] for n in numbers}
            missing = {key: case for key, case in asked.items() if key not in self._kept}
            if self.threads and len(missing) > 1:
                with ThreadPoolExecutor(min(self.threads, len(missing)), "reading") as pool:
                    frames = pool.map(self._load, missing.values())
                    self._kept.update(zip(missing, frames, strict=True))
                return
            for key, case in missing.items():
                self._kept[key] = self._load(case)

    def _load(self, case: Case) -> Frame:
        return self.frame(case.load(), self.size)


class TrainingBatches(Dataset[Batch]):
    """Item `step` is the batch of that local step, drawn from the stream `seed` of a round.

    Cases are drawn without replacement until all were used, then shuffled again, and the order goes
    on from round to round: over a run, numbers of uses differ by one at most. Each image gets
    `prompts` prompts: a random one of its structures, a random kind of `kinds`.
    """

    slices = 1
    """Of an image, which is no volume."""

    def __init__(
        self,
        frames: Frames[Framed],
        kinds: Sequence[PromptSection],
        steps: int,
        batch_size: int,
        prompts: int,
        augmented: bool,
        seed: tuple[int, int, int],
    ) -> None:
        """`seed` is (run, site, round)."""
        self.frames, self.kinds, self.prompts = frames, kinds, prompts
        self.augmented, self.seed = augmented, seed
        self.order = round_order(len(frames), steps, batch_size, seed)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Batch:
        generator = np.random.default_rng((*self.seed, 1, step))
        return self.draw(self.order[step], generator, (*self.seed, 2, step))

    def draw(
        self, numbers: Iterable[int], rng: np.random.Generator, seed: tuple[int, ...]
    ) -> Batch:
        """The batch of the cases `numbers`, each of which may be there several times."""
        images: list[Tensor] = []
        masks: list[Tensor] = []
        rows: list[Row] = []
        classes: list[int] = []
        keys: list[str] = []
        numbers = [int(number) for number in numbers]
        self.frames.read(numbers)
        for number in numbers:
            frame = self.frames[number]
            variant = draw_variant(rng) if self.augmented else 0
            image, mask = turned(frame.image, variant), turned(frame.mask, variant)
            images.append(image)
            keys.append(key_of(self.frames.cases[number], variant))
            present = mask.flatten(1).any(1).nonzero()[:, 0].tolist() or [0]
            for _ in range(self.prompts):
                channel = present[rng.integers(len(present))]
                masks.append(mask[channel])
                kind = choose(self.kinds, rng)
                rows.append(kind.draw(mask[channel].numpy(), rng))
                # an image may be empty because nobody annotated it: there no name is asked for
                named = kind.by_class and bool(mask[channel].any())
                classes.append(channel if named else -1)
        owner = torch.arange(len(images)).repeat_interleave(self.prompts)
        prompt = collate(rows, classes)
        image = torch.stack(images).float()
        return Batch(image, torch.stack(masks), prompt, owner, seed, tuple(keys))


def key_of(case: Case, number: int) -> str:
    """What tells the pixels of a case from all others of a site: `number` is the variant of an
    image (0: as it is), or the slice of a volume.
    """
    return f"{number}:{case.case}"


def round_order(
    cases: int, steps: int, batch_size: int, seed: tuple[int, int, int]
) -> NDArray[np.int64]:
    """Which of `cases` cases every local step of a round uses, (steps, cases of a batch) int64.

    `seed` is (run, site, round). A batch has `batch_size` cases, or all when they are fewer; a
    round goes on in the endless order of its site where the one before has ended.
    """
    size = min(batch_size, cases)
    *stream, round_ = seed
    first = round_ * steps * size
    return endless_order(cases, first, steps * size, stream).reshape(steps, size)


def endless_order(cases: int, first: int, count: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Positions `first` to `first + count` of an endless order of `cases` cases.

    It is one shuffled pass over all cases after the other, a function of `seed`.
    """
    passes = range(first // cases, -(-(first + count) // cases))
    orders = [np.random.default_rng((*seed, 0, number)).permutation(cases) for number in passes]
    start = first - passes.start * cases
    return np.concatenate(orders)[start : start + count]
