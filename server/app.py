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
from medsa_model.checkpoint import Round, latest_round, link_round, load_round, save_round
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError, ManifestError
from medsa_model.logs import append_metrics, logger
from medsa_model.state import AdapterState
from medsa_model.strategies import Update
from server.strategy import Node, accept, exchange, introduce, order

SECONDS_TO_ANSWER = 3600.0


def make_app(
    config: RunConfig,
    run: Path,
    train_on: Sequence[str] | None = None,
    evaluate_on: Sequence[str] | None = None,
    quorum: int = 1,
) -> ServerApp:
    """The app of one run; `None` trains or evaluates on every connected site.

    A round with fewer than `quorum` usable updates ends the run with a `FederationError`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = introduce(grid, SECONDS_TO_ANSWER)
        training = [n for n in nodes if train_on is None or n.site in train_on]
        scoring = [n for n in nodes if evaluate_on is None or n.site in evaluate_on]
        federate(grid, config, run, training, scoring, quorum)

    return app


def federate(
    grid: Grid,
    config: RunConfig,
    run: Path,
    training: Sequence[Node],
    scoring: Sequence[Node],
    quorum: int,
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
        updates = train_round(grid, config, run, built, training, current, quorum)
        state, memory = config.strategy.aggregate(current.state, updates, current.memory)
        number = current.number + 1
        due = config.evaluate.every and number % config.evaluate.every == 0
        dice = (
            evaluate_round(grid, config, run, built, scoring, state, number, "val") if due else None
        )
        facts: dict[str, object] = {"sites": [n.site for n in training], "validation_dice": dice}
        current = Round(number, state, memory, facts)
        save_round(run, current, built.manifest, sections)
        append_metrics(run, "round", round=number, seconds=round(time.monotonic() - started, 3))
    evaluate_round(grid, config, run, built, scoring, current.state, current.number, "test")
    link_round(run, "final", current.number)
    link_round(run, "best", best_round(run, built, current))


def train_round(
    grid: Grid, config: RunConfig, run: Path, built: Built, sites: Sequence[Node],
    current: Round, quorum: int,
) -> list[Update]:  # fmt: skip
    """Let every site train from the current state; at least `quorum` usable updates are needed."""
    content = order(config, built.manifest, current.state, round=str(current.number))
    targets = {node.node_id: node.site for node in sites}
    group, updates = str(current.number + 1), {}
    for answer in exchange(grid, targets, MessageType.TRAIN, content, group, SECONDS_TO_ANSWER):
        try:
            updates[answer.site] = accept(answer, built.manifest)
        except ManifestError as error:
            reason = str(error).splitlines()[0]
            logger.warning("round %s: no update from %s: %s", group, answer.site, reason)
            append_metrics(run, "rejected", round=int(group), site=answer.site, reason=reason)
            continue
        metrics = answer.message.content.metric_records["metrics"]
        append_metrics(
            run, "train", round=int(group), site=answer.site, loss=metrics["loss"],
            examples=metrics["num-examples"], seconds=metrics["seconds"], memory=metrics["memory"],
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
    state: AdapterState, number: int, part: str,
) -> float | None:  # fmt: skip
    """Score `state` on the sites' cases of `part`; returns the mean Dice of the main prompt."""
    targets = {node.node_id: node.site for node in sites if node.cases.get(part)}
    if not targets:
        return None
    content = order(config, built.manifest, state, part=part)
    total, cases = 0.0, 0
    main = config.prompt.evaluate[0].name
    for answer in exchange(
        grid, targets, MessageType.EVALUATE, content, str(number), SECONDS_TO_ANSWER
    ):
        if answer.message.has_error():
            logger.warning("round %s: %s did not evaluate: %s", number, answer.site,
                           answer.message.error.reason)  # fmt: skip
            continue
        metrics = answer.message.content.metric_records["metrics"]
        for kind in config.prompt.evaluate:
            if f"{kind.name}/dice" not in metrics:
                continue
            dice, iou, count = (
                float(str(metrics[f"{kind.name}/{name}"])) for name in ("dice", "iou", "cases")
            )
            append_metrics(run, "evaluate", round=number, site=answer.site, part=part,
                           prompt=kind.name, dice=dice, iou=iou, cases=int(count))  # fmt: skip
            if kind.name == main:
                total, cases = total + dice * count, cases + int(count)
    return total / cases if cases else None


def best_round(run: Path, built: Built, final: Round) -> int:
    """The round with the highest validation Dice; the last one when nothing was validated."""
    scores = {}
    for number in range(1, final.number + 1):
        dice = load_round(run, number, built.manifest).facts.get("validation_dice")
        if isinstance(dice, float):
            scores[number] = dice
    return max(scores, key=lambda number: scores[number]) if scores else final.number
