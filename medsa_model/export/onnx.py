"""An adapted model as two ONNX graphs, for programs without PyTorch.

    encoder.onnx   a picture, or the slices of a volume, to an embedding: once for an image
    decoder.onnx   an embedding and a prompt to logits: once for a prompt
    model.json     what goes in and out, in numbers
    README.md      the same for people, with an example

Backbone and adapters are inside, and SAM's pixel mean. Both are run by onnxruntime before they are
handed over, and refused when the answers are not PyTorch's.
"""

import importlib.metadata
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn

from medsa_model import __version__
from medsa_model.checkpoint import write_json
from medsa_model.errors import CheckpointError, ConfigError
from medsa_model.export.adapter_folder import check_new
from medsa_model.export.onnx_check import Differences, compare
from medsa_model.export.onnx_graphs import DecoderGraph, EncoderGraph
from medsa_model.sam import MedSam
from medsa_model.task import Task
from medsa_model.trained import Trained, build_trained
from medsa_model.volume_chunks import sees_other_slices

OPSET = 18
MOST = 1e-3
"""Largest difference of logits and of the predicted IoU from PyTorch's; a mask is where a logit is
above 0."""
MOST_IN_FILE = 1_900_000_000
"""Bytes of weights that fit in one file of protobuf; more go to a second file beside it."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")

Axes = Mapping[str, Mapping[int, str]]
"""Input -> axis -> name, of the axes that may have any length."""


def write_onnx(trained: Trained, checkpoint: Path | None, out: Path) -> list[str]:
    """Write the files above into the folder `out`, checked; returns lines about them.

    `checkpoint` is the backbone's file, of the embedded one none. Raises `ConfigError` when the
    packages of the extra `onnx` are missing, `CheckpointError` when the graphs differ from the
    model: then nothing is left of them. `out` must be new or an empty folder.
    """
    _check_packages()
    check_new(out)
    model = build_trained(trained, checkpoint, torch.device("cpu")).model
    volumes = sees_other_slices(model)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        encoder, decoder = draft / "encoder.onnx", draft / "decoder.onnx"
        _export_encoder(model, encoder, volumes)
        _export_decoder(model, decoder)
        found = compare(model, encoder, decoder, volumes)
        if not (found.logits <= MOST and found.iou <= MOST):  # also when one is no number
            raise CheckpointError(
                "encoder.onnx and decoder.onnx answer otherwise than PyTorch: logits differ by up "
                f"to {found.logits:.3g}, the predicted IoU by {found.iou:.3g}, expected {MOST:g} "
                "at most. Nothing was written; constraints.txt has the versions of onnx, "
                "onnxscript and onnxruntime that were tested: install those"
            )
        facts = _facts(trained, model, volumes, found)
        write_json(draft / "model.json", facts)
        _write_readme(draft / "README.md", facts)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [
        *(f"{path}  {path.stat().st_size:,} bytes" for path in sorted(out.iterdir())),
        f"onnxruntime against PyTorch, {found.comparisons} comparisons: logits differ by "
        f"{found.logits:.2g} at most, the predicted IoU by {found.iou:.2g}",
    ]


def _check_packages() -> None:
    """Raise `ConfigError` when a package of the extra is missing."""
    missing = []
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not installed; ONNX graphs need the packages of the extra onnx: "
            'pip install -c constraints.txt -e ".[onnx]"'
        )


def _export_encoder(model: MedSam, path: Path, volumes: bool) -> None:
    size = model.image_size
    image = torch.zeros(1, 3, 3, size, size) if volumes else torch.zeros(3, 3, size, size)
    axes = {"image": {2: "slices"} if volumes else {0: "images"}}
    _export(EncoderGraph(model), {"image": image}, axes, ["embedding"], path)


def _export_decoder(model: MedSam, path: Path) -> None:
    """With example inputs whose free axes have different lengths, none of them 0 or 1."""
    architecture = model.sam.prompt_encoder
    given = {
        "embedding": torch.zeros(3, architecture.embed_dim, *architecture.image_embedding_size),
        "points": torch.zeros(3, 5, 2),
        "labels": torch.ones(3, 5, dtype=torch.int64),
        "boxes": torch.zeros(3, 2, 4),
    }
    axes = {
        "embedding": {0: "prompts"},
        "points": {0: "prompts", 1: "points"},
        "labels": {0: "prompts", 1: "points"},
        "boxes": {0: "prompts", 1: "boxes"},
    }
    if model.class_embedding is not None:
        given["classes"] = torch.zeros(3, 4, dtype=torch.int64)
        axes["classes"] = {0: "prompts", 1: "names"}
    _export(DecoderGraph(model), given, axes, ["logits", "iou"], path)


@torch.no_grad()
def _export(
    graph: nn.Module, given: Mapping[str, Tensor], axes: Axes, outputs: list[str], path: Path
) -> None:
    """One graph with the weights that it uses, without any trace of where it was made."""
    free = {name: torch.export.Dim(name, min=2) for each in axes.values() for name in each.values()}
    shapes = {name: {axis: free[n] for axis, n in each.items()} for name, each in axes.items()}
    program = torch.export.export(
        graph.eval(), tuple(given.values()), dynamic_shapes=shapes, strict=True
    )
    exported: Any = torch.onnx.export(
        program, opset_version=OPSET, input_names=list(given), output_names=outputs, dynamo=True,
        verbose=False,
    )  # fmt: skip
    found = {value.name: value.shape for value in exported.model.graph.inputs}
    exported.rename_axes({str(found[i][a]): n for i, each in axes.items() for a, n in each.items()})
    # the exporter notes for every node the lines of the source files that it comes from
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(exported.model)
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    exported.save(path, external_data=weights > MOST_IN_FILE)


def _facts(trained: Trained, model: MedSam, volumes: bool, found: Differences) -> dict[str, Any]:
    """The content of model.json."""
    task, size = trained.task, model.image_size
    encoder = model.sam.prompt_encoder
    embedding = [encoder.embed_dim, *encoder.image_embedding_size]
    picture: list[object] = [1, 3, "slices", size, size] if volumes else ["images", 3, size, size]
    inputs = {
        "embedding": _tensor(["prompts", *embedding], "float32"),
        "points": _tensor(["prompts", "points", 2], "float32"),
        "labels": _tensor(["prompts", "points"], "int64"),
        "boxes": _tensor(["prompts", "boxes", 4], "float32"),
    }
    if model.class_embedding is not None:
        inputs["classes"] = _tensor(["prompts", "names"], "int64")
    return {
        "fed_medsa": __version__,
        "backbone": trained.model.backbone,
        "base_sha256": trained.manifest.base_sha256,
        "manifest_sha256": trained.manifest.sha256,
        "frame": size,
        "structures": list(task.structures),
        "by_name": model.class_embedding is not None,
        "trained_with_prompts": list(task.prompts),
        "volumes": _of_volumes(task) if task.volumes else None,
        "opset": OPSET,
        "encoder": {
            "inputs": {"image": _tensor(picture, "float32")},
            "outputs": {
                "embedding": _tensor(["slices" if volumes else "images", *embedding], "float32")
            },
        },
        "decoder": {
            "inputs": inputs,
            "outputs": {
                "logits": _tensor(["prompts", 1, size, size], "float32"),
                "iou": _tensor(["prompts", 1], "float32"),
            },
        },
        "checked": {
            "torch": torch.__version__,
            **{name: importlib.metadata.version(name) for name in NEEDED},
            "comparisons": found.comparisons,
            "largest_difference": {
                "embedding": found.embedding, "logits": found.logits, "iou": found.iou
            },
        },
    }  # fmt: skip


def _tensor(shape: list[object], dtype: str) -> dict[str, object]:
    """Axes that may have any length stand in `shape` as their names."""
    return {"shape": shape, "dtype": dtype}


def _of_volumes(task: Task) -> dict[str, object]:
    """How volumes become pictures."""
    return {"window_hu": task.window, **task.volume.model_dump()}


def _write_readme(path: Path, facts: Mapping[str, Any]) -> None:
    templates = Environment(
        loader=PackageLoader("medsa_model"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    path.write_text(templates.get_template("onnx_readme.md.j2").render(facts), encoding="utf-8")
