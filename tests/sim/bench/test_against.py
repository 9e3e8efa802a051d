"""`--against`, with a stand-in for the checkout that has the documented interface."""

import sys

import pytest
import torch

import sim.bench.against
from medsa_model.errors import ConfigError, MedsaError
from sim.bench.against import against, check_checkout, copy_weights
from sim.bench.cli import main
from sim.bench.models import Settings, precisions

CPU = torch.device("cpu")
STAND_IN = """
from torch import nn
from medsa_model.sam import ARCHITECTURES, build_sam


class Block(nn.Module):
    def __init__(self, block, width):
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self.inner = [block]
        self.Adapter = nn.Linear(width, width)

    def forward(self, x):
        return self.inner[0](x) + self.Adapter(x)


def build(args, checkpoint=None):
    assert args.mod == "sam_adpt" and args.thd is False and args.b == 1
    assert args.never_heard_of is None and checkpoint is None
    sam = build_sam(ARCHITECTURES["vit_tiny"], args.image_size)
    blocks = sam.image_encoder.blocks
    for number, block in enumerate(blocks):
        blocks[number] = Block(block, 128)
    return sam


sam_model_registry = {"vit_tiny": build}
"""


@pytest.fixture
def checkout(tmp_path):
    place = tmp_path / "checkout"
    (place / "models" / "sam").mkdir(parents=True)
    (place / "models" / "sam" / "__init__.py").write_text(STAND_IN)
    return place


def settings(place, out) -> Settings:
    return Settings(CPU, out, repeats=1, against=place)


@pytest.fixture
def same_process(monkeypatch):
    """No child: starting one takes longer than all that is measured."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(
        sim.bench.against, "in_child", lambda work, threads, **arguments: work(**arguments)
    )
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]


@pytest.mark.thorough
def test_its_code_runs_in_a_process_of_its_own(checkout, tmp_path):
    before = [*sys.path]
    assert against(settings(checkout, tmp_path), "vit_tiny", 48, 1)
    assert "models.sam" not in sys.modules and sys.path == before


def test_a_checkout_is_timed_with_our_weights(checkout, tmp_path, same_process):
    rows = against(settings(checkout, tmp_path), "vit_tiny", 48, 1)
    assert [row.name for row in rows] == [
        f"against, {kind}" for kind in precisions(torch.device("cpu"))
    ]
    facts = rows[0].facts
    assert facts["weights_of_sam_missing"] == 0 and facts["weights_matched"] > 100
    assert facts["weights_of_its_own"] == 2 * 6  # weight and bias of an adapter in each block
    assert facts["checkout_trained"] > 6 * (128 * 128 + 128)  # these, and the mask decoder
    assert rows[0].plain.label == "checkout, float32" and min(rows[0].plain.samples) > 0


def test_weights_of_another_shape_or_name_are_counted():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    sam = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(4), "other": torch.ones(1)}
    assert copy_weights(sam, net) == {
        "weights_matched": 1, "weights_of_sam_missing": 2, "weights_of_its_own": 3,
    }  # fmt: skip
    assert torch.equal(net[0].weight.detach(), sam["0.weight"])


def test_what_is_no_checkout(tmp_path, capsys):
    with pytest.raises(ConfigError, match="give the checkout's folder, --against PATH"):
        check_checkout(None)
    assert main(["step_2d", "--against", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert f"--against {tmp_path}: found no models/sam/__init__.py and no models/sam.py" in told
    assert not (tmp_path / "out" / "bench.json").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import a_package_that_is_not_here", "ModuleNotFoundError: No module named 'a_package"),
        ("sam_model_registry = {}", "KeyError: 'vit_tiny'"),
        ("raise SystemExit(2)", "SystemExit: 2"),
    ],
)
def test_a_checkout_that_fails(checkout, tmp_path, same_process, text, told):
    (checkout / "models" / "sam" / "__init__.py").write_text(text)
    with pytest.raises(MedsaError, match=told):
        against(settings(checkout, tmp_path), "vit_tiny", 48, 1)
