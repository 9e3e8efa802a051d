"""Equal budgets, and what the references change."""

from pathlib import Path

from medsa_model.adapters import Full, Msa
from sim.compare import plans
from sim.config import SimulatedRun
from sim.sites import POOLED


def made(**more: object) -> dict[str, list]:
    content = {"name": "x", "data": {"kind": "synthetic"}, "train": {"steps": 4}, **more}
    config = SimulatedRun.model_validate(content)
    by_row: dict[str, list] = {}
    for plan in plans(config, Path("run"), {"a": 12, "b": 24, "c": 5}):
        by_row.setdefault(plan.row, []).append(plan)
    return by_row


def test_each_row_has_its_trainers():
    rows = made()
    assert [plan.train_on for plan in rows["local"]] == [("a",), ("b",), ("c",)]
    assert rows["federated"][0].train_on == ("a", "b", "c")
    assert rows["centralized"][0].train_on == (POOLED,)
    assert rows["zero_shot"][0].config.rounds == 0


def test_the_pooled_site_takes_as_many_steps_as_all_sites_together():
    rows = made()
    assert rows["centralized"][0].config.train.steps == 3 * 4
    assert rows["local"][0].config.train == rows["federated"][0].config.train


def test_with_epochs_as_well():
    rows = made(train={"epochs": 2.0, "batch_size": 12})
    assert rows["centralized"][0].config.train.steps == 2 + 4 + 2


def test_local_and_centralised_are_plain_training_whatever_the_strategy():
    rows = made(strategy={"kind": "fedadam"})
    assert {plan.config.strategy.kind for plan in rows["local"] + rows["centralized"]} == {"fedavg"}
    assert rows["federated"][0].config.strategy.kind == "fedadam"


def test_scratch_has_its_own_rate():
    rows = made(sim={"references": ["scratch"], "scratch_rate": 0.5})
    assert rows["scratch"][0].config.train.rate == 0.5


def test_references_differ_in_one_thing():
    rows = made(
        sim={"references": ["scratch", "train_decoder"]}, adapter={"kind": "msa", "ratio": 0.5}
    )
    scratch, decoder = rows["scratch"][0].config, rows["train_decoder"][0].config
    assert scratch.adapter == Full()
    assert scratch.model.weights == "random"
    assert decoder.adapter == Msa(ratio=0.5, train_decoder=True)
    assert decoder.model == rows["federated"][0].config.model


def test_no_two_federations_share_a_directory():
    folders = [p.folder for row in made(sim={"references": ["scratch"]}).values() for p in row]
    assert len(set(folders)) == len(folders)
