"""Pictures of test cases for the report: the image, the truth, and each row's answer.

Simulation only: in a real run no image leaves its site.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig
from medsa_model.data.sample import Case
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import fixed_prompts, predict, present_structures, score
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState, load_adapter_state

TILE = 192  # pixels of a tile's longer side
TRUTH, FOUND, CLICK = (0, 158, 115), (230, 159, 0), (86, 180, 233)  # Okabe-Ito


def write_examples(
    folder: Path,
    cases: Mapping[str, Sequence[Case]],
    states: Mapping[str, Mapping[str, AdapterState]],
    model: MedSam,
    config: RunConfig,
) -> None:
    """A strip per site and case: the image with the prompt, the truth, one tile for each row.

    `states` is by site, then by row. The strip shows the first structure and the main prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    for site, chosen in cases.items():
        for case in chosen:
            tiles, dice = _tiles(case, states[site], model, config)
            name = f"{site}_{len(entries):03d}.png"
            Image.fromarray(np.concatenate(tiles, axis=1)).save(folder / name)
            entries.append({"file": name, "site": site, "case": case.case,
                            "prompt": config.prompt.evaluate[0].name, "dice": dice})  # fmt: skip
    write_json(folder / "examples.json", entries)


def _tiles(
    case: Case, states: Mapping[str, AdapterState], model: MedSam, config: RunConfig
) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
    sample = case.load()
    frame = to_frame(sample, model.image_size)
    channels = present_structures(frame)
    kind = config.prompt.evaluate[0]
    image = _fit(
        Image.fromarray(sample.image.permute(1, 2, 0).round().clamp(0, 255).byte().numpy())
    )
    first = channels[0] if channels else 0
    points, _, box = fixed_prompts(kind, frame, [first], config.seed, case.case)[0]
    truth = _fit_mask(sample.mask[first].numpy())
    prompted = _with_prompt(image, points, box, TILE / model.image_size)
    tiles = [prompted, _outlined(image, truth, TRUTH)]
    dice = {}
    for row, state in states.items():
        load_adapter_state(model, state)
        predictions = predict(model, case, [kind], config.seed, config.train.precision)
        if not predictions:
            continue
        dice[row] = fmean(each.dice for each in score(predictions[0]))
        found = _fit_mask(predictions[0].found[0].numpy())
        tiles.append(_outlined(_outlined(image, truth, TRUTH), found, FOUND))
    return [_framed(tile) for tile in tiles], dice


def _fit(picture: Image.Image) -> NDArray[np.uint8]:
    """Shrunk or grown so that the longer side has TILE pixels: all drawing is done at this size."""
    factor = TILE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.resize(size))


def _fit_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return _fit(Image.fromarray(255 * mask.astype(np.uint8))) > 127


def _outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    edge = mask & ~ndimage.binary_erosion(mask)
    return np.where(edge[..., None], np.array(colour, np.uint8), image)


def _with_prompt(
    image: NDArray[np.uint8],
    points: Sequence[tuple[float, float]],
    box: tuple[float, float, float, float] | None,
    factor: float,
) -> NDArray[np.uint8]:
    """Draw clicks as dots and the box as a frame; `factor` is tile pixels per frame pixel."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), bool)
    y, x = np.mgrid[:height, :width]
    for px, py in points:
        mask |= np.hypot(x - (px + 0.5) * factor, y - (py + 0.5) * factor) < max(mask.shape) / 40
    if box is not None:
        x0, y0, x1, y1 = (v * factor for v in (box[0], box[1], box[2] + 1, box[3] + 1))
        whole = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        mask |= whole & ~ndimage.binary_erosion(whole)
    return np.where(mask[..., None], np.array(CLICK, np.uint8), image)


def _framed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In a white square a little larger than TILE."""
    square = Image.new("RGB", (TILE + 4, TILE + 4), "white")
    square.paste(Image.fromarray(image), (2, 2))
    return np.asarray(square)
