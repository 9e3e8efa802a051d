"""Make the embedded backbone `vit_tiny`: pre-train a small SAM on generated scenes.

    python -m medsa_model.pretrain --steps 20000 --out runs/pretrain

Each step encodes a batch of scenes once and decodes several prompts an image: a random click, a
jittered box, or (one step in four) a prompt corrected by a click where the first answer was wrong.
Over the first `--curriculum` share of the run the number of objects grows from 1 to 12 and the
loss goes from class-balanced to plain; a start from noise collapses without.

What is written to `--out`: `vit_tiny.safetensors` (float16, moving average of the weights),
`vit_tiny.json` (the card: command, seed, steps, time, scores), `state.safetensors` (to go on with
the same command after an interruption).
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medsa_model.backbone import file_sha256, initialise
from medsa_model.device import autocast, choose_device
from medsa_model.held_out import score_held_out
from medsa_model.prompts import Row, collate, corrective_click
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam
from medsa_model.scene_examples import SceneExamples, join_examples, ramp

SIZE = ARCHITECTURES["vit_tiny"].pretrained_size
AVERAGE = 0.999  # decay of the moving average of the weights
CORRECTED = 0.25  # share of steps with a corrective click


def loss_of(logits: Tensor, iou: Tensor, masks: Tensor, balance: float) -> Tensor:
    """Dice + cross-entropy (`balance` 1: class-balanced, 0: plain) + error of the predicted IoU.

    `logits (N, 1, h, w)`, `iou (N, 1)`, `masks (N, S, S) bool`: pooled to h x w as soft targets.
    """
    target = F.adaptive_avg_pool2d(masks[:, None].float(), (logits.shape[-2], logits.shape[-1]))
    probability = logits.sigmoid()
    shared = (probability * target).sum((1, 2, 3))
    dice = 1 - (2 * shared + 1) / (probability.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
    share = target.mean((1, 2, 3), keepdim=True).clamp(0.02, 0.98)
    balanced = torch.where(target > 0.5, (0.5 / share).clamp(max=8), 0.5 / (1 - share))
    weight = balance * balanced + (1 - balance)
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight=weight)
    with torch.no_grad():
        found, true = logits > 0, target > 0.5
        union = (found | true).sum((1, 2, 3)).clamp(min=1)
        reached = (found & true).sum((1, 2, 3)) / union
    return entropy + dice.mean() + 0.2 * F.mse_loss(iou[:, 0], reached)


def corrected(
    rows: list[Row], masks: Tensor, logits: Tensor, rng: np.random.Generator
) -> list[Row]:
    """Add a second click where the first answer `logits (N, 1, S, S)` was wrong."""
    result = []
    for (points, labels, box), mask, answer in zip(rows, masks.numpy(), logits[:, 0], strict=True):
        click = corrective_click(mask, (answer > 0).numpy(), rng)
        if click:
            points, labels = [*points, click[0]], [*labels, click[1]]
        result.append((points, labels, box))
    return result


def _save_state(path: Path, step: int, seconds: float, model: MedSam, average: dict[str, Tensor],
                optimizer: torch.optim.Optimizer) -> None:  # fmt: skip
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{number}/{slot}": value for slot, value in slots.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, {"step": str(step), "seconds": str(seconds)})
    temporary.replace(path)


def _load_state(path: Path, model: MedSam, average: dict[str, Tensor],
                optimizer: torch.optim.Optimizer) -> tuple[int, float]:  # fmt: skip
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model/")})
    for name in average:
        average[name].copy_(tensors[f"average/{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam/"):
            _, number, slot = name.split("/")
            state.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"]), float(metadata["seconds"])


def pretrain(out: Path, steps: int, batch: int, prompts: int, uses: int, rate: float, seed: int,
             workers: int, save_every: int, initial: Path | None, curriculum: float,
             held_out: int) -> None:  # fmt: skip
    """The whole run; goes on from `out/state.safetensors` when that exists."""
    device = choose_device("auto")
    torch.manual_seed(seed)
    model = MedSam(build_sam(ARCHITECTURES["vit_tiny"], SIZE), rasterised_prompts=True).to(device)
    initialise(model.sam)
    if initial:
        model.sam.load_state_dict({n: t.float() for n, t in load_file(initial).items()})
    model.train()
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, weight_decay=0.02, betas=(0.9, 0.98), fused=True
    )
    first, before, state_file = 0, 0.0, out / "state.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    if state_file.exists():
        first, before = _load_state(state_file, model, average, optimizer)
    started = time.monotonic()

    def batches() -> Iterator[tuple[Tensor, Tensor, list[Row]]]:
        order = range(first * batch, steps * batch)
        examples = SceneExamples(seed, steps * batch, SIZE, prompts, uses, curriculum)
        yield from DataLoader(examples, batch, sampler=order, num_workers=workers,
                              collate_fn=join_examples,
                              prefetch_factor=4 if workers else None)  # fmt: skip

    running = 0.0
    for step, (images, masks, rows) in enumerate(batches(), start=first):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * _cosine(progress))
        rng = np.random.default_rng((seed, step, 11))
        with autocast(device, "auto"):
            embedding = model.encode(images.to(device)).repeat_interleave(prompts, 0)
            if rng.random() < CORRECTED:
                with torch.no_grad():
                    answer = model.decode(embedding.detach(), collate(rows).to(device))[0]
                rows = corrected(rows, masks, model.to_frame(answer).cpu(), rng)
            logits, iou = model.decode(embedding, collate(rows).to(device))
        loss = loss_of(
            logits.float(), iou.float(), masks.to(device), 1 - ramp(progress, curriculum)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.values()), list(model.state_dict().values()), 1 - decay
            )
        running += 0.02 * (loss.item() - running) if step > first else loss.item()
        seconds = before + time.monotonic() - started
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}  loss {running:.3f}  {seconds:.0f} s", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            _save_state(state_file, step + 1, seconds, model, average, optimizer)
            last = step + 1 == steps
            _write_backbone(out, average, held_out if last else 64, {
                "steps": step + 1, "images": (step + 1) * batch, "uses_of_a_scene": uses,
                "seconds": round(seconds), "prompts_per_image": prompts, "seed": seed,
                "finished": last, "initial": _lineage(initial)})  # fmt: skip


def _lineage(initial: Path | None) -> dict[str, object] | None:
    """What a run started from: the hash of the file and the card beside it, when there is one."""
    if initial is None:
        return None
    card = initial.with_suffix(".json")
    known = json.loads(card.read_text()) if card.exists() else {}
    return {"sha256": file_sha256(initial), "card": known}


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _write_backbone(out: Path, average: dict[str, Tensor], held_out: int,
                    facts: dict[str, object]) -> None:  # fmt: skip
    """The float16 weights, and the card with scores of exactly these rounded weights."""
    weights = {n.removeprefix("sam."): t.half().cpu().contiguous() for n, t in average.items()}
    path = out / "vit_tiny.safetensors"
    save_file(weights, path, {"format": "pt"})
    device = choose_device("auto")
    rounded = MedSam(build_sam(ARCHITECTURES["vit_tiny"], SIZE), rasterised_prompts=True)
    rounded.sam.load_state_dict({n: t.float() for n, t in weights.items()})
    scores = score_held_out(rounded.to(device).eval(), held_out, device)
    card = {
        "name": "vit_tiny", "sha256": file_sha256(path), "image_size": SIZE,
        "parameters": sum(p.numel() for p in rounded.parameters()),
        "command": shlex.join(["python", "-m", "medsa_model.pretrain", *sys.argv[1:]]),
        "data": "generated scenes only (medsa_model/scenes.py); no medical image",
        **facts, "torch": torch.__version__,
        "held_out": {"scenes": held_out, "mean_iou": scores},
    }  # fmt: skip
    (out / "vit_tiny.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"held-out IoU of {held_out} scenes: {scores}", flush=True)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write to and resume from"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=8, help="scenes a step")
    parser.add_argument("--prompts", type=int, default=4, help="prompts a scene")
    parser.add_argument("--uses", type=int, default=3, help="how often a scene is used")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that paint scenes")
    parser.add_argument("--save-every", type=int, default=500, help="steps")
    parser.add_argument("--initial", type=Path, help="safetensors to start from instead of noise")
    parser.add_argument("--curriculum", type=float, default=0.6, help="share of the run; 0: none")
    parser.add_argument("--held-out", type=int, default=256, help="scenes of the final score")
    pretrain(**vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
