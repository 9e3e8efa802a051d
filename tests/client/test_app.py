"""What a site answers, and what never leaves it."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context

from client.config import Limits
from client.hospital import Site
from medsa_model import __version__
from medsa_model.data.sample import Case
from medsa_model.data.synthetic import Synthetic
from medsa_model.errors import DataError
from medsa_model.evaluate import evaluate
from medsa_model.records import to_arrays, to_state
from medsa_model.refusals import Reason
from medsa_model.state import AdapterState, load_adapter_state
from tests.client.messages import (
    CASE,
    CPU,
    PATIENT,
    ask,
    built,
    configuration,
    metrics,
    order,
    order_for,
    raising,
    reason,
)  # fmt: skip

METRICS = {"num-examples", "images", "loss", "seconds", "memory", "waited"}
PATH = "/hospital/images"
SECRET = f"{PATH}/{PATIENT}.png of {CASE}"


@pytest.fixture
def site() -> Site:
    cases = Synthetic(sites=1, cases_per_site=6, size=64).open()
    return Site("site_a", {"train": cases[:3], "val": cases[3:4], "test": cases[4:]}, CPU)


def without_structure(site: Site) -> Case:
    """The site's first test case with an empty mask."""
    sample = site.parts["test"][0].load()
    bare = dataclasses.replace(sample, mask=torch.zeros_like(sample.mask))
    return Case(CASE, PATIENT, "site_a", None, lambda: bare)


def test_query_answers_name_version_and_counts(site):
    content = ask(lambda _: site, "query").content
    assert dict(content.config_records["site"]) == {"site": "site_a", "version": __version__}
    assert dict(content.metric_records["cases"]) == {"train": 3, "val": 1, "test": 2}
    assert not content.array_records


def test_a_context_decides_which_site_answers(site):
    """`open_site` gets the context that the message came with."""

    def open_site(context: Context) -> Site:
        return dataclasses.replace(site, name=f"opened for {context.node_config['site']}")

    record = ask(open_site, "query").content.config_records["site"]
    assert record["site"] == "opened for site_a"


def test_train_answers_what_the_manifest_promises(site):
    config = configuration()
    reply = ask(lambda _: site, "train", order(config))
    assert set(reply.content) == {"arrays", "metrics", "echo"}
    echo = {"run": config.sha256, "round": "0", "base": built(config).manifest.base_sha256,
            "manifest": built(config).manifest.sha256}  # fmt: skip
    assert dict(reply.content.config_records["echo"]) == echo
    shapes = built(config).manifest.shapes
    state = to_state(reply.content.array_records["arrays"], shapes, built(config).initial)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    assert list(state) == list(shapes)
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in state.values())
    first = built(config).initial
    assert any(not torch.equal(state[name], first[name]) for name in first)


def test_train_answers_exactly_these_metrics(site):
    found = metrics(ask(lambda _: site, "train", order(configuration())))
    assert set(found) == METRICS
    assert found["num-examples"] == 3
    assert found["images"] == 4  # 2 steps of 2 images
    assert math.isfinite(found["loss"]) and found["loss"] > 0
    assert found["seconds"] > 0 and found["memory"] > 0


def test_training_begins_at_the_state_that_was_sent(site):
    """Whatever the site's model held before: the same message has the same answer."""
    config = configuration()

    def answer() -> AdapterState:
        reply = ask(lambda _: site, "train", order(config))
        shapes = built(config).manifest.shapes
        return to_state(reply.content.array_records["arrays"], shapes, built(config).initial)

    one, two = answer(), answer()
    assert all(torch.equal(one[name], two[name]) for name in one)


OTHERS = {
    "other adapters": ({"adapter": {"kind": "msa", "ratio": 0.5}}, Reason.OTHER_ADAPTERS),
    "another backbone": ({"model": {"image_size": 32, "weights": "random"}}, Reason.OTHER_BACKBONE),
    "another frame": ({"model": {"image_size": 64}}, Reason.OTHER_ADAPTERS),
}


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(("other", "code"), OTHERS.values(), ids=OTHERS)
def test_a_site_with_another_model_refuses(site, kind, other, code):
    """With both fingerprints, so that two people can compare them on the telephone."""
    theirs, ours = built(configuration(**other)).manifest, built(configuration()).manifest
    content = order_for(kind, configuration(), built(configuration(**other)))
    said = reason(ask(lambda _: site, kind, content), code)
    pair = (theirs.sha256, ours.sha256)
    if code is Reason.OTHER_BACKBONE:
        pair = (theirs.base_sha256, ours.base_sha256)
    assert all(sha256[:16] in said for sha256 in pair)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_state_that_does_not_fit_is_refused(site, kind):
    content = order_for(kind, configuration())
    for arrays, word in (
        (ArrayRecord({"w": torch.zeros(2)}), "expected one named adapters"),
        (ArrayRecord({"adapters": torch.zeros(2)}), "expected float32 of"),
        (to_arrays({"w": torch.full((158_688,), torch.nan)}, {"w": (158_688,)}), "not finite"),
    ):
        content["arrays"] = arrays
        assert word in reason(ask(lambda _: site, kind, content), Reason.OTHER_TENSORS)


def test_nothing_is_read_for_a_coordinator_with_another_model(site):
    site.parts = {part: [raising(AssertionError("read"))] for part in ("train", "test")}
    other = built(configuration(adapter={"kind": "msa", "ratio": 0.5}))
    for kind in ("train", "evaluate"):
        content = order_for(kind, configuration(), other)
        assert reason(ask(lambda _: site, kind, content), Reason.OTHER_ADAPTERS)


LIMITED = {
    "a run that is not on the list": ({"runs": ("0" * 64,)}, Reason.RUN_NOT_ALLOWED),
    "too many rounds": ({"rounds": 1}, Reason.OVER_LIMIT),
    "too many steps": ({"steps": 1}, Reason.OVER_LIMIT),
    "too many images": ({"images": 3}, Reason.OVER_LIMIT),
    "too large a state": ({"megabytes": 0.1}, Reason.OVER_LIMIT),
    "too few training cases": ({"least_training_cases": 4}, Reason.TOO_FEW_CASES),
}


@pytest.mark.parametrize(("limits", "code"), LIMITED.values(), ids=LIMITED)
def test_the_limits_of_a_site_beat_the_wishes_of_the_coordinator(site, limits, code):
    site.parts = {"train": [raising(AssertionError("read"))] * 3}
    site.limits = Limits.model_validate(limits)
    assert reason(ask(lambda _: site, "train", order(configuration())), code)


def test_limits_that_are_kept_refuse_nothing(site):
    config = configuration()
    size = built(config).manifest.size_in_bytes / 1e6
    site.limits = Limits(runs=(config.sha256,), rounds=2, steps=2, images=4, megabytes=size * 1.05,
                         least_training_cases=3, least_evaluated_cases=2)  # fmt: skip
    assert metrics(ask(lambda _: site, "train", order(config)))
    assert metrics(ask(lambda _: site, "evaluate", order(config, part="test")))


def test_scores_of_too_few_cases_are_not_told(site):
    site.limits = Limits(least_evaluated_cases=3)
    content = order(configuration(), part="test")
    assert reason(ask(lambda _: site, "evaluate", content), Reason.TOO_FEW_CASES)


def test_cases_without_a_structure_do_not_make_a_mean_of_few_one_of_many(site):
    """Else one patient's score could be told between any number of empty masks."""
    content = order(configuration(), part="test")
    site.parts = {"test": [without_structure(site), *site.parts["test"]]}
    site.limits = Limits(least_evaluated_cases=3)
    said = reason(ask(lambda _: site, "evaluate", content), Reason.TOO_FEW_CASES)
    assert "fewer scored test cases than its limit 3" in said
    site.limits = Limits(least_evaluated_cases=2)
    assert metrics(ask(lambda _: site, "evaluate", content))["click/cases"] == 2


def test_too_few_cases_are_not_even_read(site):
    site.limits = Limits(least_evaluated_cases=3)
    site.parts = {"test": [raising(AssertionError("read"))] * 2}
    content = order(configuration(), part="test")
    assert reason(ask(lambda _: site, "evaluate", content), Reason.TOO_FEW_CASES)


@pytest.mark.fault
def test_structures_by_other_names_are_refused(site):
    """Else masks of one structure would train the model of another one."""
    names = tuple(configuration().data.classes)
    site.classes = names[::-1]
    said = reason(ask(lambda _: site, "train", order(configuration())), Reason.OTHER_CLASSES)
    assert ", ".join(names) in said and ", ".join(names[::-1]) not in said
    site.classes = names
    assert metrics(ask(lambda _: site, "train", order(configuration())))


@pytest.mark.parametrize(
    ("round_", "code"),
    [("2", Reason.OVER_LIMIT), ("3", Reason.OVER_LIMIT), ("-1", Reason.MESSAGE),
     ("1.5", Reason.MESSAGE), ("", Reason.MESSAGE), ("9" * 40, Reason.MESSAGE)],
)  # fmt: skip
def test_a_round_that_the_run_does_not_have_is_refused(site, round_, code):
    content = order(configuration(), round=round_)
    assert reason(ask(lambda _: site, "train", content), code)
    assert metrics(ask(lambda _: site, "train", order(configuration(), round="1")))


def test_a_run_without_rounds_is_scored(site):
    content = order(configuration(rounds=0), part="test")
    assert metrics(ask(lambda _: site, "evaluate", content))
    content = order(configuration(rounds=0))
    assert reason(ask(lambda _: site, "train", content), Reason.OVER_LIMIT)


def test_a_round_that_is_asked_for_again_and_again_is_refused(site, tmp_path, monkeypatch):
    """Else no limit on rounds would bound a site's work."""
    monkeypatch.setattr("client.counted.REPEATS", 2)
    site.counted = tmp_path / "counted.json"
    for _ in range(2):
        assert metrics(ask(lambda _: site, "train", order(configuration())))
    said = reason(ask(lambda _: site, "train", order(configuration())), Reason.OVER_LIMIT)
    assert "the round was trained 2 times already;" in said
    assert metrics(ask(lambda _: site, "train", order(configuration(), round="1")))


def test_scores_that_are_asked_for_again_and_again_are_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr("client.counted.EVALUATIONS", 1)
    site.counted = tmp_path / "counted.json"
    config = configuration(rounds=1)
    for _ in range(2):
        assert metrics(ask(lambda _: site, "evaluate", order(config, part="test")))
    said = reason(ask(lambda _: site, "evaluate", order(config, part="test")), Reason.OVER_LIMIT)
    assert "its test cases were evaluated 2 times already;" in said
    assert metrics(ask(lambda _: site, "evaluate", order(config, part="val")))


def test_what_is_refused_is_not_counted(site, tmp_path):
    site.counted = tmp_path / "counted.json"
    site.limits = Limits(steps=1)
    assert reason(ask(lambda _: site, "train", order(configuration())), Reason.OVER_LIMIT)
    assert not site.counted.exists()


@pytest.mark.parametrize("part", ["train", "other", "DOE^JOHN"])
def test_only_cases_that_are_held_back_are_scored(site, part):
    content = order(configuration(), part=part)
    assert reason(ask(lambda _: site, "evaluate", content), Reason.OVER_LIMIT)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("error", [DataError, ValueError, RuntimeError, KeyError, OSError])
def test_of_an_error_only_its_kind_crosses(site, kind, error, caplog, monkeypatch):
    """Ours or not: the text may name a path or a patient, and stays in the site's own log."""
    monkeypatch.setattr("client.app.logger.propagate", True)  # set_up() turns it off
    site.parts = {part: [raising(error(SECRET))] * 2 for part in ("train", "test")}
    reply = ask(lambda _: site, kind, order_for(kind, configuration()))
    assert reason(reply) == f"{error.__name__} (details in the site's log)"
    assert not any(word in str(reply) + reason(reply) for word in (PATH, PATIENT, CASE))
    assert SECRET in caplog.text


def test_a_weights_file_that_is_missing_is_not_named(site):
    site.checkpoint = Path(PATH) / f"{PATIENT}.safetensors"
    reply = ask(lambda _: site, "train", order(configuration()))
    assert reason(reply) == "CheckpointError (details in the site's log)"


def test_a_site_that_cannot_be_opened_says_the_kind_only():
    def open_site(_: Context) -> Site:
        raise ValueError(SECRET)

    for kind in ("query", "train", "evaluate"):
        assert reason(ask(open_site, kind)) == "ValueError (details in the site's log)"


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("run", [None, "{", '{"name": "DOE^JOHN"}'])
def test_a_message_without_a_proper_order_is_answered_with_an_error(site, kind, run):
    content = order_for(kind, configuration())
    if run is None:
        del content["config"]
    else:
        content.config_records["config"]["run"] = run
    reply = ask(lambda _: site, kind, content)
    if run is None:
        assert "it has 1 records (arrays ArrayRecord)" in reason(reply, Reason.MESSAGE)
    else:
        said = reason(reply, Reason.OTHER_SETTINGS)
        assert "9.9" in said and __version__ in said and "DOE" not in said


def test_evaluate_answers_scores_by_prompt(site):
    config = configuration()
    found = metrics(ask(lambda _: site, "evaluate", order(config, part="test")))
    of = [f"{prompt}{name}" for prompt in ("click", "box")
          for name in ("", *(f"/{structure}" for structure in config.data.classes))]  # fmt: skip
    names = {f"{each}/{name}" for each in of for name in ("dice", "iou", "cases")}
    assert set(found) == {"num-examples", "empty"} | names  # means alone

    model = built(config)
    load_adapter_state(model.model, model.initial)
    rows = evaluate(model.model, site.parts["test"], config.prompt.evaluate, config.seed).rows
    assert (found["num-examples"], found["empty"]) == (2, 0)
    for prompt in ("click", "box"):
        mine = [row for row in rows if row.prompt == prompt]
        assert len(mine) == 2 * len(config.data.classes)  # each structure in each of two cases
        for name in ("dice", "iou"):
            mean = sum(getattr(row, name) for row in mine) / len(mine)
            assert found[f"{prompt}/{name}"] == pytest.approx(mean)
            for number, structure in enumerate(config.data.classes):
                values = [getattr(row, name) for row in mine if row.structure == number]
                assert found[f"{prompt}/{structure}/{name}"] == pytest.approx(sum(values) / 2)
        assert found[f"{prompt}/cases"] == found[f"{prompt}/{config.data.classes[0]}/cases"] == 2
        assert 0 < found[f"{prompt}/iou"] < found[f"{prompt}/dice"] < 1


def test_evaluate_asks_with_the_prompts_of_the_run(site):
    config = configuration(prompt={"evaluate": [{"kind": "box"}]})
    found = metrics(ask(lambda _: site, "evaluate", order(config, part="val")))
    assert {name for name in found if name.count("/") < 2} == {
        "num-examples", "empty", "box/dice", "box/iou", "box/cases",
    }  # fmt: skip
    assert all(name.startswith("box/") for name in found if "/" in name)
    assert found["num-examples"] == found["box/cases"] == 1


def test_a_part_that_the_site_does_not_have_gives_no_scores(site):
    site.parts = {"train": site.parts["train"]}
    found = metrics(ask(lambda _: site, "evaluate", order(configuration(), part="val")))
    assert dict(found) == {"num-examples": 0, "empty": 0}


def test_a_case_without_a_structure_is_counted_and_not_scored(site):
    empty, full = without_structure(site), site.parts["test"][0]

    def scores(*cases: Case) -> dict[str, object]:
        site.parts = {"test": cases}
        content = order(configuration(), part="test")
        return dict(metrics(ask(lambda _: site, "evaluate", content)))

    both, alone, nothing = scores(empty, full), scores(full), scores(empty)
    assert both == alone | {"empty": 1} and alone["empty"] == 0
    assert both["num-examples"] == both["click/cases"] == both["box/cases"] == 1
    assert nothing == {"num-examples": 0, "empty": 1}
