"""The Flower ServerApp: the round loop, on one page.

Everything that a run is lies in its directory: after an interruption the same call goes on from
the last complete round and ends with the same result, or with differential privacy with other
noise.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from flwr.app import Context, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from medsa_model.backbone import file_sha256
from medsa_model.build import build
from medsa_model.checkpoint import (
    Round,
    is_complete,
    link_round,
    load_latest,
    read_facts,
    save_round,
)
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError
from medsa_model.logs import append_metrics, logger, read_metrics
from medsa_model.run_summary import write_summary
from medsa_model.state import AdapterState
from medsa_model.strategies import Memory, PrivateFedAvg, Strategy, Update
from server.evaluation_round import evaluate_round
from server.exchange import exchange
from server.flower_private import connected
from server.lines import result_line, round_line
from server.roster import Roster, strikes_after
from server.rules import Rules
from server.study import Study
from server.training_round import forget_updates, train_round

FAREWELL = f"{MessageType.QUERY}.farewell"
FAREWELL_SECONDS = 20.0


def make_app(
    config: RunConfig,
    run: Path,
    rules: Rules,
    train_on: Sequence[str] | None = None,
    evaluate_on: Sequence[str] | None = None,
) -> ServerApp:
    """The app of one run; `None` trains or evaluates on every connected site."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            federate(grid, config, run, rules, train_on, evaluate_on)
        except FederationError:  # then the page says who was missing
            write_page(run, rules)
            raise
        write_page(run, rules)

    return app


def federate(
    grid: Grid,
    config: RunConfig,
    run: Path,
    rules: Rules,
    train_on: Sequence[str] | None,
    evaluate_on: Sequence[str] | None,
) -> None:
    """Run the rounds that are still missing in `run`, then score the final state on test cases.

    Where sites wait for a farewell, that is all that a complete run has left; else it is scored
    again. Raises `FederationError` when a round fails by the rules, or when every one was skipped.
    """
    if rules.farewell and is_complete(run):
        say_farewell(grid)
        return
    built = build(
        config.model, config.adapter, config.seed, torch.device("cpu"), config.named_classes
    )
    sections = config.sections
    current = load_latest(run, built.manifest)
    if current is None:
        current = Round(0, built.initial, {}, {})
        save_round(run, current, built.manifest, sections)
    study = Study(grid, config, run, built.manifest, rules, new_roster(config, run, rules, current))
    study.audit(
        "started", run=config.name, sha256=config.sha256, base=built.manifest.base_sha256,
        manifest=built.manifest.sha256, after_round=current.number,
    )  # fmt: skip
    strategy = config.strategy
    if isinstance(strategy, PrivateFedAvg):
        strategy = strategy.prepared(config.rounds)
        sites = len(train_on or rules.sites) or rules.nodes
        size = sum(tensor.numel() for tensor in current.state.values())
        logger.warning("%s", strategy.warning(config.rounds, sites, size))
    try:
        current = run_rounds(study, strategy, current, sections, train_on, evaluate_on)
    finally:
        forget_updates(run)
    numbers = range(1, current.number + 1)
    if numbers and all(read_facts(run, number).get("skipped") for number in numbers):
        raise FederationError(
            f"none of {len(numbers)} rounds had a usable update of {study.quorum} sites: nothing "
            "was trained; the reasons stand in metrics.jsonl"
        )
    evaluate_round(study, evaluate_on, current.state, current.number, "test")
    if rules.audit:  # a simulation keeps none, and has a summary of its whole comparison
        write_summary(run, config, built, rules.sites)
        logger.info("%s", result_line(run, config.prompt.evaluate[0].name))
    link_round(run, "best", best_round(run, current.number))
    link_round(run, "final", current.number)  # the last thing: a run with this link is complete
    study.audit("finished", round=current.number)
    if rules.farewell:
        say_farewell(grid)


def run_rounds(
    study: Study, strategy: Strategy, current: Round, sections: Mapping[str, object],
    train_on: Sequence[str] | None, evaluate_on: Sequence[str] | None,
) -> Round:  # fmt: skip
    """The rounds that are still missing, each saved when it is over; returns the last one."""
    config, run, rules = study.config, study.run, study.rules
    while current.number < config.rounds:
        started = time.monotonic()
        updates = train_round(study, current, train_on)
        number, dice = current.number + 1, None
        state, memory = close_round(study, strategy, current, updates)
        forget_updates(run)
        facts: dict[str, object] = {"sites": sorted(updates)}
        if not updates:
            facts["skipped"] = True
        elif config.evaluate.every and number % config.evaluate.every == 0:
            dice = evaluate_round(study, evaluate_on, state, number, "val")
        facts |= {"validation_dice": dice, "strikes": dict(sorted(study.roster.strikes.items()))}
        current = Round(number, state, memory, facts)
        place = save_round(run, current, study.manifest, sections)
        wanted = {*(rules.sites if train_on is None else train_on), *updates}
        missing, seconds = sorted(wanted - updates.keys()), time.monotonic() - started
        append_metrics(run, "round", round=number, sites=facts["sites"], missing=missing,
                       seconds=round(seconds, 3))  # fmt: skip
        if rules.audit:
            told = round_line(number, config.rounds, len(updates), missing, seconds, dice,
                              config.prompt.evaluate[0].name)  # fmt: skip
            logger.info("%s", told)
        study.audit("saved", round=number, sites=sorted(updates),
                    sha256=file_sha256(place / "adapter_model.safetensors"))  # fmt: skip
    return current


def new_roster(config: RunConfig, run: Path, rules: Rules, current: Round) -> Roster:
    """Nobody is known yet, but what was held against sites before an interruption is."""
    receipts = Path(rules.receipts) if rules.receipts else None
    strikes = strikes_after(current.number, current.facts, read_metrics(run))
    roster = Roster(private=config.privacy is not None, receipts=receipts, strikes=strikes)
    if roster.quarantined:
        logger.warning(
            "%s: in quarantine since before the interruption, not asked any more; "
            "--readmit NAME lets a site in again", ", ".join(sorted(roster.quarantined)),
        )  # fmt: skip
    return roster


def close_round(
    study: Study, strategy: Strategy, current: Round, updates: dict[str, Update]
) -> tuple[AdapterState, Memory]:
    """The next state and memory; the current ones without an update, or without a finite mean.

    Of `updates` all are taken out then: nothing that is not finite is ever saved or sent.
    """
    if not updates:
        return current.state, current.memory
    number = current.number + 1
    ordered = [updates[site] for site in sorted(updates)]
    state, memory = strategy.aggregate(current.state, ordered, current.memory)
    if isinstance(strategy, PrivateFedAvg):
        # before anybody sees the state: after a crash the round has noise once more
        noisy = 1 + sum(e["event"] == "site_privacy" for e in read_metrics(study.run))
        study.note("site_privacy", round=number, delta=strategy.delta,
                   epsilon=strategy.spent(noisy), accountant="rdp")  # fmt: skip
    whole = {**state, **memory}
    if bad := [name for name, tensor in whole.items() if not bool(tensor.isfinite().all())]:
        logger.error(
            "round %d: the aggregate of %s is not finite in %d tensors, such as %s: the round is "
            "skipped, the state before stays", number, ", ".join(sorted(updates)), len(bad), bad[0],
        )  # fmt: skip
        study.note("discarded", round=number, sites=sorted(updates))
        updates.clear()
        return current.state, current.memory
    return state, memory


def say_farewell(grid: Grid) -> None:
    """Tell every connected site that the federation is over, so that its process can end."""
    targets = {node_id: node.name or str(node_id) for node_id, node in connected(grid).items()}
    for answer in exchange(grid, targets, FAREWELL, RecordDict(), "0", FAREWELL_SECONDS):
        if answer.message.has_error():
            logger.warning("%s did not take the farewell", answer.site)


def write_page(run: Path, rules: Rules) -> None:
    """report.html of a run at real sites; a run is never lost for want of its page."""
    if not rules.audit:
        return
    # here: drawing takes a second to import, which the processes of a simulation do without
    from medsa_model.report import write_report

    try:
        logger.info("report: %s", write_report(run))
    except Exception as error:
        logger.warning(
            "%s: the report cannot be written (%s); the run is not touched by that, and "
            "`flower-server report %s` writes it", run, error, run,
        )  # fmt: skip


def best_round(run: Path, final: int) -> int:
    """The round with the highest validation Dice; the last one when nothing was validated."""
    scores = {n: read_facts(run, n).get("validation_dice") for n in range(1, final + 1)}
    known = {number: dice for number, dice in scores.items() if isinstance(dice, float)}
    return max(known, key=lambda number: known[number]) if known else final
