"""Commands that simulate and measure work as README and guides print them, on tiny data."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sim.audit_cli import main as audit
from sim.bench.cli import main as bench
from sim.bench.figures import FIGURES
from sim.cli import main
from sim.config import load_simulation
from tests.printed_commands import PAGES, ROOT, printed

HOSPITAL = (ROOT / "configs" / "hospital.yaml").read_text(encoding="utf-8")
COMMANDS = sorted({*printed("medsa-sim "), *re.findall(r"^# (medsa-sim .+)$", HOSPITAL, re.M)})
BENCHES, AUDITS = printed("medsa-bench "), printed("medsa-audit ")
WISHES = re.findall(r"^\|[^|]+\| (`[^|]*=[^|]*`) \|$", PAGES["docs/simulation.md"], re.MULTILINE)
TINY = ["rounds=1", "model.image_size=32", "train.epochs=null", "train.steps=1"]
TINY += ["train.batch_size=2", "sim.examples=0", "sim.rows=[]", "sim.references=[]"]
TINY += ["sim.processes=1"]


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder that is both an ISIC 2018 layout of two sites and a plain folder layout."""
    rng = np.random.default_rng(0)
    lines = ["image_id,site"]
    for number in range(12):
        name = f"ISIC_{number:07d}"
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 10 + number : 30 + number] = 255
        image = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        for folder, picture, file in (
            ("ISIC2018_Task1-2_Training_Input", image, f"{name}.jpg"),
            ("ISIC2018_Task1_Training_GroundTruth", mask, f"{name}_segmentation.png"),
            ("images", image, f"{name}.jpg"),
            ("masks", mask, f"{name}.png"),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / file)
        lines.append(f"{name},{'ab'[number % 2]}")
    (tmp_path / "sites.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


VOLUMES = [  # the layouts of BTCV have tests of their own
    "data={kind: phantom, sites: 2, cases_per_site: 4, size: 32, slices: 8, classes: [liver]}",
    "prompt.evaluate=[{kind: box}, {kind: class}]",
    "sim.split.test=0.25",
]


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 5 and any("hospital.yaml" in command for command in COMMANDS)
    assert len(WISHES) >= 5 and AUDITS and BENCHES


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_runs(command, data, tmp_path, monkeypatch):
    words = shlex.split(command.replace("PATH", str(data)))[1:]
    place = words.index("--config") + 1
    words[place] = str(ROOT / words[place])
    if "btcv" in command:  # volumes are painted, which need no folder
        words = [word for word in words if not word.startswith("data.root=")]
    tiny = [*TINY, *(["data.cases_per_site=6"] if "demo" in command else [])]
    tiny += ["sim.partition={kind: iid, sites: 4}"] if "attack" in command else []
    tiny += VOLUMES if "btcv" in command else []
    monkeypatch.chdir(tmp_path)
    assert main([*words, *tiny]) == 0
    assert list((tmp_path / "runs").rglob("report.html"))


@pytest.mark.parametrize("command", AUDITS)
def test_a_printed_audit_runs(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert audit([*shlex.split(command)[1:], "--canaries", "200"]) == 0


@pytest.mark.parametrize("command", BENCHES)
def test_a_printed_measurement_is_begun(command, tmp_path, monkeypatch):
    """What each figure measures has tests of its own, at sizes that take no minutes."""
    monkeypatch.chdir(tmp_path)
    begun: list[str] = []
    monkeypatch.setattr("sim.bench.run.measure", lambda names, *_: begun.extend(names))
    _, *words = shlex.split(command)
    assert bench(words) == 0
    assert begun == [] if "--list" in words else begun and set(begun) <= set(FIGURES)


@pytest.mark.parametrize("cell", WISHES)
def test_a_printed_override_is_valid(cell):
    for example in re.findall(r"`([^`]+)`", cell):
        assert load_simulation(ROOT / "configs" / "isic.yaml", shlex.split(example))
