"""The Flower ServerApp: the round loop, on one page.

Everything that a run is lies in its directory: after an interruption the same call goes on from
the last complete round and ends with the same result, or with differential privacy with other
noise.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from medsa_model.build import Built, build
from medsa_model.checkpoint import (
    Round,
    is_complete,
    latest_round,
    link_round,
    load_round,
    read_facts,
    save_round,
)
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError, ManifestError
from medsa_model.logs import append_metrics, logger, read_metrics
from medsa_model.refusals import Reason
from medsa_model.state import AdapterState
from medsa_model.strategies import PrivateFedAvg, Update
from server.cost import read_cost
from server.exchange import Answer, Unanswered, exchange
from server.flower_private import connected
from server.receipts import remember
from server.strategy import Node, accept, clean, introduce, order, read_scores

LOOK = 0.2  # seconds between two looks at who is connected
NEWCOMER_SECONDS = 30.0  # longest wait for the introduction of a site that joins during the run
SILENT_SECONDS = 3.0  # the same for one that did not answer before
FAREWELL = f"{MessageType.QUERY}.farewell"
FAREWELL_SECONDS = 20.0


@dataclass(frozen=True)
class Rules:
    """How a federation treats sites that are missing.

    It starts with `nodes` connected nodes. The sites of a round together have `timeout` seconds to
    answer. A round with fewer than `quorum` usable updates is repeated `repeats` times: at first
    sites that are still at work are waited for as long again and others are asked again, later all
    that are missing are. After that it is skipped when `skip` is true, else it ends the run with a
    `FederationError`. With `farewell` the sites are told when the federation is over.
    """

    nodes: int = 1
    quorum: int = 1
    timeout: float = 3600.0
    repeats: int = 0
    skip: bool = False
    farewell: bool = False
    sites: Sequence[str] = ()
    """Names of all sites; of those that never came nothing else would tell."""
    receipts: str | None = None
    """File of what is remembered of the sites' privacy ledgers, also by later runs."""


@dataclass
class Roster:
    """Who takes part: nodes by site, and the activation of every node that was asked."""

    nodes: dict[str, Node] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    """Nodes that did not answer the last time; they are asked again, but not waited for long."""
    private: bool = False
    receipts: Path | None = None
    barred: set[str] = field(default_factory=set)
    """Sites whose privacy ledger went backwards: not asked again in this run."""


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
        federate(grid, config, run, rules, train_on, evaluate_on)

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
    sections = {"model": config.model.model_dump(mode="json", exclude={"checkpoint"}),
                "adapter": config.adapter.model_dump(mode="json")}  # fmt: skip
    done = latest_round(run)
    if done is None:
        current = Round(0, built.initial, {}, {})
        save_round(run, current, built.manifest, sections)
    else:
        current = load_round(run, done, built.manifest)
    receipts = Path(rules.receipts) if rules.receipts else None
    roster = Roster(private=config.privacy is not None, receipts=receipts)
    strategy = config.strategy
    if isinstance(strategy, PrivateFedAvg):
        strategy = strategy.prepared(config.rounds)
        sites = len(train_on or rules.sites) or rules.nodes
        size = sum(tensor.numel() for tensor in current.state.values())
        logger.warning("%s", strategy.warning(config.rounds, sites, size))
    while current.number < config.rounds:
        started = time.monotonic()
        updates = train_round(grid, config, run, built, roster, current, rules, train_on)
        number, dice = current.number + 1, None
        facts: dict[str, object] = {"sites": sorted(updates)}
        if updates:
            ordered = [updates[site] for site in sorted(updates)]
            state, memory = strategy.aggregate(current.state, ordered, current.memory)
            if isinstance(strategy, PrivateFedAvg):
                # before anybody sees the state: after a crash the round has noise once more
                noisy = 1 + sum(e["event"] == "site_privacy" for e in read_metrics(run))
                append_metrics(run, "site_privacy", round=number, delta=strategy.delta,
                               epsilon=strategy.spent(noisy), accountant="rdp")  # fmt: skip
            check_aggregate({**state, **memory}, number, updates)
        else:
            state, memory = current.state, current.memory
            facts["skipped"] = True
        if updates and config.evaluate.every and number % config.evaluate.every == 0:
            scoring = present(grid, roster, rules, evaluate_on)
            dice = evaluate_round(grid, config, run, built, scoring, state, number, "val", rules)
        current = Round(number, state, memory, {**facts, "validation_dice": dice})
        save_round(run, current, built.manifest, sections)
        wanted = {*(rules.sites if train_on is None else train_on), *updates}
        append_metrics(run, "round", round=number, sites=facts["sites"],
                       missing=sorted(wanted - updates.keys()),
                       seconds=round(time.monotonic() - started, 3))  # fmt: skip
    numbers = range(1, current.number + 1)
    if numbers and all(read_facts(run, number).get("skipped") for number in numbers):
        raise FederationError(
            f"none of {len(numbers)} rounds had a usable update of {rules.quorum} sites: nothing "
            "was trained; the reasons stand in metrics.jsonl"
        )
    scoring = present(grid, roster, rules, evaluate_on)
    evaluate_round(grid, config, run, built, scoring, current.state, current.number, "test", rules)
    link_round(run, "best", best_round(run, current.number))
    link_round(run, "final", current.number)  # the last thing: a run with this link is complete
    if rules.farewell:
        say_farewell(grid)


def present(grid: Grid, roster: Roster, rules: Rules, wanted: Sequence[str] | None) -> list[Node]:
    """The connected sites by name; who is new or was restarted introduces itself first.

    Waits for `rules.nodes` nodes at the start and for the quorum later, at most `rules.timeout`
    seconds.
    """
    first = not roster.asked
    least = rules.nodes if first else rules.quorum
    deadline = time.monotonic() + rules.timeout
    while len(nodes := connected(grid)) < least and time.monotonic() < deadline:
        time.sleep(LOOK)
    new = [i for i, node in nodes.items() if roster.asked.get(i) != node.activated]
    unknown = {i: nodes[i].name or None for i in {*new, *(roster.silent & nodes.keys())}}
    roster.asked |= {i: nodes[i].activated for i in unknown}
    patience = NEWCOMER_SECONDS if new else SILENT_SECONDS
    timeout = rules.timeout if first else min(rules.timeout, patience)
    known, silent = list[Node](), set[int]()
    if unknown:
        known, silent = introduce(grid, unknown, timeout, roster.private, roster.receipts)
    roster.silent = (roster.silent - unknown.keys()) | silent
    for node in known:
        before = roster.nodes.get(node.site)
        if before and before.node_id != node.node_id and before.node_id in nodes:
            raise FederationError(f"two nodes say that they are site {node.site!r}")
        roster.nodes[node.site] = node
    return [
        node for site, node in sorted(roster.nodes.items())
        if node.node_id in nodes and (wanted is None or site in wanted)
        and site not in roster.barred
    ]  # fmt: skip


def train_round(
    grid: Grid, config: RunConfig, run: Path, built: Built, roster: Roster, current: Round,
    rules: Rules, train_on: Sequence[str] | None,
) -> dict[str, Update]:  # fmt: skip
    """Let every site train from the current state; site -> update, empty for a skipped round.

    What was delivered stays valid in a repeated round, since all train from the same state; who
    refused is not asked again, who has come in the meantime is. Raises `FederationError`.
    """
    updates: dict[str, Update] = {}
    refused: set[str] = set()
    unanswered = Unanswered()
    for attempt in range(rules.repeats + 1):
        if attempt > 1:  # an answer that is lost without a trace must not cost the round
            unanswered = Unanswered()
        sites = present(grid, roster, rules, train_on)
        missing = [n for n in sites if n.site not in updates and n.site not in refused]
        if attempt and missing:
            append_metrics(run, "repeated", round=current.number + 1, sites=sorted(updates))
        if missing:
            ask_to_train(grid, config, run, built, missing, current, rules, unanswered, updates,
                         refused, roster)  # fmt: skip
        if len(updates) >= max(rules.quorum, 1):
            return updates
    number = current.number + 1
    names = ", ".join(node.site for node in sites if node.site not in updates) or "none connected"
    text = (
        f"round {number}: {len(updates)} of {len(sites)} sites sent a usable update, at least "
        f"{max(rules.quorum, 1)} are needed; missing: {names}; the reasons stand above and in "
        "metrics.jsonl"
    )
    if not rules.skip:
        raise FederationError(text)
    logger.warning("%s; the round is skipped", text)
    append_metrics(run, "skipped", round=number, sites=sorted(updates))
    return {}


def ask_to_train(
    grid: Grid, config: RunConfig, run: Path, built: Built, sites: Sequence[Node], current: Round,
    rules: Rules, unanswered: Unanswered, updates: dict[str, Update], refused: set[str],
    roster: Roster,
) -> None:  # fmt: skip
    """One exchange of a training round: fills `updates` and `refused` by site."""
    content = order(config, built.manifest, current.state, round=str(current.number))
    targets = {node.node_id: node.site for node in sites}
    cases = {node.site: node.cases["train"] for node in sites}
    number, private = current.number + 1, config.privacy is not None
    names = config.data.classes if config.prompt.by_class else ()
    silent = set(targets.values())
    needed, lifetime = rules.quorum - len(updates), rules.timeout * (rules.repeats + 1)
    for answer in exchange(grid, targets, MessageType.TRAIN, content, str(number), rules.timeout,
                           needed, unanswered, lifetime):  # fmt: skip
        silent.discard(answer.site)
        try:
            if private and answer.message.has_content():
                record_cost(answer, config, run, number)
                check_ledger(answer, roster)
            update = accept(answer, built.manifest, cases[answer.site], names, private)
            updates[answer.site] = update
        except ManifestError as error:
            if answer.message.has_error() and answer.message.error.code > Reason.FAILED:
                refused.add(answer.site)
            reason = clean(str(error))
            logger.warning("round %d: no update from %s: %s", number, answer.site, reason)
            append_metrics(run, "rejected", round=number, site=answer.site, reason=reason)
            continue
        metrics = answer.message.content.metric_records["metrics"]
        append_metrics(
            run, "train", round=number, site=answer.site, loss=metrics.get("loss"),
            examples=metrics["num-examples"], images=metrics["images"],
            seconds=metrics["seconds"], memory=metrics["memory"],
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
        )  # fmt: skip
    for site in sorted(silent):
        logger.warning("round %d: no answer from %s in time", number, site)
        append_metrics(run, "missing", round=number, site=site)


def record_cost(answer: Answer, config: RunConfig, run: Path, number: int) -> None:
    """Note what a private update cost, also when it is of no use; raises `ManifestError`."""
    cost = read_cost(answer.message.content.config_records.get("privacy"), config)
    append_metrics(run, "privacy", round=number, site=answer.site, **cost.model_dump())


def check_ledger(answer: Answer, roster: Roster) -> None:
    """Bar a site whose privacy ledger went backwards; raises `ManifestError`."""
    if roster.receipts is None:
        return
    told = answer.message.content.config_records.get("ledger", ConfigRecord())
    try:
        remember(roster.receipts, answer.site, told)
    except ManifestError:
        roster.barred.add(answer.site)
        raise


def evaluate_round(
    grid: Grid, config: RunConfig, run: Path, built: Built, sites: Sequence[Node],
    state: AdapterState, number: int, part: str, rules: Rules,
) -> float | None:  # fmt: skip
    """Score `state` on the sites' cases of `part`; returns the mean Dice of the main prompt."""
    targets = {node.node_id: node.site for node in sites if node.cases[part]}
    most = {node.site: node.cases[part] for node in sites}
    content = order(config, built.manifest, state, part=part)
    prompts = [kind.name for kind in config.prompt.evaluate]
    structures = config.data.classes if len(config.data.classes) > 1 else ()
    total, cases = 0.0, 0
    group, timeout = str(number), rules.timeout
    for answer in exchange(grid, targets, MessageType.EVALUATE, content, group, timeout):
        try:
            scores = read_scores(answer, prompts, structures, most[answer.site])
        except ManifestError as error:
            reason = clean(str(error))
            logger.warning("round %d: no scores from %s: %s", number, answer.site, reason)
            continue
        append_metrics(
            run, "traffic", round=number, site=answer.site, part=part, empty=scores.empty,
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
        )  # fmt: skip
        for prompt, score in scores.by_prompt.items():
            of_structures = scores.by_structure.get(prompt, {})
            told = {name: asdict(each) for name, each in of_structures.items()}
            append_metrics(run, "evaluate", round=number, site=answer.site, part=part,
                           prompt=prompt, **asdict(score), structures=told)  # fmt: skip
        if main := scores.by_prompt.get(prompts[0]):
            total, cases = total + main.dice * main.cases, cases + main.cases
    return total / cases if cases else None


def check_aggregate(state: AdapterState, number: int, updates: Collection[str]) -> None:
    """Raise `FederationError` when finite updates have a mean that is not, before it is saved."""
    if bad := [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise FederationError(
            f"round {number}: the mean of the updates of {', '.join(sorted(updates))} is not "
            f"finite in {len(bad)} tensors, such as {bad[0]}: one of them has enormous values. "
            "Nothing of this round was kept; find the site by its loss in metrics.jsonl, revoke or "
            "leave it out, and go on with --resume"
        )


def say_farewell(grid: Grid) -> None:
    """Tell every connected site that the federation is over, so that its process can end."""
    targets = {node_id: node.name or str(node_id) for node_id, node in connected(grid).items()}
    for answer in exchange(grid, targets, FAREWELL, RecordDict(), "0", FAREWELL_SECONDS):
        if answer.message.has_error():
            logger.warning("%s did not take the farewell", answer.site)


def best_round(run: Path, final: int) -> int:
    """The round with the highest validation Dice; the last one when nothing was validated."""
    scores = {n: read_facts(run, n).get("validation_dice") for n in range(1, final + 1)}
    known = {number: dice for number, dice in scores.items() if isinstance(dice, float)}
    return max(known, key=lambda number: known[number]) if known else final
