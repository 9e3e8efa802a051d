"""The files of docs/extend.md run as they are printed, and keep the contracts of their unions."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Annotated, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field, TypeAdapter

from medsa_model.adapters import Adapter
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import Model
from medsa_model.build import build
from medsa_model.checkpoint import write_adapter
from medsa_model.data import DataSet
from medsa_model.errors import DataError
from medsa_model.export.cli import main as export
from medsa_model.prompts import collate
from medsa_model.strategies import FedAvg, Strategy, Update
from medsa_model.task import Task
from medsa_model.trained import read_trained
from tests.printed_commands import PAGES, fences

FILES = dict(
    re.fullmatch(r"# (\S+)\n(.*)", block, re.DOTALL).groups()
    for block in fences(PAGES["docs/extend.md"], "python")
)
"""Path that the page gives a file -> its text."""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(path)`: the printed file of this path, imported."""

    def load(path: str) -> ModuleType:
        file = tmp_path / path.rpartition("/")[2]
        file.write_text(FILES[path])
        spec = spec_from_file_location(path.removesuffix(".py").replace("/", "."), file)
        found = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, found)  # pydantic looks for types there
        spec.loader.exec_module(found)
        return found

    return load


def longer(union, section):
    """The union with one line more."""
    return Annotated[get_args(union)[0] | section, Field(discriminator="kind")]


def joined(union, section):
    """A member of the union with one line more, as a configuration file gives it."""
    return TypeAdapter(longer(union, section)).validate_python


def state(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_each_of_them_is_printed():
    assert [path.split("/")[1] for path in FILES] == [
        "data",
        "adapters",
        "strategies",
        "strategies",
    ]


def test_the_data_set(module, tmp_path):
    polyps = joined(DataSet, module("medsa_model/data/polyps.py").Polyps)
    for name in ("Original", "Ground Truth"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in (2, 1):
        mask = np.zeros((20, 30), np.uint8)
        mask[4:9, 3 : 10 + number] = 255
        Image.fromarray(mask).save(tmp_path / "set" / "Ground Truth" / f"{number}.tif")
        Image.new("RGB", (30, 20), (90, 40, 30)).save(tmp_path / f"set/Original/{number}.tif")
    (tmp_path / "set" / "sites.csv").write_text("image_id,site,patient\n1,a,p\n2,b,q\n")
    section = polyps({"kind": "polyps"})
    cases = section.open(tmp_path / "set")
    assert [(case.case, case.site, case.patient) for case in cases] == [
        ("1", "a", "p"), ("2", "b", "q"),
    ]  # fmt: skip
    sample = cases[1].load()
    assert sample.mask.shape == (1, 20, 30) and int(sample.mask.sum()) == 5 * 9
    (tmp_path / "set" / "Original" / "2.tif").unlink()
    with pytest.raises(DataError, match="have no image"):
        section.open(tmp_path / "set")


def test_the_adapter(module, tiny):
    model = tiny.model.eval()
    images = 255 * torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    prompt = collate([([(20.0, 20.0)], [1], None)])
    with torch.no_grad():
        before = model(images, prompt)
        joined(Adapter, module("medsa_model/adapters/bitfit.py").BitFit)({"kind": "bitfit"}).inject(
            model, seed=0
        )
        after = model(images, prompt)
    assert torch.equal(before, after)
    names = trained_parameters(model)
    assert names and all(name.endswith("bias") for name in names)
    model(images, prompt).sum().backward()
    assert [name for name, value in names.items() if value.grad is None] == []


def test_the_adapter_is_handed_on(module, tmp_path, monkeypatch):
    """By the program itself, with the line in the union; the folder is read again."""
    bitfit = module("medsa_model/adapters/bitfit.py").BitFit
    monkeypatch.setattr("medsa_model.adapter_config.Adapter", longer(Adapter, bitfit))
    sections = {"model": Model(image_size=32), "adapter": bitfit(decoder=False),
                "task": Task(structures=("polyp",), prompts=("box",))}  # fmt: skip
    built = build(sections["model"], sections["adapter"], 0, torch.device("cpu"), 0)
    state = {name: value + 1 for name, value in built.initial.items()}
    (tmp_path / "run").mkdir()
    written = {name: section.model_dump(mode="json") for name, section in sections.items()}
    write_adapter(tmp_path / "run", state, built.manifest, written)
    out = tmp_path / "adapter"
    assert export(["adapter", "--adapter", str(tmp_path / "run"), "--out", str(out)]) == 0
    found = read_trained(out)
    assert found.adapter == sections["adapter"] and found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], value) for name, value in state.items())
    assert "bitfit" in (out / "README.md").read_text().lower()


def test_the_strategy(module):
    momentum = joined(Strategy, module("medsa_model/strategies/fedavgm.py").FedAvgM)
    strategy = momentum({"kind": "fedavgm", "momentum": 0.5})
    updates = [Update(state(1.0, 0.0), 1), Update(state(4.0, 8.0), 3)]
    first, memory = strategy.aggregate(state(0.0, 0.0), updates, {})
    assert first["w"].tolist() == [3.25, 6.0]  # FedAvg, as nothing came before
    second, _ = strategy.aggregate(first, [Update(state(3.25, 7.0), 1)], memory)
    assert second["w"].tolist() == [3.25 + 0.5 * 3.25, 6.0 + 1.0 + 0.5 * 6.0]
    assert strategy.proximal == FedAvg().proximal and strategy.least_updates == 1


def test_the_mechanism_for_privacy(module):
    laplace = joined(Strategy, module("medsa_model/strategies/laplace_fedavg.py").LaplaceFedAvg)
    start = {"v": torch.ones(2), "w": torch.zeros(1)}
    short, long = (
        Update({"v": torch.ones(2) + torch.tensor([0.25, -0.25]), "w": torch.tensor([0.5])}, 9),
        Update({"v": torch.ones(2) + torch.tensor([2.0, 2.0]), "w": torch.tensor([-4.0])}, 1),
    )
    exact = laplace({"kind": "laplace_fedavg", "epsilon": 1000, "clip_norm": 1e-3})
    means, memory = exact.aggregate(start, [long, long], {})
    change = torch.cat([means["v"] - 1, means["w"]])
    assert torch.allclose(change, 1e-3 * torch.tensor([0.25, 0.25, -0.5]), atol=2e-5)
    assert memory == {}
    many = {"w": torch.zeros(200_000)}
    noisy = laplace({"kind": "laplace_fedavg", "epsilon": 0.5, "clip_norm": 1.0})
    noise = noisy.aggregate(many, [Update(many, 1)], {})[0]["w"]
    assert noise.abs().mean() == pytest.approx(1 / 0.5, rel=0.02)  # of Laplace: its scale
    assert noise.square().mean() == pytest.approx(2 * (1 / 0.5) ** 2, rel=0.04)
    assert not torch.equal(noise, noisy.aggregate(many, [Update(many, 1)], {})[0]["w"])
    mixed = laplace({"kind": "laplace_fedavg", "epsilon": 1000, "clip_norm": 1.0})
    mean = mixed.aggregate(start, [short, long], {})[0]["w"]
    assert float(mean) == pytest.approx((0.5 - 0.5) / 2, abs=0.02)
