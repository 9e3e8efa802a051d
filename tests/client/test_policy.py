"""The rules of a site by themselves: bounds, and what a refusal says.

That they are asked before anything is read, and reach the coordinator, is in `test_app.py`.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from client.config import Limits
from client.policy import check_model, check_part, check_run, check_size, check_training, read_run
from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.refusals import SENTENCES, Reason, Refused

CLASSES = ("nodule", "body", "core")


def configuration(**more: object) -> RunConfig:
    content = {"name": "small", "rounds": 4, "data": {"kind": "synthetic"}, **more}
    return RunConfig.model_validate(content)


def refusal(check: Any, *arguments: object, **more: object) -> Refused:
    with pytest.raises(Refused) as caught:
        check(*arguments, **more)
    reason = caught.value.reason
    assert str(caught.value).startswith(f"{SENTENCES[reason]}: ")
    return caught.value


def test_a_run_arrives_as_it_was_sent():
    config = configuration(strategy={"kind": "fedprox", "mu": 0.1}, train={"epochs": 2.0})
    assert read_run(config.for_sites(), "0.9").sha256 == config.sha256


def test_settings_that_this_version_does_not_know_are_named_with_both_versions():
    """Of the values nothing is repeated: they came from outside."""
    text = configuration().for_sites().replace('"rounds":4', '"rounds":-4,"colour":"red"')
    refused = refusal(read_run, text, "9.9")
    assert refused.reason == Reason.OTHER_SETTINGS
    said = str(refused)
    assert "colour, rounds;" in said and "red" not in said and "-4" not in said
    assert "runs fed-medsa 9.9" in said and __version__ in said and "same version" in said


def test_of_many_unknown_settings_five_are_named():
    more = ",".join(f'"key{number}":1' for number in range(9))
    text = configuration().for_sites().replace('"rounds":4', more)
    said = str(refusal(read_run, text, "9.9"))
    assert "key4;" in said and "key5" not in said


def test_without_limits_a_site_takes_part():
    check_run(configuration(), Limits(), None, False)
    check_run(configuration(), Limits(), CLASSES, False)
    check_training(configuration(), Limits(), 1, 3)
    check_size(10**12, Limits())


def test_a_run_that_was_not_agreed_to_is_named_by_its_hash():
    """Which the engineer can copy, and compare on the telephone."""
    config = configuration()
    refused = refusal(check_run, config, Limits(runs=()), None)
    assert refused.reason == Reason.RUN_NOT_ALLOWED
    assert config.sha256 in str(refused) and "limits.runs" in str(refused)
    check_run(config, Limits(runs=("0" * 64, config.sha256)), None, False)


def test_any_changed_setting_makes_it_another_run():
    limits = Limits(runs=(configuration().sha256,))
    for other in ({"rounds": 5}, {"seed": 1}, {"train": {"steps": 26}}):
        refused = refusal(check_run, configuration(**other), limits, None, False)
        assert refused.reason == Reason.RUN_NOT_ALLOWED


@pytest.mark.parametrize("classes", [CLASSES[::-1], CLASSES[:2], (*CLASSES, "nodule_2"), ()])
def test_structures_must_be_the_same_in_the_same_order(classes):
    refused = refusal(check_run, configuration(), Limits(), classes)
    assert refused.reason == Reason.OTHER_CLASSES
    assert "the run asks for nodule, body, core; the site's data has" in str(refused)


DIFFERENT = {
    "one other": (("nodule", "TUMOUR", "core"), "others at 2 (body);"),
    "all others": (("X", "Y", "Z"), "others at 1 (nodule), 2 (body), 3 (core);"),
    "another order": (CLASSES[::-1], "others at 1 (nodule), 3 (core);"),
    "one more": ((*CLASSES, "TUMOUR"), "nodule, body, core; the site's data has more;"),
    "fewer": (("nodule",), "others at 2 (body), 3 (core); the site's data has fewer;"),
}


@pytest.mark.parametrize(("classes", "found"), DIFFERENT.values(), ids=DIFFERENT)
def test_the_names_of_a_sites_structures_stay_in_its_log(classes, found, caplog, monkeypatch):
    """The coordinator learns which of its own names do not fit."""
    monkeypatch.setattr("client.policy.logger.propagate", True)  # set_up() turns it off
    said = str(refusal(check_run, configuration(), Limits(), classes))
    assert found in said
    for name in set(classes) - set(CLASSES):
        assert name not in said
    assert f"in this order: {', '.join(classes)}" in caplog.text


@pytest.mark.parametrize(("rounds", "allowed"), [(3, False), (4, True), (5, True)])
def test_the_most_rounds(rounds, allowed):
    limits = Limits(rounds=rounds)
    if allowed:
        check_run(configuration(), limits, None, False)
    else:
        refused = refusal(check_run, configuration(), limits, None, False)
        assert refused.reason == Reason.OVER_LIMIT and "4 rounds, limit 3" in str(refused)


@pytest.mark.parametrize("round_", [-1, 4, 5, 10**9])
def test_a_round_outside_the_run_is_over_the_limit(round_):
    """Else a coordinator could go on for ever behind `limits.rounds`."""
    refused = refusal(check_training, configuration(), Limits(rounds=4), 10, round_)
    assert (
        refused.reason == Reason.OVER_LIMIT
        and f"round {round_}, counted from 0, of a run" in str(refused)
    )


@pytest.mark.parametrize(("steps", "allowed"), [(24, False), (25, True)])
def test_the_most_steps_are_counted_as_they_are_made(steps, allowed):
    """Also when the run counts in passes over the site's own cases."""
    for train in ({"steps": 25}, {"epochs": 5.0, "batch_size": 2}):
        config = configuration(train=train)
        if allowed:
            check_training(config, Limits(steps=steps), 10, 0)
        else:
            refused = refusal(check_training, config, Limits(steps=steps), 10, 0)
            assert "25 steps in a round, limit 24" in str(refused)


@pytest.mark.parametrize(("images", "allowed"), [(49, False), (50, True)])
def test_the_most_images_are_steps_times_those_of_a_step(images, allowed):
    """Else steps could be as long as the coordinator likes."""
    limits = Limits(steps=25, images=images)
    for train in ({"steps": 25, "batch_size": 2}, {"epochs": 5.0, "batch_size": 2}):
        config = configuration(train=train)
        if allowed:
            check_training(config, limits, 10, 0)
        else:
            refused = refusal(check_training, config, limits, 10, 0)
            assert refused.reason == Reason.OVER_LIMIT
            assert "50 images or slices in a round (25 steps), limit 49" in str(refused)


@pytest.mark.parametrize("part", ["train", "other", ""])
def test_cases_of_other_parts_are_not_scored(part):
    assert refusal(check_part, part).reason == Reason.OVER_LIMIT
    check_part("val")
    check_part("test")


def test_the_number_of_training_cases_is_not_told():
    limits = Limits(least_training_cases=30)
    refused = refusal(check_training, configuration(), limits, 17, 0)
    assert refused.reason == Reason.TOO_FEW_CASES
    assert "30" in str(refused) and "17" not in str(refused)
    check_training(configuration(), limits, 30, 0)


def test_without_a_training_case_there_is_no_training():
    refused = refusal(check_training, configuration(train={"epochs": 1.0}), Limits(), 0, 0)
    assert refused.reason == Reason.TOO_FEW_CASES


def test_the_largest_state():
    check_size(2_000_000, Limits(megabytes=2))
    refused = refusal(check_size, 2_000_001, Limits(megabytes=2))
    assert refused.reason == Reason.OVER_LIMIT and "limit 2.0 MB" in str(refused)


def test_the_backbone_is_compared_before_the_adapters():
    """The adapters differ too when the backbones do, and only one of the two can be mended."""
    ours: Any = SimpleNamespace(base_sha256="a" * 64, sha256="b" * 64)
    check_model(ours, "a" * 64, "b" * 64)
    assert refusal(check_model, ours, "x" * 64, "y" * 64).reason == Reason.OTHER_BACKBONE
    refused = refusal(check_model, ours, "a" * 64, "y" * 64)
    assert refused.reason == Reason.OTHER_ADAPTERS
    assert "y" * 16 in str(refused) and "b" * 16 in str(refused)


@pytest.mark.parametrize("kind", ["synthetic", "phantom"])
def test_a_run_for_volumes_and_a_site_with_images_do_not_meet(kind):
    """Nor the other way round: attention across slices would train on what has none."""
    config = configuration(data={"kind": kind})
    check_run(config, Limits(), None, kind == "phantom")
    refused = refusal(check_run, config, Limits(), None, kind == "synthetic")
    assert refused.reason == Reason.OTHER_DATA
    assert "2D images" in str(refused) and "volumes" in str(refused) and kind in str(refused)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rounds": 9}, "rounds 4, now 9"),
        ({"seed": 5}, "seed 0, now 5"),
        ({"train": {"steps": 7}}, "train.steps 25, now 7"),
        ({"adapter": {"kind": "msa", "ratio": 0.5}}, "adapter.ratio 0.25, now 0.5"),
        ({"model": {"image_size": 64}}, "model.image_size None, now 64"),
        ({"strategy": {"kind": "fedprox", "mu": 0.1}}, "strategy.kind 'fedavg', now 'fedprox'"),
    ],
)
def test_a_run_that_was_changed_is_refused_with_the_settings(tmp_path, changed, told):
    """Six changes of one setting each, against the run.json of the kit."""
    agreed = tmp_path / "run.json"
    agreed.write_text(configuration().for_sites())
    limits = Limits(runs=(configuration().sha256,))
    check_run(configuration(), limits, None, agreed=agreed)
    refused = refusal(check_run, configuration(**changed), limits, None, agreed=agreed)
    assert refused.reason == Reason.RUN_NOT_ALLOWED and told in str(refused)
    for content in ("", "[]", "{"):  # a damaged file says nothing, and stops nothing
        agreed.write_text(content)
        refused = refusal(check_run, configuration(**changed), limits, None, agreed=agreed)
        assert "changed since" not in str(refused)
