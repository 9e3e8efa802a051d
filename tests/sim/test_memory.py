"""What virtual sites leave behind: one model for all, and nothing of a site after its turn."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import medsa_model.privacy.fit
import medsa_model.train
import sim.engine
from medsa_model.build import build
from medsa_model.sam import MedSam
from sim.compare import Plan
from sim.federations import run_plan
from tests.sim.test_federation import configuration, prepare

PRIVACY = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "delta": 1e-3}


@pytest.mark.parametrize("more", [{}, {"privacy": PRIVACY, "rounds": 1}], ids=["plain", "private"])
def test_between_turns_there_is_one_model_and_no_optimizer_and_no_gradient(
    tmp_path, monkeypatch, more
):
    build.cache_clear()
    models: list[weakref.ref[MedSam]] = []
    optimizers: list[weakref.ref[torch.optim.Optimizer]] = []
    answers: list[str] = []
    begin = MedSam.__init__

    def counted(self: MedSam, *arguments: Any, **named: Any) -> None:
        models.append(weakref.ref(self))
        begin(self, *arguments, **named)

    def watched(make: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            optimizers.append(weakref.ref(optimizer := make(*arguments)))
            return optimizer

        return run

    class Watching(sim.engine.InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            assert not reply.has_error()
            (model,) = (model for made in models if (model := made()) is not None)
            assert all(parameter.grad is None for parameter in model.parameters())
            assert all(optimizer() is None for optimizer in optimizers)
            answers.append(message.metadata.message_type)
            return reply

    monkeypatch.setattr(MedSam, "__init__", counted)
    for module in (medsa_model.train, medsa_model.privacy.fit):
        monkeypatch.setattr(module, "make_optimizer", watched(module.make_optimizer))
    monkeypatch.setattr(sim.engine, "InProcessGrid", Watching)
    data = {"kind": "synthetic", "sites": 3, "cases_per_site": 4, "size": 64}
    train = {"steps": 1, "batch_size": 1, "prompts_per_image": 1}
    config = configuration(data=data, train=train, evaluate={"every": 0}, **more)
    sites = prepare(config, tmp_path / "run")
    run_plan(Plan("federated", tmp_path / "run", config, tuple(sites)), tmp_path / "run", sites)
    assert answers.count("train") == len(optimizers) == config.rounds * len(sites)
    assert answers.count("evaluate") == len(sites)
