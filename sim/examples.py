"""Pictures of test cases for the report: the image, the truth, and each row's answer.

Simulation only: in a real run no image leaves its site.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image

from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig
from medsa_model.data.sample import Case
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import fixed_prompts, predict, present_structures, score
from medsa_model.overlay import fit, fit_mask, outlined
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState, load_adapter_state
from sim.example_slices import slice_strip
from sim.example_tiles import FOUND, TILE, TRUTH, Strip, with_prompt


def write_examples(
    folder: Path,
    cases: Mapping[str, Sequence[Case]],
    states: Mapping[str, Mapping[str, AdapterState]],
    model: MedSam,
    config: RunConfig,
) -> None:
    """A strip per site and case: the image with the prompt, the truth, one tile for each row.

    `states` is by site, then by row. The strip shows the first structure and the main prompt, of a
    volume one slice. A volume without a structure has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    for site, chosen in cases.items():
        for case in chosen:
            draw = slice_strip if case.volume else _image_strip
            strip = draw(case, states[site], model, config)
            if strip is None:
                continue
            name = f"{site}_{len(entries):03d}.png"
            strip.picture().save(folder / name)
            entries.append({"file": name, "site": site, "case": case.case,
                            "prompt": strip.prompt, "dice": strip.dice})  # fmt: skip
    write_json(folder / "examples.json", entries)


def _image_strip(
    case: Case, states: Mapping[str, AdapterState], model: MedSam, config: RunConfig
) -> Strip:
    sample = case.load()
    frame = to_frame(sample, model.image_size)
    channels = present_structures(frame)
    kind = config.prompt.evaluate[0]
    colours = sample.image.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    image = fit(Image.fromarray(colours), TILE)
    first = channels[0] if channels else 0
    prompt = fixed_prompts(kind, frame, [first], config.seed, case.case)[0]
    truth = outlined(image, fit_mask(sample.mask[first].numpy(), TILE), TRUTH)
    tiles = [with_prompt(image, prompt, model.image_size), truth]
    dice = {}
    for row, state in states.items():
        load_adapter_state(model, state)
        predictions = predict(model, case, [kind], config.seed, config.train.precision)
        if not predictions:
            continue
        dice[row] = fmean(each.dice for each in score(predictions[0]))
        tiles.append(outlined(truth, fit_mask(predictions[0].found[0].numpy(), TILE), FOUND))
    return Strip(tiles, kind.name, dice)
