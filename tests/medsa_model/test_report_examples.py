"""Examples: every panel is the part of the strip that its heading says."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsa_model.report_examples import Panel, examples_of
from medsa_model.report_run import read_run

COLOURS = [(10, 20, 30), (0, 158, 115), (230, 159, 0), (1, 2, 3)]
DICE = {"zero-shot": 0.5, "federated": 0.91234}


def write_run(folder: Path, strip: bytes, simulated: bool = True) -> None:
    (folder / "examples").mkdir()
    (folder / "report.json").write_text(json.dumps({"simulated": simulated}))
    entry = {"file": "a.png", "site": "lyon", "case": "one", "prompt": "box", "dice": DICE}
    (folder / "examples" / "examples.json").write_text(json.dumps([entry]))
    (folder / "examples" / "a.png").write_bytes(strip)


def strip_of(count: int) -> bytes:
    buffer = io.BytesIO()
    tiles = [np.full((6, 6, 3), colour, np.uint8) for colour in COLOURS[:count]]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(panel: Panel) -> np.ndarray:
    kind, _, content = panel.address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_panels_have_their_headings_and_scores(tmp_path: Path) -> None:
    write_run(tmp_path, strip_of(4))
    (example,) = examples_of(read_run(tmp_path))
    assert (example.site, example.case, example.prompt) == ("lyon", "one", "box")
    assert [(panel.heading, panel.dice) for panel in example.panels] == [
        ("Image and prompt", ""), ("Truth", ""), ("Zero-shot", "0.500"), ("Federated", "0.912"),
    ]  # fmt: skip
    for panel, colour in zip(example.panels, COLOURS, strict=True):
        assert pixels(panel).shape == (6, 6, 3) and (pixels(panel) == colour).all()


@pytest.mark.parametrize("strip", [strip_of(3), strip_of(4)[:-30], b"\x89PNG\r\n\x1a\nno"])
def test_a_strip_of_another_kind_is_shown_whole(tmp_path: Path, strip: bytes) -> None:
    write_run(tmp_path, strip)
    (example,) = examples_of(read_run(tmp_path))
    assert example.scores == "Zero-shot 0.500, Federated 0.912"
    (panel,) = example.panels
    assert base64.b64decode(panel.address.partition(",")[2]) == strip


def test_a_real_run_shows_none(tmp_path: Path) -> None:
    write_run(tmp_path, strip_of(4), simulated=False)
    assert examples_of(read_run(tmp_path)) == []
