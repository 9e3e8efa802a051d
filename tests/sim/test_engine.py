"""Flower's own simulation engine gives what the in-process grid gives."""

import pytest
import torch
from safetensors.torch import load_file

from sim.run import main

SMALL = """
name: small
rounds: 1
model: {image_size: 32}
data: {kind: synthetic, sites: 2, cases_per_site: 6, size: 64}
train: {steps: 1, batch_size: 2, prompts_per_image: 1}
sim:
  {split: {test: 0.34, val: 0.17}, examples: 0, device: cpu, processes: 1, rows: [], references: []}
"""


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_ray_ends_with_the_same_state(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml")]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "sim.engine=ray"]) == 0
    one, two = (
        load_file(tmp_path / run / "final" / "adapter_model.safetensors") for run in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)


def test_without_ray_the_message_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]
    assert main([*words, "sim.engine=ray"]) == 1
    assert 'pip install -c constraints.txt -e ".[ray]"' in capsys.readouterr().err
