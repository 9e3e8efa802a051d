"""Membership inference: can the losses of trained models tell on what they were trained?

The likelihood-ratio attack (LiRA) of Carlini et al. 2022, "Membership inference attacks from first
principles", arXiv:2112.03570, in small: models of the run's own kind are trained on random halves
of generated images whose masks are random, so that only memorising helps; each model in turn is
attacked, with the others as its shadows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, norm
from torch import nn

from medsa_model.data.frames import Frames, Kept, TrainingBatches
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import to_frame
from medsa_model.privacy.fit import fit_privately
from medsa_model.privacy.patients import patients_of
from medsa_model.privacy.section import Privacy
from medsa_model.prompts import Click
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState, load_adapter_state
from medsa_model.train import Train, batch_loss, fit

Values = NDArray[np.float64]
Inside = NDArray[np.bool_]
FALSE_POSITIVES = 0.05
CELLS = 4  # of a random mask, on each side
QUESTIONS = 4  # clicks on an image whose mean loss is its loss


@dataclass(frozen=True)
class Membership:
    """How well the attacks tell trained images from others; 0.5 is guessing for the areas.

    `loss_auc` is the area under the curve of the loss alone, `auc` that of the likelihood ratio,
    `true_positives` its share of trained images found at a false positive rate of 5 %. `gap` is
    the mean loss of images outside minus that of images inside.
    """

    loss_auc: float
    auc: float
    true_positives: float
    gap: float


def measure(losses: Values, inside: Inside) -> Membership:
    """Attack every model. `losses` and `inside` are (models, images)."""
    ratios = likelihood_ratios(losses, inside)
    return Membership(
        area(-losses, inside),
        area(ratios, inside),
        true_positive_rate(ratios, inside, FALSE_POSITIVES),
        float(losses[~inside].mean() - losses[inside].mean()),
    )


def likelihood_ratios(losses: Values, inside: Inside) -> Values:
    """Log of how much likelier each loss is of an image inside than outside, (models, images).

    Losses are made more Gaussian as the paper does it: with p = exp(-loss), log(p / (1 - p)). The
    means are each image's own, over the other models; there are too few for variances, which are
    taken over all images. Raises `ValueError` unless each image is inside of two models and
    outside of two.
    """
    if not bool(((inside.sum(0) >= 2) & ((~inside).sum(0) >= 2)).all()):
        raise ValueError("each image has to be inside of two models and outside of two")
    confidence = -np.log(np.expm1(np.maximum(losses, 1e-9)))
    result = np.empty_like(losses)
    for model in range(len(losses)):
        others = np.arange(len(losses)) != model
        logs = []
        for chosen in (inside[others], ~inside[others]):
            values = np.ma.array(confidence[others], mask=~chosen)
            means = values.mean(0)
            # each image's own mean takes a degree of freedom
            free = chosen.sum() - chosen.shape[1]
            spread = np.sqrt(float(((values - means) ** 2).sum()) / free)
            logs.append(norm.logpdf(confidence[model], means.filled(np.nan), max(spread, 1e-9)))
        result[model] = logs[0] - logs[1]
    return result


def area(scores: Values, inside: Inside) -> float:
    """Area under the ROC curve: how often a score inside is above one outside; equal is half."""
    found = mannwhitneyu(scores[inside], scores[~inside])
    return float(found.statistic / (inside.sum() * (~inside).sum()))


def true_positive_rate(scores: Values, inside: Inside, false_positives: float) -> float:
    """Share of scores inside above the threshold which at most `false_positives` of others pass."""
    threshold = np.quantile(scores[~inside], 1 - false_positives, method="higher")
    return float((scores[inside] > threshold).mean())


def halves(models: int, images: int, seed: int) -> Inside:
    """Which images are inside of which model: each in half of an even number of `models`."""
    order = np.random.default_rng(seed).random((models, images)).argsort(0)
    return order < models // 2


def memorable_cases(count: int, size: int, seed: int) -> list[Case]:
    """Generated images of `size` pixels, noise in coarse cells; masks have nothing to do with them.

    Nothing can be learnt of an image's mask but by having seen it.
    """

    def sample(number: int) -> Sample:
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        colours = 255 * torch.rand(1, 3, 2 * CELLS, 2 * CELLS, generator=generator)
        image = F.interpolate(colours, (size, size), mode="nearest")[0]
        cells = torch.rand(1, 1, CELLS, CELLS, generator=generator)
        cells = (cells > cells.median()).float()
        mask = F.interpolate(cells, (size, size), mode="nearest")[0] > 0.5
        return Sample(image, mask, f"image {number}", f"image {number}")

    def case(number: int) -> Case:
        name = f"image {number}"
        return Case(name, name, None, None, lambda: sample(number))

    return [case(number) for number in range(count)]


def shadow_losses(
    model: MedSam,
    initial: AdapterState,
    cases: Sequence[Case],
    inside: Inside,
    loss: nn.Module,
    train: Train,
    steps: int,
    privacy: Privacy | None = None,
    noise_multiplier: float = 0.0,
) -> Values:
    """Losses (models, images) of `cases` under models trained on those that are `inside`.

    Each begins at `initial` and takes `steps` steps, by `fit_privately` with `privacy`, else by
    `fit`. At the end `model` has the adapters of the last one.
    """
    kept: Kept = {}
    kinds = (Click(),)
    everything = Frames(cases, model.image_size, to_frame, kept)
    asked = TrainingBatches(everything, kinds, 1, 1, QUESTIONS, False, (0, 0, 0))
    questions = [
        asked.draw([number], np.random.default_rng(number), (number,))
        for number in range(len(cases))
    ]
    losses = np.empty(inside.shape)
    for number, chosen in enumerate(inside):
        load_adapter_state(model, initial)
        own = [case for case, used in zip(cases, chosen, strict=True) if used]
        batches = TrainingBatches(
            Frames(own, model.image_size, to_frame, kept), kinds, steps, train.batch_size,
            train.prompts_per_image, train.augment, (0, 0, number),
        )  # fmt: skip
        if privacy:
            fit_privately(
                model, batches, patients_of(own), loss, train, privacy, noise_multiplier, steps, 0.0
            )
        else:
            fit(model, batches, loss, train, 0.0)
        with torch.no_grad():
            losses[number] = [
                float(batch_loss(model, question, loss, model.sam.device)) for question in questions
            ]
    return losses
