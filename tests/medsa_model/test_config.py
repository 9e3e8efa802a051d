"""Configuration: every error at once, in words; every shipped file loads."""

from pathlib import Path

import pytest

from medsa_model.adapters import Msa
from medsa_model.config import RunConfig, load_run, validate
from medsa_model.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def minimal(**more: object) -> dict[str, object]:
    return {"name": "x", "data": {"kind": "synthetic"}, **more}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_loads_and_begins_with_its_command(path):
    assert load_run(path).name
    assert path.read_text().startswith("# medsa-sim --config configs/" + path.name)


def test_all_problems_are_printed_at_once_with_their_keys():
    content = minimal(
        adapter={"kind": "lroa"}, train={"step": 5, "epochs": 1}, rounds=-1, colour="red"
    )
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, content, [], "run.yaml")
    text = str(caught.value)
    assert "run.yaml is not valid (4 problems)" in text
    assert "adapter.kind" in text and "'lroa'" in text and "'msa'" in text
    assert "train.step" in text and "did you mean 'steps'" in text
    assert "rounds" in text and "-1" in text
    assert "colour" in text and "unknown key" in text


def test_keys_inside_a_kind_are_named_without_the_kind():
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, minimal(adapter={"kind": "msa", "ratoi": 0.5, "scale": -1}), [], "f")
    text = str(caught.value)
    assert "adapter.ratoi" in text and "did you mean 'ratio'" in text and "adapter.scale" in text
    assert "msa" not in text


def test_keys_inside_a_list_are_named():
    content = minimal(prompt={"train": [{"kind": "click"}, {"kind": "box", "overlap": 7}]})
    with pytest.raises(ConfigError, match=r"prompt\.train\.1\.overlap"):
        validate(RunConfig, content, [], "f")


def test_overrides_win_and_make_sections():
    config = validate(RunConfig, minimal(), ["train.steps=7", "train.rate=3e-4", "seed=5"], "f")
    assert config.train.steps == 7 and config.train.rate == 3e-4 and config.seed == 5


@pytest.mark.parametrize("override", ["rounds", "name.deeper=1", "sim={kind: iid"])
def test_an_override_that_makes_no_sense_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        validate(RunConfig, minimal(), [override], "f")


def test_a_rate_written_as_1e_4_is_a_number(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: x\ndata: {kind: synthetic}\ntrain: {steps: 5, rate: 1e-4}\n")
    assert load_run(path).train.rate == 1e-4


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_run(path)


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(ConfigError, match=r"either train\.steps or train\.epochs"):
        validate(RunConfig, minimal(train={"steps": 5, "epochs": 1}), [], "f")


def test_what_travels_holds_no_path_of_the_coordinator():
    content = minimal(data={"kind": "isic", "root": "/secret/root"}, adapter={"kind": "msa"})
    content["model"] = {"backbone": "vit_b", "checkpoint": "/secret/vit_b.pth"}
    config = validate(RunConfig, content, [], "f")
    travelling = config.for_sites()
    assert "secret" not in travelling
    assert RunConfig.model_validate_json(travelling).adapter == Msa()


def test_the_order_of_overrides_does_not_matter():
    config = validate(RunConfig, minimal(), ["data.root=/x", "data={kind: folder}"], "f")
    assert str(config.data.root) == "/x"
    assert config.data.kind == "folder"


def test_a_prompt_is_scored_once():
    content = minimal(prompt={"evaluate": [{"kind": "click"}, {"kind": "click"}]})
    with pytest.raises(ConfigError, match="listed once"):
        validate(RunConfig, content, [], "f")


def test_an_override_of_a_missing_section_means_its_default_kind():
    run = validate(RunConfig, minimal(), ["adapter.ratio=0.125", "train.steps=3"], "f")
    assert run.adapter == Msa(ratio=0.125)
    assert run.train.steps == 3
    with pytest.raises(ConfigError, match=r"adapter\.mu"):
        validate(RunConfig, minimal(), ["adapter.mu=1"], "f")
