"""Configuration: every error at once, in words; every shipped file loads."""

from pathlib import Path

import pytest

from medsa_model.adapters import Msa
from medsa_model.config import RunConfig, load_run, validate
from medsa_model.errors import ConfigError
from medsa_model.prompts import ByClass, Clicks

CONFIGS = Path(__file__).parents[2] / "configs"


def minimal(**more: object) -> dict[str, object]:
    return {"name": "x", "data": {"kind": "synthetic"}, **more}


RUNS = sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "federation.yaml"})


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
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


@pytest.mark.parametrize(("backbone", "size", "patch"), [("vit_tiny", 100, 8), ("vit_b", 264, 16)])
def test_a_frame_of_broken_patches_is_printed_with_the_other_problems(backbone, size, patch):
    content = minimal(model={"backbone": backbone, "image_size": size}, rounds=-1)
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, content, [], "f")
    text = str(caught.value)
    assert "2 problems" in text and "rounds" in text
    assert f"model.image_size  got {size}: {backbone} needs a multiple" in text
    assert f"{patch} pixels" in text


def test_a_frame_of_whole_patches_is_accepted():
    sizes = {"vit_tiny": 104, "vit_b": 272}
    for backbone, size in sizes.items():
        content = minimal(model={"backbone": backbone, "image_size": size})
        assert validate(RunConfig, content, [], "f").model.frame == size


def test_an_unknown_backbone_is_one_problem():
    content = minimal(model={"backbone": "vit_x", "image_size": 100})
    with pytest.raises(ConfigError, match=r"\(1 problem\)"):
        validate(RunConfig, content, [], "f")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rate=.inf", r"train\.rate .* finite"),
        ("train.rate=.nan", r"train\.rate"),
        ("loss.dice=.inf", r"loss\.dice .* finite"),
        ("loss.cross_entropy=.nan", r"loss\.cross_entropy"),
        ("loss={dice: 0, cross_entropy: 0}", "are both 0"),
    ],
)
def test_a_training_that_cannot_learn_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        validate(RunConfig, minimal(), [override], "f")


@pytest.mark.parametrize("left", ["dice", "cross_entropy"])
def test_one_of_the_losses_may_be_left_out(left):
    loss = validate(RunConfig, minimal(), [f"loss.{left}=0"], "f").loss
    assert getattr(loss, left) == 0


def problem(content: dict[str, object], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, content, overrides, "f")
    return str(caught.value)


def test_a_key_of_another_kind_is_told_where_it_belongs():
    text = problem(minimal(strategy={"kind": "fedexp"}), "strategy.mu=0.1")
    expected = "not a key of kind fedexp (its keys: weighting); mu belongs to fedprox"
    assert f"  strategy.mu  {expected}" in text


def test_a_key_of_no_kind_lists_the_keys_there_are():
    text = problem(minimal(strategy={"kind": "fedexp", "colour": 1}))
    assert text.endswith("strategy.colour  not a key of kind fedexp (its keys: weighting)")
    text = problem(minimal(strategy={"kind": "fedexp", "wieghting": "uniform"}))
    assert "unknown key (did you mean 'weighting'?)" in text


def test_keys_of_another_kind_inside_a_list():
    text = problem(minimal(prompt={"evaluate": [{"kind": "click", "number": 3}]}))
    assert "prompt.evaluate.0.number" in text
    assert "not a key of kind click (its keys: weight, followed); number belongs to cl" in text


def test_changing_a_kind_over_the_keys_of_another():
    isic = {"kind": "isic", "year": 2018}
    text = problem(minimal(data=dict(isic)), "data.kind=folder")
    assert (
        "  data.year  not a key of kind folder (its keys: root, classes); to change the kind "
        "replace the whole section: data={kind: folder}"
    ) in text
    fixed = validate(RunConfig, minimal(data=dict(isic)), ["data={kind: folder}"], "f")
    assert fixed.data.kind == "folder"
    text = problem(minimal(data={"kind": "synthetic"}), "data.kind=folder", "data.year=2018")
    assert "year belongs to isic" in text and "whole section" not in text


@pytest.mark.parametrize(
    ("content", "override", "expected"),
    [
        ({}, "data={kind: folder, classes: cup}", "data.classes  got 'cup': {}[cup]"),
        ({}, "prompt.train=box", "prompt.train  got 'box': {}[{{kind: box}}]"),
        ({}, "prompt.train=bax", "prompt.train  got 'bax': {}[{{kind: click}}]"),
        ({}, "prompt.train={kind: box}", "got {{'kind': 'box'}}: {}[{{kind: box}}]"),
    ],
)
def test_one_value_in_place_of_a_list(content, override, expected):
    text = problem(minimal(**content), override)
    assert expected.format("expected a list, for example ") in text


def test_a_list_of_words_is_shown_as_it_is_written():
    from sim.config import SimulatedRun

    for override, example in (("scratch", "scratch"), ("scartch", "scratch")):
        with pytest.raises(ConfigError) as caught:
            validate(SimulatedRun, minimal(), [f"sim.references={override}"], "f")
        expected = f"got {override!r}: expected a list, for example [{example}]"
        assert f"sim.references  {expected}" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "example"),
    [
        ("prompt.train.0.kind=box", "[{kind: box}]"),
        ("prompt.train.1.overlap=0.5", "[{kind: box, overlap: 0.5}]"),
        ("prompt.train.0={kind: none}", "[{kind: none}]"),
        ("prompt.train.7.kind=box", "[{kind: box}]"),
        ("prompt.train.first.kind=box", "[{kind: box}]"),
    ],
)
def test_one_item_of_a_list_cannot_be_overridden(override, example):
    train = [{"kind": "click"}, {"kind": "box", "overlap": 0.75}]
    text = problem(minimal(prompt={"train": train}), override)
    replacement = f"prompt.train={example}"
    assert f"prompt.train is a list: replace it whole, for example {replacement}" in text
    content = minimal(data={"kind": "isic"}, prompt={"train": train})
    assert len(validate(RunConfig, content, [replacement], "f").prompt.train) == 1


def test_one_item_of_a_list_that_the_file_does_not_have():
    text = problem(minimal(), "prompt.train.0.kind=box")
    assert (
        "prompt.train  is a list: replace it whole, for example prompt.train=[{kind: box}]" in text
    )


def test_a_seed_fits_64_bits():
    assert validate(RunConfig, minimal(seed=2**63 - 1), [], "f").seed == 2**63 - 1
    assert "seed" in problem(minimal(seed=2**63))


@pytest.mark.parametrize("part", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"kind": "synthetic"}, "3 structures (nodule, body, core)"),
        ({"kind": "folder", "classes": ["cup", "disc"]}, "2 structures (cup, disc)"),
    ],
)
def test_no_prompt_cannot_choose_among_structures(part, data, names):
    text = problem(minimal(data=data, prompt={part: [{"kind": "box"}, {"kind": "none"}]}))
    assert f"prompt.{part} has kind none, but an image has {names}" in text
    assert "only the prompt says which one is meant" in text


@pytest.mark.parametrize("data", [{"kind": "synthetic", "structures": 1}, {"kind": "isic"}])
def test_no_prompt_is_enough_for_one_structure(data):
    none = [{"kind": "none"}]
    config = validate(
        RunConfig, minimal(data=data, prompt={"train": none, "evaluate": none}), [], "f"
    )
    assert config.prompt.evaluate[0].kind == "none"
    assert RunConfig.model_validate_json(config.for_sites()) == config


def test_a_site_may_prompt_in_its_own_way():
    clicks, names = {"kind": "clicks", "number": 2}, {"kind": "class", "weight": 3}
    content = minimal(prompt={"train": [{"kind": "box"}], "by_site": {"site_b": [clicks, names]}})
    config = validate(RunConfig, content, [], "f")
    assert [kind.name for kind in config.prompt.train_at("site_a")] == ["box"]
    assert config.prompt.train_at("site_b") == (Clicks(number=2), ByClass(weight=3))
    assert RunConfig.model_validate_json(config.for_sites()) == config


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ({}, 0),
        ({"train": [{"kind": "click"}, {"kind": "class"}]}, 3),
        ({"train": [{"kind": "class"}], "evaluate": [{"kind": "class"}]}, 3),
        ({"by_site": {"site_a": [{"kind": "class"}]}}, 3),
        ({"by_site": {"site_a": [{"kind": "click"}]}}, 0),
    ],
)
def test_names_are_learnt_as_soon_as_anybody_asks_by_them(prompt, count):
    assert validate(RunConfig, minimal(prompt=prompt), [], "f").named_classes == count


def test_names_that_are_never_learnt_are_not_asked_for():
    asked = {"evaluate": [{"kind": "box"}, {"kind": "class"}]}
    text = problem(minimal(prompt=asked))
    assert "prompt.evaluate has kind class, but prompt.train has not, nor has" in text
    learnt = asked | {"by_site": {"site_a": [{"kind": "class"}]}}
    assert validate(RunConfig, minimal(prompt=learnt), [], "f").named_classes == 3


@pytest.mark.parametrize("kind", ["synthetic", "phantom"])
def test_generated_images_have_no_folder(kind):
    text = problem(minimal(data={"kind": kind}), "data.root=/mnt/ct")
    assert "  data.root  got '/mnt/ct': images of this kind are generated, nothing is read" in text
    config = validate(RunConfig, minimal(data={"kind": kind}), ["data.root="], "f")
    assert config.data.root is None
    assert RunConfig.model_validate_json(config.for_sites()) == config


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], r"prompt\.by_site\.site_b"),
        ([{"kind": "none"}], r"prompt\.by_site\.site_b has kind none, but an image has 3 struct"),
        ([{"kind": "box", "overlap": 7}], r"prompt\.by_site\.site_b\.0\.overlap"),
        ([{"kind": "bax"}], r"prompt\.by_site\.site_b\.0\.kind .*'bax'"),
        ([{"kind": "click", "number": 2}], r"not a key of kind click .*; number belongs to clicks"),
    ],
)
def test_a_sites_own_prompts_are_checked_as_all_others(kinds, expected):
    content = minimal(prompt={"by_site": {"site_b": kinds}})
    with pytest.raises(ConfigError, match=expected):
        validate(RunConfig, content, [], "f")


@pytest.mark.parametrize("weight", ["0", "-1", ".inf", ".nan"])
def test_a_weight_is_a_number_above_0(weight):
    text = problem(minimal(), f"prompt.train=[{{kind: class, weight: {weight}}}]")
    assert "prompt.train.0.weight" in text


def test_prompts_that_are_followed_are_scored_beside_those_on_every_slice():
    both = [{"kind": "click"}, {"kind": "click", "followed": True}]
    phantom = {"data": {"kind": "phantom"}, "prompt": {"evaluate": both}}
    config = validate(RunConfig, minimal(**phantom), [], "f")
    assert [kind.name for kind in config.prompt.evaluate] == ["click", "click followed"]


def test_prompts_are_followed_in_volumes_and_in_evaluation_alone():
    followed = [{"kind": "box", "followed": True}]
    text = problem(minimal(prompt={"evaluate": followed}))
    assert "data.kind synthetic has images without slices; expected btcv or phantom" in text
    text = problem(minimal(data={"kind": "phantom"}, prompt={"train": followed}))
    assert "take followed out of prompt.train and prompt.by_site" in text


def test_attention_across_depth_needs_slices():
    text = problem(minimal(adapter={"kind": "msa", "depth": True}))
    assert "adapter.depth is true, but data.kind synthetic has images without slices" in text
    assert "expected btcv or phantom, or adapter.depth false" in text
    content = minimal(data={"kind": "phantom"}, adapter={"kind": "msa", "depth": True})
    assert validate(RunConfig, content, [], "f").adapter == Msa(depth=True)


@pytest.mark.parametrize("corrections", [-1, 17])
def test_corrections_are_few(corrections):
    assert "prompt.corrections" in problem(minimal(prompt={"corrections": corrections}))


def test_a_bad_item_of_a_list_is_one_problem():
    text = problem(minimal(), "prompt.train=[{kind: text}]")
    assert "(1 problem)" in text and "prompt.train.0.kind  got 'text', expected one of" in text
    text = problem(minimal(), "prompt.train=[]", "prompt.evaluate=[{kind: bax}, {kind: bux}]")
    assert "(3 problems)" in text
    assert "prompt.train            got []: the list must have at least 1 item, not 0" in text
    text = problem(minimal(), f"prompt.train=[{', '.join(['{kind: box}'] * 17)}]")
    assert "the list must have at most 16 items, not 17" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("adapter=lora", "adapter  got 'lora': expected for example adapter={kind: lora}"),
        ("adapter=lroa", "got 'lroa': expected for example adapter={kind: msa}; kinds are msa, lo"),
        ("adapter=", "adapter  got None: expected for example adapter={kind: msa}; kinds are msa,"),
        ("prompt.train=[box]", "prompt.train.0  got 'box': expected for example {kind: box}"),
    ],
)
def test_a_kind_alone_is_no_section(override, expected):
    text = problem(minimal(), override)
    assert expected in text and "(1 problem)" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "data.annotated={site_a: [liver]}",
            "expected a list, for example [spleen]; allowed are spleen, right_kidney, left_kidney,",
        ),
        ("data.annotated={liver: 6, x: 1}", "a list, for example [liver]; allowed are spleen, rig"),
        (
            "data.annotated=livr",
            "got 'livr': expected a list, for example [spleen]; allowed are sp",
        ),
        ("data.classes={liver: 6}", "expected a list, for example [liver]; allowed are spleen"),
        ("data={kind: folder, classes: {cup: 1, disc: 2}}", "list, for example [cup, disc]"),
    ],
)
def test_a_mapping_in_place_of_a_list_of_names(override, expected):
    assert expected in problem(minimal(data={"kind": "btcv"}), override)


def test_overrides_are_named_when_they_alone_are_wrong():
    text = problem(minimal(), "train.steps=-1", "rounds=3", f"adapter={{kind: {'x' * 90}}}")
    shown = f"adapter={{kind: {'x' * 90}}}"[:57] + "..."
    assert text.startswith(
        f"f with the overrides train.steps=-1, {shown} is not valid (2 problems)"
    )
    assert problem(minimal(rounds=-1), "train.steps=-1").startswith("f is not valid (2 problems)")
    assert problem(minimal(rounds=-1)).startswith("f is not valid (1 problem)")
    many = ["train.steps=3", "train.epochs=1", "seed=1"]  # of the section, not of one key
    assert "overrides train.steps=3, train.epochs=1 is not valid (1" in problem(minimal(), *many)
