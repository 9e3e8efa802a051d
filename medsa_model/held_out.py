"""How good the embedded backbone is on generated scenes that it was never trained on.

    python -m medsa_model.held_out

Prints what `weights/vit_tiny.json` says under `held_out`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medsa_model.backbone import load_base
from medsa_model.device import choose_device
from medsa_model.prompts import collate, inscribed_ellipse
from medsa_model.sam import ARCHITECTURES, MedSam
from medsa_model.scene_examples import draw_prompt
from medsa_model.scenes import generate_scene

HELD_OUT_STREAM = 1_000_003  # scenes of this stream are never trained on


@torch.no_grad()
def score_held_out(model: MedSam, scenes: int, device: torch.device) -> dict[str, float]:
    """Mean IoU on held-out scenes of 4 to 12 objects: 4 objects each, one click or jittered box.

    `ellipse_in_box` is what drawing an ellipse into the same box gets, without the image.
    """
    totals: dict[str, list[float]] = {"click": [], "box": [], "ellipse_in_box": []}
    size = model.image_size
    for start in range(0, scenes, 16):
        images, masks, rows = [], [], []
        for index in range(start, min(start + 16, scenes)):
            scene = generate_scene(HELD_OUT_STREAM, index, size)
            rng = np.random.default_rng((HELD_OUT_STREAM, index, 7))
            chosen = [scene.objects == n for n in rng.choice(scene.prompted(), 4)]
            images.append(torch.from_numpy(scene.image))
            masks += chosen
            rows += [(draw_prompt(m, False, rng), draw_prompt(m, True, rng)) for m in chosen]
        embedding = model.encode(torch.stack(images).to(device)).repeat_interleave(4, 0)
        truth = torch.from_numpy(np.stack(masks))
        for kind, name in enumerate(("click", "box")):
            prompt = collate([pair[kind] for pair in rows]).to(device)
            found = (model.to_frame(model.decode(embedding, prompt)[0])[:, 0] > 0).cpu()
            totals[name] += _iou(found, truth)
        boxes = [box for _, (_, _, box) in rows if box is not None]
        ellipses = np.stack([inscribed_ellipse(box, (size, size)) for box in boxes])
        totals["ellipse_in_box"] += _iou(torch.from_numpy(ellipses), truth)
    return {name: round(float(np.mean(values)), 4) for name, values in totals.items()}


def _iou(found: Tensor, truth: Tensor) -> list[float]:
    shared = (found & truth).sum((1, 2)).double()
    return list((shared / (found | truth).sum((1, 2)).clamp(min=1)).tolist())


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--weights", type=Path, help="another file of vit_tiny's form")
    options = parser.parse_args(arguments)
    device = choose_device("auto")
    size = ARCHITECTURES["vit_tiny"].pretrained_size
    model = load_base("vit_tiny", size, options.weights, "pretrained", 0).model.to(device)
    for name, value in score_held_out(model, options.scenes, device).items():
        print(f"{name:15} mean IoU {value:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
