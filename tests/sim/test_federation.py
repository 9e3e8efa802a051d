"""The whole way on a small federation: equalities that must hold whatever the numbers are."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medsa_model.build import build
from medsa_model.checkpoint import latest_round
from medsa_model.data.frames import Frames, TrainingBatches
from medsa_model.data.split import read_split, write_split
from medsa_model.data.transforms import to_frame
from medsa_model.errors import MedsaError
from medsa_model.logs import read_metrics
from medsa_model.run_rows import final_scores as scores_of
from medsa_model.sam import MedSam
from medsa_model.state import adapter_state, load_adapter_state
from medsa_model.strategies.mean import weighted_mean
from medsa_model.train import fit
from sim.compare import Plan
from sim.config import SimulatedRun
from sim.directory import choose_directory
from sim.federations import finished, run_plan
from sim.sites import POOLED, open_cases, open_sites
from sim.split import split
from sim.summary import images_seen


def configuration(**more: object) -> SimulatedRun:
    content = {
        "name": "small",
        "rounds": 2,
        "model": {"image_size": 32},
        "data": {"kind": "synthetic", "sites": 2, "cases_per_site": 6, "size": 64},
        "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1},
        "sim": {"split": {"test": 0.34, "val": 0.17}, "device": "cpu"},
        **more,
    }
    return SimulatedRun.model_validate(content)


def prepare(config: SimulatedRun, run: Path) -> list[str]:
    choose_directory(config, run, resume=False, overwrite=False)
    dealt = split(open_cases(config), config.sim.partition, config.sim.split, config.seed)
    write_split(dealt, run / "split.json")
    open_sites.cache_clear()
    return list(read_split(run / "split.json").sites)


def federation(config: SimulatedRun, run: Path, train_on: tuple[str, ...] | None = None) -> Path:
    sites = prepare(config, run)
    run_plan(Plan("federated", run, config, train_on or tuple(sites)), run, sites)
    return run


def final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_one_site_federated_equals_plain_training_bit_for_bit(tmp_path):
    config = configuration()
    run = federation(config, tmp_path / "run", ("site_a",))

    built = build(config.model, config.adapter, config.seed, torch.device("cpu"))
    load_adapter_state(built.model, built.initial)
    frames = Frames(open_sites(run)["site_a"].parts["train"], 32, to_frame)
    train = config.train
    for round_ in range(config.rounds):
        batches = TrainingBatches(
            frames, config.prompt.train, 2, train.batch_size, train.prompts_per_image,
            train.augment, (config.seed, zlib.crc32(b"site_a"), round_),
        )  # fmt: skip
        fit(built.model, batches, config.loss.build(), train, round_ / config.rounds)
    assert same(final(run), adapter_state(built.model))


STOPS = {  # which call of what is interrupted, and the last round that is complete then
    "before the first answer of round 2": ("train_site", 3, 1),
    "after the first answer of round 2": ("train_site", 4, 1),
    "in the validation of round 2": ("evaluate_site", 4, 1),
    "in the scoring of test cases": ("evaluate_site", 6, 2),
}


MIDDLE = "after the first answer of round 2"
RESUMED = [("fedadam", place) for place in STOPS] + [("fedavg", MIDDLE)]  # with and without memory


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory) -> tuple[SimulatedRun, Path]:
    """Two rounds without an interruption, as short as they can be."""
    config = configuration(
        strategy={"kind": request.param},
        data={"kind": "synthetic", "sites": 2, "cases_per_site": 4, "size": 64},
        train={"steps": 1, "batch_size": 2, "prompts_per_image": 1},
    )
    return config, federation(config, tmp_path_factory.mktemp("runs") / request.param)


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Ctrl-C in place of call `number` (the first is 1) of `client.app.NAME`."""
    import client.app

    works, calls = getattr(client.app, name), []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return works(*arguments)

    monkeypatch.setattr(client.app, name, interrupted)


@pytest.mark.parametrize(("whole", "place"), RESUMED, indirect=["whole"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, whole, place):
    (config, expected), (name, number, complete) = whole, STOPS[place]
    run = tmp_path / "interrupted"
    sites = prepare(config, run)
    plan = Plan("federated", run, config, tuple(sites))
    with monkeypatch.context() as patch:
        interrupt(patch, name, number)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, run, sites)
    assert latest_round(run) == complete and not finished(plan, sites)

    build.cache_clear()  # a new process has neither model nor cases
    open_sites.cache_clear()
    assert choose_directory(config, run, resume=True, overwrite=False) == run
    run_plan(plan, run, sites)
    assert finished(plan, sites)
    for number in range(config.rounds + 1):
        folder = Path("rounds") / f"{number:04d}"
        for file in ("adapter_model.safetensors", "memory.safetensors"):
            assert (run / folder / file).exists() == (expected / folder / file).exists()
            if (run / folder / file).exists():
                assert same(load_file(run / folder / file), load_file(expected / folder / file))
    for link in ("best", "final"):
        assert (run / link).resolve().name == (expected / link).resolve().name
    assert scores_of(run) == scores_of(expected)
    assert images_seen([run]) == images_seen([expected])


def test_a_round_is_the_weighted_mean_of_what_the_sites_sent(tmp_path, monkeypatch):
    seen = []  # copied: the states are files that are removed after the round
    monkeypatch.setattr(
        "medsa_model.strategies.mean.weighted_mean",
        lambda updates, weighting: (
            seen.append([replace(update, state=dict(update.state)) for update in updates])
            or weighted_mean(updates, weighting)
        ),
    )
    run = federation(configuration(rounds=1), tmp_path / "run")
    (updates,) = seen
    assert [update.examples for update in updates] == [
        len(open_sites(run)[site].parts["train"]) for site in ("site_a", "site_b")
    ]
    total = sum(update.examples for update in updates)
    for name, tensor in final(run).items():
        expected = sum(u.state[name].double() * u.examples for u in updates) / total
        torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=0)


def test_zero_rounds_score_sam_itself(tmp_path):
    run = federation(configuration(rounds=0), tmp_path / "run")
    assert all(not t.any() for n, t in final(run).items() if ".up." in n)
    assert set(scores_of(run)) == {"click", "box"}
    assert set(scores_of(run)["click"]) == {"site_a", "site_b"}


def test_the_pooled_site_trains_on_everybodys_cases(tmp_path):
    run = federation(configuration(rounds=1), tmp_path / "run", (POOLED,))
    (event,) = [e for e in read_metrics(run) if e["event"] == "train"]
    parts = [site.parts["train"] for n, site in open_sites(run).items() if n != POOLED]
    assert event["site"] == POOLED and event["examples"] == sum(map(len, parts))


def test_what_is_written_can_be_read_by_others(tmp_path):
    run = federation(configuration(), tmp_path / "run")
    assert sorted(p.name for p in (run / "rounds").iterdir()) == ["0000", "0001", "0002"]
    assert (run / "final").resolve().name == "0002" and (run / "best").exists()
    events = read_metrics(run)
    assert {e["event"] for e in events} == {"train", "evaluate", "traffic", "round"}
    train = [e for e in events if e["event"] == "train"]
    assert all(2 * 158_688 < e["up_bytes"] < 4 * 158_688 for e in train)


def test_a_site_that_fails_ends_the_simulation_and_its_details_stay_with_it(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("/hospital/DOE^JOHN.png")

    monkeypatch.setattr("client.app.train_site", broken)
    run = tmp_path / "run"
    with pytest.raises(MedsaError, match="0 of 2 sites sent a usable update"):
        federation(configuration(), run)
    text = (run / "metrics.jsonl").read_text()
    assert "RuntimeError (details in the site's log)" in text and "DOE" not in text


def test_fedprox_travels_to_the_sites(tmp_path):
    plain = federation(configuration(rounds=1), tmp_path / "plain")
    prox = federation(
        configuration(rounds=1, strategy={"kind": "fedprox", "mu": 10.0}), tmp_path / "prox"
    )
    assert not same(final(plain), final(prox))


def test_different_sites_train_on_different_streams(tmp_path):
    one = federation(configuration(rounds=1), tmp_path / "one", ("site_a",))
    two = federation(configuration(rounds=1), tmp_path / "two", ("site_b",))
    assert not same(final(one), final(two))


def test_a_row_in_which_a_site_was_not_scored_is_not_finished(tmp_path, monkeypatch):
    config = configuration(rounds=0)
    run = tmp_path / "run"
    sites = prepare(config, run)
    plan = Plan("federated", run, config, tuple(sites))
    import client.app

    works, calls = client.app.evaluate_site, []

    def fails_once(site, *arguments):
        calls.append(site.name)
        if calls == ["site_a", "site_b"]:
            raise RuntimeError("disk")
        return works(site, *arguments)

    monkeypatch.setattr("client.app.evaluate_site", fails_once)
    with pytest.raises(MedsaError, match="not every site could be scored"):
        run_plan(plan, run, sites)
    assert not finished(plan, sites)
    run_plan(plan, run, sites)
    assert finished(plan, sites)
    assert set(scores_of(run)["click"]) == {"site_a", "site_b"}


@pytest.mark.parametrize("name", ["../x", "a/b", "pooled", "federated", ".hidden", ""])
def test_site_names_that_cannot_be_folders_are_refused(name):
    from sim.sites import check_names

    with pytest.raises(MedsaError, match=r"sites\.csv"):
        check_names(["good site", name])


def test_the_pooled_site_shares_the_frames_of_the_sites(tmp_path):
    run = federation(configuration(rounds=0), tmp_path / "run")
    sites = open_sites(run)
    config = configuration()
    first = sites["site_a"].batches(config, 0).frames[0]
    case = sites["site_a"].parts["train"][0].case
    names = [each.case for each in sites[POOLED].parts["train"]]
    assert sites[POOLED].batches(config, 0).frames[names.index(case)] is first


def test_a_cache_that_the_sites_share_changes_no_bit(tmp_path, monkeypatch):
    """In float32; images of all sites are encoded once for each of their variants."""
    more: dict[str, object] = {
        "adapter": {"kind": "msa", "blocks": "last-1"},
        "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1, "precision": "float32"},
    }
    encoded, whole = [], MedSam.prefix
    monkeypatch.setattr(
        MedSam, "prefix", lambda self, image: encoded.append(len(image)) or whole(self, image)
    )
    runs = []
    for megabytes in (0, 100):
        sim = {"split": {"test": 0.34, "val": 0.17}, "device": "cpu", "cache_megabytes": megabytes}
        encoded.clear()
        runs.append(federation(configuration(sim=sim, **more), tmp_path / str(megabytes)))
    assert same(final(runs[0]), final(runs[1]))
    assert scores_of(runs[0]) == scores_of(runs[1])
    sites = open_sites(runs[1]).values()
    assert len({id(site.cache) for site in sites}) == 1
    cache = next(iter(sites)).cache
    assert cache is not None and encoded == [1] * len(cache)
