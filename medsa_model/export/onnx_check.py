"""What onnxruntime computes with exported graphs, compared with PyTorch on the same inputs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medsa_model.export.onnx_graphs import graph_prompt
from medsa_model.prompts import Prompt
from medsa_model.sam import MedSam

SIZES = (1, 3)  # of batches; of the slices of a volume one more, since one alone has no depth


@dataclass(frozen=True)
class Differences:
    """The largest absolute differences found, and how many `comparisons` there were."""

    embedding: float
    logits: float
    iou: float
    comparisons: int


@torch.no_grad()
def compare(model: MedSam, encoder: Path, decoder: Path, volumes: bool) -> Differences:
    """Both graphs one after the other, as they will be used, against `model`, float32.

    Made-up pictures in batches of several sizes, each with several numbers of clicks, with and
    without boxes and names, some rows of them missing. `volumes`: the encoder takes the slices of a
    volume together.
    """
    first, second = _session(encoder), _session(decoder)
    worst: tuple[float, ...] = (0.0, 0.0, 0.0)
    comparisons = 0
    for size in SIZES:
        image = _pictures(size + volumes, model.image_size)
        if volumes:
            image = image.transpose(0, 1)[None].contiguous()
            embedding = model.encode_volume(image)[0]
        else:
            embedding = model.encode(image)
        (found,) = _run(first, {"image": image})
        off_embedding = _difference(found, embedding)
        for prompt in _prompts(len(embedding), model):
            masks, iou = model.decode(embedding, prompt)
            given = {"embedding": torch.from_numpy(found), **vars(graph_prompt(prompt))}
            logits, found_iou = _run(second, given)
            of_logits = _difference(logits, model.to_frame(masks))
            off = (off_embedding, of_logits, _difference(found_iou, iou))
            worst = tuple(max(pair) for pair in zip(worst, off, strict=True))
            comparisons += 1
    return Differences(worst[0], worst[1], worst[2], comparisons)


def _session(path: Path) -> Any:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: Any, given: Mapping[str, Tensor]) -> list[NDArray[np.float32]]:
    wanted = {each.name for each in session.get_inputs()}
    feeds = {name: value.numpy() for name, value in given.items() if name in wanted}
    answers: list[NDArray[np.float32]] = session.run(None, feeds)
    return answers


def _difference(found: NDArray[np.float32], expected: Tensor) -> float:
    """The largest; infinite for another shape or numbers that are not finite."""
    if found.shape != expected.shape:
        return float("inf")
    largest = float(np.abs(found - expected.numpy()).max())
    return largest if np.isfinite(largest) else float("inf")


def _pictures(count: int, size: int) -> Tensor:
    """Smooth made-up pictures (count, 3, size, size) float32, whole numbers in [0, 255]."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
    return (255 * F.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1)).round()


def _prompts(count: int, model: MedSam) -> Iterator[Prompt]:
    """Every combination of clicks, boxes and names for `count` rows; the last row lacks some."""
    draw = torch.Generator().manual_seed(count)
    known = 0 if model.class_embedding is None else model.class_embedding.num_embeddings
    for clicks, boxed, named in product((0, 1, 4), (False, True), (False, True)[: 1 + bool(known)]):
        points = torch.rand(count, clicks, 2, generator=draw) * (model.image_size - 1)
        labels = torch.randint(0, 2, (count, clicks), generator=draw)
        low = torch.rand(count, 2, generator=draw) * model.image_size / 2
        boxes = torch.cat([low, low + model.image_size / 3], 1)
        classes = torch.arange(count) % max(known, 1)
        if count > 1:
            labels[-1, 1:], boxes[-1], classes[-1] = -1, torch.nan, -1
        yield Prompt(points, labels, boxes if boxed else None, classes if named else None)
