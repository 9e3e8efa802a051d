"""The picture of a volume: the slice on which its first structure is largest, in proportions of mm.

The volume is segmented as in evaluation, but for this structure alone. What evaluation asks on the
slice is listened to there and not drawn again, so that the picture cannot show another prompt.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from medsa_model.config import RunConfig
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import resize_mask
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.evaluate import score
from medsa_model.evaluate_volumes import predict_volume
from medsa_model.overlay import fit, fit_mask, outlined
from medsa_model.prompts import Mask, PromptSection, Row
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState, load_adapter_state
from sim.example_tiles import FOUND, TILE, TRUTH, Strip, with_prompt, with_words


class Listener:
    """A kind of prompt that also keeps what it drew, and whether that was for `section (S, S)`."""

    def __init__(self, kind: PromptSection, section: Mask) -> None:
        self.name, self.weight, self.by_class = kind.name, kind.weight, kind.by_class
        self.everywhere, self.followed = kind.everywhere, kind.followed
        self.kind, self.section = kind, section
        self.drawn: list[tuple[Row, bool]] = []

    def draw(self, mask: Mask, generator: np.random.Generator) -> Row:
        """See `PromptSection.draw`."""
        row = self.kind.draw(mask, generator)
        self.drawn.append((row, np.array_equal(mask, self.section)))
        return row

    def on(self, slices: list[int], place: int) -> Row | None:
        """What was drawn on slice `place`, with the structure on `slices`; `None`: not known.

        One prompt for each of `slices` is theirs in order. Otherwise (followed, or slices at
        another distance) it is the only one that was drawn for this section, if there is one.
        """
        drawn = self.drawn
        if len(drawn) == len(slices):
            drawn = [drawn[slices.index(place)]]
        rows = [row for row, here in drawn if here]
        return rows[0] if len(rows) == 1 and (rows[0][0] or rows[0][2]) else None


def slice_strip(
    case: Case, states: Mapping[str, AdapterState], model: MedSam, config: RunConfig
) -> Strip | None:
    """The slice with its prompt, the truth, each row's answer there; `None` without a structure.

    The Dice is that of the structure in the whole volume. A prompt that is not drawn on the slice
    is told in words.
    """
    sample = case.load()
    shown = sample.mask.flatten(1).any(1).nonzero()[:, 0].tolist()
    if not shown or sample.spacing_mm is None:
        return None
    kind, structure, size = config.prompt.evaluate[0], shown[0], model.image_size
    areas = sample.mask[structure].flatten(1).sum(1)
    place, pixel = int(areas.argmax()), sample.spacing_mm[1:]
    grey = sample.image[0, place].round().clamp(0, 255).byte().numpy()
    image = fit(Image.fromarray(grey).convert("RGB"), TILE, pixel)
    truth = outlined(image, fit_mask(sample.mask[structure, place].numpy(), TILE, pixel), TRUTH)
    alone, section = _alone(sample, structure), _section(sample, structure, place, size)
    answers, dice, prompt = [], {}, None
    for row, state in states.items():
        load_adapter_state(model, state)
        listener = Listener(kind, section)
        predictions = predict_volume(
            model, replace(case, load=lambda: alone), [listener], config.seed,
            config.train.precision, config.volume,
        )  # fmt: skip
        if not predictions:
            continue
        prompt = listener.on(areas.nonzero()[:, 0].tolist(), place)
        answers.append(
            outlined(truth, fit_mask(predictions[0].found[0, place].numpy(), TILE, pixel), FOUND)
        )
        # without distances of surfaces, which take long and are not shown
        dice[row] = score(replace(predictions[0], spacing_mm=None))[0].dice
    name = config.data.classes[structure]
    # of an unprompted model and of a name nothing is drawn anywhere
    words = f"{kind.name}: {name}" if kind.by_class else kind.name
    words += "" if kind.everywhere else " (not shown)"
    asked = with_prompt(image, prompt, size) if prompt else with_words(image, words)
    where = f"{kind.name}, {name} on slice {place + 1} of {len(areas)}, Dice of all its slices"
    return Strip([asked, truth, *answers], where, dice)


def _alone(sample: Sample, structure: int) -> Sample:
    """The sample with one annotated structure, which keeps its number."""
    mask = torch.zeros_like(sample.mask)
    mask[structure] = sample.mask[structure]
    labelled = tuple(number == structure for number in range(len(mask)))
    return replace(sample, mask=mask, labelled=labelled)


def _section(sample: Sample, structure: int, place: int, size: int) -> Mask:
    """One slice of a structure in the model frame (S, S)."""
    one = slice(place, place + 1)
    alone = replace(sample, image=sample.image[:, one], mask=sample.mask[:, one])
    height, width = to_volume_frame(alone, size, None).content
    section = np.zeros((size, size), bool)
    resized = resize_mask(sample.mask[structure, one], (height, width))
    section[:height, :width] = resized[0].numpy()
    return section
