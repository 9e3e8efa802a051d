"""The table of trained parameters, against models that are really built."""

import pytest

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.backbone import load_base
from medsa_model.parameter_table import ADAPTERS, count, table


@pytest.mark.parametrize("name", ADAPTERS)
def test_counts_are_those_of_a_built_model(name):
    model = load_base("vit_tiny", 128, None, "pretrained", 0).model
    base = sum(parameter.numel() for parameter in model.parameters())
    ADAPTERS[name].inject(model, 0)
    trained = sum(parameter.numel() for parameter in trained_parameters(model).values())
    found = count("vit_tiny", ADAPTERS[name])
    assert (found.base, found.trained) == (base, trained)


def bottleneck(width: int, hidden: int) -> int:
    return 2 * width * hidden + hidden + width


def test_counts_by_hand():
    encoder = 32 * 2 * bottleneck(1280, 80)
    decoder = 7 * bottleneck(256, 32)
    assert count("vit_h", Msa(ratio=1 / 16, decoder_width=0)).trained == encoder == 13_194_240
    assert count("vit_h", Msa(ratio=1 / 16)).trained == encoder + decoder
    deep = count("vit_h", Msa(ratio=1 / 16, depth=True)).trained
    assert deep == encoder + decoder + 32 * bottleneck(1280, 80)
    hyper = 2 * (256 * 32 * 32 + 32 * 32 + 2 * 32)
    assert count("vit_h", Msa(ratio=1 / 16, condition="hyper")).trained == encoder + decoder + hyper
    low_rank = 12 * 2 * 4 * (768 + 768)
    assert count("vit_b", Lora(decoder=False)).trained == low_rank
    assert count("vit_b", Lora(decoder=False, frozen_a=True)).trained == low_rank // 2
    assert count("vit_tiny", Msa()).trained == 158_688


def test_a_study_of_the_papers_size_sends_two_percent():
    assert count("vit_h", Msa(ratio=1 / 16)).percent <= 2.1
    assert count("vit_h", Full()).percent > 45  # what the share is measured against


def test_the_table_has_a_line_for_every_backbone_and_adapter():
    lines = table().splitlines()
    assert len(lines) == 2 + 4 * len(ADAPTERS)
    assert all(line.count("|") == 6 for line in lines)
    assert "| vit_tiny | msa 1/4 | 0.159 M | 6.79 % | 0.63 MB |" in lines
