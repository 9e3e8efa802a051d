"""Training batches of volumes: runs of neighbouring slices with prompts, a function of the seed.

As in `frames`, cases are drawn without replacement over the whole run. Of a drawn volume a
structure is chosen at random among those that are annotated and present, and a run of slices around
one that shows it: most slices of a volume show no small organ at all.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medsa_model.data.frames import Batch, Frames, key_of, round_order
from medsa_model.data.volume_frames import FramedVolume
from medsa_model.prompts import PromptSection, Row, choose, collate

BRIGHTER, SHIFTED = 0.1, 10.0  # largest change of contrast (share) and of brightness (grey levels)


class VolumeBatches(Dataset[Batch]):
    """Item `step` is the batch of that local step, drawn from the stream `seed` of a round.

    A batch has `slices` neighbouring slices of each volume, or as many as its shortest volume has.
    Each volume gets `prompts` structures, each with a random kind of `kinds`: a prompt on every
    slice that shows it, and for kinds that need no mask on the other slices too, where nothing
    is to be found.
    """

    def __init__(
        self,
        frames: Frames[FramedVolume],
        kinds: Sequence[PromptSection],
        steps: int,
        batch_size: int,
        prompts: int,
        augmented: bool,
        slices: int,
        seed: tuple[int, int, int],
    ) -> None:
        """`seed` is (run, site, round)."""
        self.frames, self.kinds, self.prompts, self.slices = frames, kinds, prompts, slices
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
        """The batch of the cases `numbers`, each of which may be there several times.

        Brightness and contrast are hardly ever drawn twice: with them there are no keys.
        """
        numbers = [int(number) for number in numbers]
        self.frames.read(numbers)
        volumes = [self.frames[number] for number in numbers]
        depth = min(self.slices, *(len(volume.image) for volume in volumes))
        images: list[Tensor] = []
        masks: list[Tensor] = []
        rows: list[Row] = []
        classes: list[int] = []
        owner: list[int] = []
        keys: list[str] = []
        for number, volume in enumerate(volumes):
            start = choose_run(volume, depth, rng)
            stop = start + depth
            if not self.augmented:
                case = self.frames.cases[numbers[number]]
                keys += [key_of(case, place) for place in range(start, stop)]
            image = volume.image[start:stop].float()
            if self.augmented:
                image = image * rng.uniform(1 - BRIGHTER, 1 + BRIGHTER)
                image = (image + rng.uniform(-SHIFTED, SHIFTED)).clamp(0, 255)
            images.append(image.expand(3, -1, -1, -1))
            present = volume.shown[:, start:stop].any(1) & volume.labelled
            shown = present.nonzero()[:, 0].tolist()
            for _ in range(self.prompts):
                kind = choose(self.kinds, rng)
                among = volume.labelled.nonzero()[:, 0].tolist() if kind.everywhere else shown
                if not among:
                    continue
                structure = among[int(rng.integers(len(among)))]
                for place, plane in enumerate(volume.mask(structure, start, stop)):
                    if kind.everywhere or bool(volume.shown[structure, start + place]):
                        rows.append(kind.draw(plane.numpy(), rng))
                        classes.append(structure if kind.by_class else -1)
                        masks.append(plane)
                        owner.append(number * depth + place)
        if not rows:  # nothing is there to ask for: an empty question with an empty answer
            rows, classes, owner = [([], [], None)], [-1], [0]
            masks = [torch.zeros(volumes[0].image.shape[1:], dtype=torch.bool)]
        prompt = collate(rows, classes)
        image, mask, owners = torch.stack(images), torch.stack(masks), torch.tensor(owner)
        return Batch(image, mask, prompt, owners, seed, tuple(keys))


def choose_run(volume: FramedVolume, depth: int, generator: np.random.Generator) -> int:
    """First slice of a run of `depth` slices around one that shows an annotated structure."""
    present = volume.shown & volume.labelled[:, None]
    structures = present.any(1).nonzero()[:, 0].tolist()
    last = len(volume.image) - depth
    if not structures:
        return int(generator.integers(last + 1))
    shown = present[structures[int(generator.integers(len(structures)))]].nonzero()[:, 0]
    middle = int(shown[int(generator.integers(len(shown)))])
    return int(min(max(0, middle - int(generator.integers(depth))), last))
