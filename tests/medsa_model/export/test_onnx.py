"""ONNX graphs: the decoder's prompts are MedSam's, and onnxruntime answers as PyTorch does."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medsa_model.adapters import Msa
from medsa_model.adapters.exact_attention import CHUNKED_FROM, attend
from medsa_model.backbone import Model
from medsa_model.build import build
from medsa_model.errors import CheckpointError, ConfigError
from medsa_model.export import onnx as exporting
from medsa_model.export.onnx import write_onnx
from medsa_model.export.onnx_check import Differences, compare
from medsa_model.export.onnx_graphs import DecoderGraph, graph_prompt
from medsa_model.prompts import collate
from medsa_model.sam import MedSam
from medsa_model.task import Task
from medsa_model.trained import Trained, build_trained

ROOT = Path(__file__).resolve().parents[3]
PROCESSOR = torch.device("cpu")


def trained(volumes: bool, size: int) -> Trained:
    """Adapters that are away from their start, with hyper-prompting and names."""
    model = Model(image_size=size)
    adapter = Msa(depth=volumes, condition="hyper", blocks="last-2")
    built = build(model, adapter, 0, PROCESSOR, 2)
    noise = torch.Generator().manual_seed(7)
    state = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=noise)
             for name, tensor in built.initial.items()}  # fmt: skip
    task = Task(structures=("liver", "spleen"), named=2, prompts=("click", "box", "class"),
                volumes=volumes)  # fmt: skip
    return Trained(Path("nowhere"), model, adapter, task, built.manifest, state)


@pytest.fixture(scope="module")
def model() -> MedSam:
    return build_trained(trained(False, 32), None, PROCESSOR).model


def test_the_graph_of_the_decoder_answers_as_the_model(model: MedSam) -> None:
    """Bit for bit: clicks, boxes and names in every combination, some rows without one."""
    graph = DecoderGraph(model)
    box = (4.0, 5.0, 20.0, 22.0)
    cases = [
        ([([(8.0, 9.0)], [1], None), ([(3.0, 2.0), (9.0, 9.0)], [1, 0], None)], ()),
        ([([], [], box), ([], [], None)], ()),
        ([([(8.0, 9.0)], [1], box), ([], [], box)], ()),
        ([([], [], None), ([], [], None)], (0, 1)),
        ([([(8.0, 9.0)], [1], None), ([], [], box)], (-1, 1)),
        ([([], [], None), ([], [], None)], ()),
    ]
    with torch.no_grad():
        embedding = model.encode(torch.rand(2, 3, 32, 32) * 255)
        for rows, names in cases:
            prompt = collate(rows, names)
            masks, iou = model.decode(embedding, prompt)
            found, found_iou = graph(embedding, **vars(graph_prompt(prompt)))
            assert torch.equal(found, model.to_frame(masks)), (rows, names)
            assert torch.equal(found_iou, iou)


def test_packages_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as caught:
        write_onnx(trained(False, 32), None, tmp_path / "out")
    assert "onnxscript, onnxruntime" in str(caught.value)
    assert 'pip install -c constraints.txt -e ".[onnx]"' in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_graphs_that_answer_otherwise_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also when the difference is no number."""
    monkeypatch.setattr(exporting, "_check_packages", lambda: None)
    monkeypatch.setattr(exporting, "_export", lambda *arguments: arguments[-1].write_bytes(b""))
    wrongs = [(wrong, 0.0) for wrong in (0.002, float("nan"), float("inf"))] + [(0.0, 1.0)]
    for logits, iou in wrongs:
        found = Differences(0.0, logits, iou, 12)
        monkeypatch.setattr(exporting, "compare", lambda *_, answer=found: answer)
        with pytest.raises(CheckpointError, match=r"expected 0\.001 at most"):
            write_onnx(trained(False, 32), None, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


class Attention(torch.nn.Module):
    """`attend` as a module, for `torch.export`."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(query, key, value, key.shape[-1])


@pytest.mark.thorough
def test_attention_over_many_tokens_is_exported_for_any_batch() -> None:
    """Where PyTorch works off chunks; the graph gives the same up to rounding."""
    draw = torch.Generator().manual_seed(2)
    given = [torch.randn(2, CHUNKED_FROM + 76, 4, generator=draw) for _ in range(3)]
    free = {0: torch.export.Dim("sequences", min=2)}
    program = torch.export.export(
        Attention(), tuple(given), dynamic_shapes=(free, free, free), strict=True
    )
    more = [torch.cat([each, each.flip(0), each]) for each in given]
    torch.testing.assert_close(program.module()(*more), Attention()(*more))


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("volumes", [False, True])
def test_onnxruntime_answers_as_pytorch(volumes: bool, tmp_path: Path) -> None:
    """Checked with other inputs than the command's own check; the example of README.md runs; and
    no file says where it was made."""
    onnxruntime = pytest.importorskip("onnxruntime")
    given = trained(volumes, 32)
    out = tmp_path / "out"
    lines = write_onnx(given, None, out)
    assert "logits differ by" in lines[-1]
    names = {"encoder.onnx", "decoder.onnx", "model.json", "README.md"}
    assert {path.name for path in out.iterdir()} == names
    content = b"".join(path.read_bytes() for path in out.iterdir())
    for trace in (str(ROOT), "site-packages", str(Path.home()), "exact_attention.py"):
        assert trace.encode() not in content

    sessions = [
        onnxruntime.InferenceSession(out / f"{name}.onnx") for name in ("encoder", "decoder")
    ]
    encoder, decoder = sessions
    facts = json.loads((out / "model.json").read_text())
    for session, part in zip(sessions, (facts["encoder"], facts["decoder"]), strict=True):
        said = {name: each["shape"] for name, each in part["inputs"].items()}
        assert {each.name: each.shape for each in session.get_inputs()} == said

    adapted = build_trained(given, None, PROCESSOR).model
    count = 5
    image = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    if volumes:
        image = image.transpose(0, 1)[None].contiguous()
    rows = [([(3.0, 4.0)] * n, [1] * n, (2.0, 3.0, 20.0, 9.0 + n)) for n in range(count)]
    prompt = collate(rows, [-1, 0, 1, 0, -1])
    with torch.no_grad():
        expected = adapted(image, prompt)
    (embedding,) = encoder.run(None, {"image": image.numpy()})
    feeds = {name: tensor.numpy() for name, tensor in vars(graph_prompt(prompt)).items()}
    logits, _ = decoder.run(None, {"embedding": embedding, **feeds})
    expected = expected[0].transpose(0, 1) if volumes else expected
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)
    assert np.abs(expected.numpy()).max() > 1

    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert code is not None
    with pytest.MonkeyPatch.context() as moved:
        moved.chdir(out)
        scope: dict[str, np.ndarray] = {}
        exec(code[1], scope)
    assert scope["mask"].dtype == bool and scope["mask"].shape[1:] == (32, 32)

    # the command's own check sees graphs that are not those of the model
    head = "mask_decoder.iou_prediction_head.layers.2.bias"
    for part, worse in (("image_encoder.neck.3.bias", "logits"), (head, "iou")):
        changed = build_trained(given, None, PROCESSOR).model
        with torch.no_grad():
            dict(changed.sam.named_parameters())[part].add_(0.1)
        found = compare(changed, out / "encoder.onnx", out / "decoder.onnx", volumes)
        assert getattr(found, worse) > 1e-3
