"""Made-up patients, on which gradients are compared before any real one is drawn."""

from collections.abc import Sequence

import numpy as np
import torch

from medsa_model.data.frames import Batch
from medsa_model.prompts import PromptSection, Row, collate, widened

PATIENTS = 2


def made_up(
    part: Sequence[int], size: int, kinds: Sequence[PromptSection], views: int, structures: int
) -> Batch:
    """Batch of the patients `part`, each a function of its number: noise with every kind of prompt.

    Every patient has `views` images (3, size, size), on each of which all `kinds` of prompt ask for
    half of it. `structures` is how many can be asked for by name.
    """
    images, masks, rows, classes = [], [], list[Row](), list[int]()
    for patient in part:
        generator = np.random.default_rng(patient)
        for view in range(views):
            images.append(torch.from_numpy(generator.uniform(0, 255, (3, size, size))).float())
            mask = np.zeros((size, size), bool)
            mask[size // 4 : size // 2 + patient, view : size // 2] = True
            for kind in kinds:
                rows.append(kind.draw(mask, generator))
                classes.append(patient % structures if kind.by_class else -1)
                masks.append(torch.from_numpy(mask))
    owner = torch.arange(len(images)).repeat_interleave(len(kinds))
    prompt = widened(collate(rows, classes), kinds)
    return Batch(torch.stack(images), torch.stack(masks), prompt, owner, (0,))
