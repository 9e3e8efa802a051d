"""The Flower ServerApp: the round loop, on one page.

Everything that a run is lies in its directory: after an interruption the same call goes on from
the last complete round and ends with the same result.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from flwr.app import Context, MessageType
from flwr.serverapp import Grid, ServerApp

from medsa_model.build import Built, build
from medsa_model.checkpoint import (
    Round,
    latest_round,
    link_round,
    load_round,
    read_facts,
    save_round,
)
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError, ManifestError
from medsa_model.logs import append_metrics, logger
from medsa_model.state import AdapterState
from medsa_model.strategies import Update
from server.strategy import Node, accept, exchange, introduce, order, read_scores


def make_app(
    config: RunConfig,
    run: Path,
    train_on: Sequence[str] | None = None,
    evaluate_on: Sequence[str] | None = None,
    quorum: int = 1,
    nodes: int = 1,
    timeout: float = 3600.0,
) -> ServerApp:
    """The app of one run; `None` trains or evaluates on every connected site.

    Starts when `nodes` nodes are connected. All sites of a round together have `timeout` seconds
    to answer. A round with fewer than `quorum` usable updates ends the run with a
    `FederationError`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        present = introduce(grid, nodes, timeout)
        training = [n for n in present if train_on is None or n.site in train_on]
        scoring = [n for n in present if evaluate_on is None or n.site in evaluate_on]
        federate(grid, config, run, training, scoring, quorum, timeout)

    return app


def federate(
    grid: Grid,
    config: RunConfig,
    run: Path,
    training: Sequence[Node],
    scoring: Sequence[Node],
    quorum: int,
    timeout: float,
) -> None:
    """Run the rounds that are still missing in `run`, then score the final state on test cases."""
    built = build(config.model, config.adapter, config.seed, torch.device("cpu"))
    sections = {"model": config.model.model_dump(mode="json", exclude={"checkpoint"}),
                "adapter": config.adapter.model_dump(mode="json")}  # fmt: skip
    done = latest_round(run)
    if done is None:
        current = Round(0, built.initial, {}, {})
        save_round(run, current, built.manifest, sections)
    else:
        current = load_round(run, done, built.manifest)
    while current.number < config.rounds:
        started = time.monotonic()
        updates = train_round(grid, config, run, built, training, current, quorum, timeout)
        state, memory = config.strategy.aggregate(current.state, updates, current.memory)
        number = current.number + 1
        dice = None
        if config.evaluate.every and number % config.evaluate.every == 0:
            dice = evaluate_round(grid, config, run, built, scoring, state, number, "val", timeout)
        facts: dict[str, object] = {"sites": [n.site for n in training], "validation_dice": dice}
        current = Round(number, state, memory, facts)
        save_round(run, current, built.manifest, sections)
        append_metrics(run, "round", round=number, seconds=round(time.monotonic() - started, 3))
    evaluate_round(
        grid, config, run, built, scoring, current.state, current.number, "test", timeout
    )
    link_round(run, "best", best_round(run, current.number))
    link_round(run, "final", current.number)  # the last thing: a run with this link is complete


def train_round(
    grid: Grid, config: RunConfig, run: Path, built: Built, sites: Sequence[Node],
    current: Round, quorum: int, timeout: float,
) -> list[Update]:  # fmt: skip
    """Let every site train from the current state; at least `quorum` usable updates are needed."""
    content = order(config, built.manifest, current.state, round=str(current.number))
    targets = {node.node_id: node.site for node in sites}
    cases = {node.site: node.cases.get("train", 0) for node in sites}
    group, updates = str(current.number + 1), {}
    for answer in exchange(grid, targets, MessageType.TRAIN, content, group, timeout):
        try:
            updates[answer.site] = accept(answer, built.manifest, cases[answer.site])
        except ManifestError as error:
            reason = str(error).splitlines()[0]
            logger.warning("round %s: no update from %s: %s", group, answer.site, reason)
            append_metrics(run, "rejected", round=int(group), site=answer.site, reason=reason)
            continue
        metrics = answer.message.content.metric_records["metrics"]
        append_metrics(
            run, "train", round=int(group), site=answer.site, loss=metrics["loss"],
            examples=metrics["num-examples"], images=metrics["images"],
            seconds=metrics["seconds"], memory=metrics["memory"],
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
        )  # fmt: skip
    if len(updates) < max(quorum, 1):
        missing = ", ".join(site for site in targets.values() if site not in updates)
        raise FederationError(
            f"round {group}: {len(updates)} of {len(targets)} sites sent a usable update, at least "
            f"{max(quorum, 1)} are needed; missing: {missing}; the reasons stand above and in "
            "metrics.jsonl"
        )
    return [updates[site] for site in sorted(updates)]


def evaluate_round(
    grid: Grid, config: RunConfig, run: Path, built: Built, sites: Sequence[Node],
    state: AdapterState, number: int, part: str, timeout: float,
) -> float | None:  # fmt: skip
    """Score `state` on the sites' cases of `part`; returns the mean Dice of the main prompt."""
    targets = {node.node_id: node.site for node in sites if node.cases.get(part)}
    content = order(config, built.manifest, state, part=part)
    prompts = [kind.name for kind in config.prompt.evaluate]
    total, cases = 0.0, 0
    for answer in exchange(grid, targets, MessageType.EVALUATE, content, str(number), timeout):
        try:
            scores = read_scores(answer, prompts)
        except ManifestError as error:
            logger.warning("round %s: no scores from %s: %s", number, answer.site, error)
            continue
        append_metrics(
            run, "traffic", round=number, site=answer.site, part=part, empty=scores.empty,
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
        )  # fmt: skip
        for prompt, (dice, iou, count) in scores.by_prompt.items():
            append_metrics(run, "evaluate", round=number, site=answer.site, part=part,
                           prompt=prompt, dice=dice, iou=iou, cases=count)  # fmt: skip
        dice, _, count = scores.by_prompt.get(prompts[0], (0.0, 0.0, 0))
        total, cases = total + dice * count, cases + count
    return total / cases if cases else None


def best_round(run: Path, final: int) -> int:
    """The round with the highest validation Dice; the last one when nothing was validated."""
    scores = {n: read_facts(run, n).get("validation_dice") for n in range(1, final + 1)}
    known = {number: dice for number, dice in scores.items() if isinstance(dice, float)}
    return max(known, key=lambda number: known[number]) if known else final
