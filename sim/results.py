"""Gather the rows of a finished comparison: summary.json, report.json and example pictures."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from medsa_model.backbone import base_parameters
from medsa_model.build import Built, build
from medsa_model.checkpoint import latest_round, load_round, write_json
from medsa_model.data import VOLUMES
from medsa_model.device import choose_device
from medsa_model.evaluate import Means
from medsa_model.logs import read_metrics
from medsa_model.privacy.summary import privacy_summary
from medsa_model.run_rows import (
    Scores,
    SiteScore,
    communication,
    final_scores,
    foreground_mean,
    row,
    training_seconds,
)
from medsa_model.run_summary import data_facts, model_facts, trained_facts
from medsa_model.state import AdapterState
from sim.baselines import baselines_for, evaluate_baseline
from sim.compare import Plan, plans
from sim.config import SimulatedRun
from sim.examples import write_examples
from sim.sites import open_sites
from sim.summary import cross_site, empty_cases, images_seen, local_row, off_site_mean


def write_results(
    config: SimulatedRun, run: Path, sites: Mapping[str, int], started: float, resumed: bool
) -> None:
    """Write summary.json (the contract), report.json (the details) and the examples.

    `started` is when the command began, by `time.monotonic`; `resumed`, whether it found rounds.
    """
    todo = plans(config, run, sites)
    prompts = [kind.name for kind in config.prompt.evaluate]
    single = {p.row: final_scores(p.folder) for p in todo if p.row != "local"}
    models = {p.folder.name: final_scores(p.folder) for p in todo if p.row == "local"}
    seconds = {
        name: training_seconds(p.folder for p in todo if p.row == name)
        for name in dict.fromkeys(p.row for p in todo)
    }

    def rows_for(prompt: str) -> dict[str, dict[str, object]]:
        scores: dict[str, dict[str, SiteScore]] = {"zero_shot": single["zero_shot"][prompt]}
        if models:
            scores["local"] = local_row(models, prompt)
        for name in ("federated", "centralized"):
            if name in single:
                scores[name] = single[name][prompt]
        return {name: row(score, seconds[name]) for name, score in scores.items()}

    pooled: dict[str, Scores] = {
        name: single[name] for name in ("federated", "centralized") if name in single
    }
    matrices = {prompt: cross_site(models, pooled, prompt) for prompt in prompts}
    built = {p.row: _build(p) for p in todo if p.row not in ("zero_shot", "local", "centralized")}
    main = built["federated"]
    traffic = communication(run, 4 * base_parameters(config.model.backbone, config.model.frame))
    rows = rows_for(prompts[0])
    summary = {
        "name": config.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "data": data_facts(config),
        "model": model_facts(config, main),
        "rows": rows,
        "foreground_mean": foreground_mean(rows["federated"]),
        "cross_site": {k: v for k, v in matrices[prompts[0]].items() if k != "centralized"},
        "communication": {k: v for k, v in traffic.items() if not k.startswith(("total", "peak"))},
        "privacy": privacy_summary(read_metrics(run)),
    }
    references = _references(config, run, sites, single, seconds)
    report = {
        "simulated": True,
        "prompts": {prompt: {"rows": rows_for(prompt)} for prompt in prompts},
        "references": references,
        "cross_site": matrices,
        "local_on_other_sites": {
            prompt: off_site_mean(models, prompt) for prompt in prompts if len(models) > 1
        },
        "images": {
            name: images_seen(p.folder for p in todo if p.row == name) for name in seconds
        },
        "empty_test_cases": empty_cases(run),
        "communication": traffic,
        "trained": {name: trained_facts(each) for name, each in built.items()},
        "seconds": seconds,
    }  # fmt: skip
    if config.sim.examples:
        _examples(config, run, sites, todo, main)
    report["command"] = {"seconds": round(time.monotonic() - started, 2), "resumed": resumed}
    write_json(run / "summary.json", summary)
    write_json(run / "report.json", report)


def _build(plan: Plan) -> Built:
    config = plan.config
    cpu = torch.device("cpu")
    return build(config.model, config.adapter, config.seed, cpu, config.named_classes)


def _references(
    config: SimulatedRun, run: Path, sites: Iterable[str], single: dict[str, Scores],
    seconds: dict[str, float],
) -> dict[str, dict[str, object]]:  # fmt: skip
    """Rows that are always printed beside the model: baselines without one, then references."""
    opened = open_sites(run)
    result: dict[str, dict[str, object]] = {}
    for name, baseline in baselines_for(config.data.kind in VOLUMES).items():
        scores: Scores = {}
        for site in sites:
            evaluation = evaluate_baseline(
                baseline, opened[site].parts["test"], config.prompt.evaluate,
                config.model.frame, config.seed, config.volume,
            )  # fmt: skip
            for prompt, values in evaluation.summary().items():
                named = _named(evaluation.by_structure()[prompt], config.data.classes)
                volumes = {name: values[name] for name in ("hd95", "nsd") if name in values}
                scores.setdefault(prompt, {})[site] = SiteScore(
                    dice=values["dice"], iou=values["iou"], cases=int(values["cases"]),
                    **volumes, **named,  # type: ignore[typeddict-item]
                )  # fmt: skip
        result[name] = {prompt: row(by_site, 0.0) for prompt, by_site in scores.items()}
    for name in config.sim.references:
        result[name] = {p: row(by_site, seconds[name]) for p, by_site in single[name].items()}
    return result


def _named(by_structure: Mapping[int, Means], classes: Sequence[str]) -> dict[str, object]:
    """Scores by the names of structures; nothing when there is one alone."""
    if len(classes) == 1:
        return {}
    return {"structures": {classes[number]: values for number, values in by_structure.items()}}


def _examples(
    config: SimulatedRun, run: Path, sites: Iterable[str], todo: Sequence[Plan], main: Built
) -> None:
    device = choose_device(config.sim.device)
    built = build(config.model, config.adapter, config.seed, device, config.named_classes)

    def state(folder: Path) -> AdapterState:
        return load_round(folder, latest_round(folder) or 0, main.manifest).state

    local = {p.folder.name: p.folder for p in todo if p.row == "local"}
    states = {}
    for site in sites:
        states[site] = {"zero-shot": main.initial}
        if site in local:
            states[site]["local"] = state(local[site])
        states[site]["federated"] = state(run)
    opened = open_sites(run)
    chosen = {site: opened[site].parts["test"][: config.sim.examples] for site in sites}
    write_examples(run / "examples", chosen, states, built.model, config)


def read_results(run: Path) -> dict[str, dict[str, dict[str, float]]]:
    """By prompt and row: the Dice block of the row, references last."""
    report = json.loads((run / "report.json").read_text())
    result = {}
    for prompt, block in report["prompts"].items():
        rows = {name: values["dice"] for name, values in block["rows"].items()}
        for name, by_prompt in report["references"].items():
            if prompt in by_prompt:
                rows[name] = by_prompt[prompt]["dice"]
        result[prompt] = rows
    return result
