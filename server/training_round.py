"""One round of training: ask the sites, judge every answer, keep the valid updates on disk."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import ConfigRecord, MessageType

from medsa_model.checkpoint import Round
from medsa_model.errors import FederationError, ManifestError, MedsaError
from medsa_model.logs import logger
from medsa_model.records import fingerprint
from medsa_model.refusals import Reason
from medsa_model.rejections import Code, Rejected
from medsa_model.stored_state import keep
from medsa_model.strategies import Update
from medsa_model.update_coding import largest_size
from server.cost import read_cost
from server.exchange import Answer, Unanswered, exchange
from server.introduction import Node
from server.receipts import remember
from server.strategy import Received, accept, order, too_long
from server.study import Study

AGAIN = (Code.ERROR, Code.UNREADABLE)  # another try may go well; else work is deterministic
IN_MEMORY = 64 * 2**20  # bytes of a round's updates
FOLDER = "updates"  # in the run directory, while a round lasts


def train_round(
    study: Study, current: Round, train_on: Sequence[str] | None
) -> dict[str, Update]:  # fmt: skip
    """Let every site train from the current state; site -> update, empty for a skipped round.

    What was delivered stays valid in a repeated round, since all train from the same state; who
    refused is not asked again, who has come in the meantime is. Updates beyond the first 64 MiB
    are files, which `forget_updates` removes. Raises `FederationError`.
    """
    rules, number = study.rules, current.number + 1
    forget_updates(study.run)
    received: dict[str, Received] = {}
    refused: set[str] = set()
    unanswered = Unanswered()
    for attempt in range(rules.repeats + 1):
        if attempt > 1:  # an answer that is lost without a trace must not cost the round
            unanswered = Unanswered()
        sites = study.present(train_on)
        missing = [n for n in sites if n.site not in received and n.site not in refused]
        if attempt and missing:
            study.note("repeated", round=number, sites=sorted(received))
        if missing:
            ask_to_train(study, missing, current, unanswered, received, refused)
            # of fewer the median says too little
            if len(received) >= study.quorum and not rules.unchecked:
                drop_too_long(study, number, received, refused)
        if len(received) >= study.quorum:
            return {site: received[site].update for site in sorted(received)}
    names = ", ".join(node.site for node in sites if node.site not in received) or "none connected"
    text = (
        f"round {number}: {len(received)} of {len(sites)} sites sent a usable update, at least "
        f"{study.quorum} are needed; missing: {names}; the reasons stand above and in "
        "metrics.jsonl"
    )
    if not rules.skip:
        raise FederationError(text)
    logger.warning("%s; the round is skipped", text)
    study.note("skipped", round=number, sites=sorted(received))
    return {}


def forget_updates(run: Path) -> None:
    """Remove the states of single sites: they are nobody's business once they are in the mean."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def ask_to_train(
    study: Study, sites: Sequence[Node], current: Round, unanswered: Unanswered,
    received: dict[str, Received], refused: set[str],
) -> None:  # fmt: skip
    """One exchange of a training round: fills `received` and `refused` by site."""
    rules, number = study.rules, current.number + 1
    content, echo = order(study.config, study.manifest, current.state, round=str(current.number))
    targets = {node.node_id: node.site for node in sites}
    cases = {node.site: node.cases["train"] for node in sites}
    study.audit("asked", round=number, sites=sorted(cases), what="train",
                state=fingerprint(content.array_records["arrays"]))  # fmt: skip
    silent = set(targets.values())
    needed, lifetime = study.quorum - len(received), rules.timeout * (rules.repeats + 1)
    # an order packs better than what has been trained: the first state is full of zeros
    largest = largest_size(study.manifest.shapes, study.config.message.update)
    for answer in exchange(study.grid, targets, MessageType.TRAIN, content, str(number),
                           rules.timeout, needed, unanswered, lifetime, largest):  # fmt: skip
        silent.discard(answer.site)
        try:
            got = judge(study, answer, current, cases[answer.site], echo)
        except Rejected as rejected:
            code = rejected.code
            if code not in AGAIN or refuses(answer):
                refused.add(answer.site)
            study.reject(number, answer.site, code, str(rejected), "update",
                         state=state_of(answer), refusal=refusal_of(answer))  # fmt: skip
            continue
        received[answer.site] = put_aside(study.run, got, len(received))
        metrics, norm = got.numbers, got.norm if math.isfinite(got.norm) else None
        study.note(
            "train", round=number, site=answer.site, loss=metrics.get("loss"),
            examples=metrics["num-examples"], images=metrics["images"],
            seconds=metrics["seconds"], waited=metrics.get("waited"), memory=metrics["memory"],
            norm=norm,
            up_bytes=answer.received_bytes, down_bytes=answer.sent_bytes,
            state=state_of(answer),
        )  # fmt: skip
    for site in sorted(silent):
        logger.warning("round %d: no answer from %s in time", number, site)
        study.note("missing", round=number, site=site)


def judge(
    study: Study, answer: Answer, current: Round, most_examples: int, echo: dict[str, str]
) -> Received:
    """The update in an answer; raises `Rejected`, whatever a site sent."""
    config = study.config
    private = config.privacy is not None
    names = config.data.classes if config.prompt.by_class else ()
    try:
        if private and answer.message.has_content():
            record_cost(study, answer, current.number + 1)
            check_ledger(study, answer)
        manifest = study.manifest.sent_as(config.message.update)
        return accept(answer, manifest, current.state, most_examples, echo, names, private,
                      study.rules.unchecked)  # fmt: skip
    except Rejected:
        raise
    except (MedsaError, OSError, MemoryError):  # the coordinator's own
        raise
    except Exception as error:  # what nobody thought of concerns the site that sent it alone
        logger.exception("an answer of %s that cannot be judged", answer.site)
        kind = type(error).__name__
        raise Rejected(Code.UNREADABLE, f"its answer cannot be read ({kind})") from error


def put_aside(run: Path, received: Received, before: int) -> Received:
    """The same with its state on disk, unless it and the `before` others of its size are small: of
    all sites together memory would hold too much."""
    size = sum(tensor.nbytes for tensor in received.update.state.values())
    if (before + 1) * size <= IN_MEMORY:
        return received
    folder = run / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    count = sum(1 for _ in folder.iterdir())
    stored = keep(folder / f"{count:04d}.safetensors", dict(received.update.state))
    return replace(received, update=replace(received.update, state=stored))


def refuses(answer: Answer) -> bool:
    """Whether the site says itself that it will not, which no repetition changes."""
    return answer.message.has_error() and answer.message.error.code > Reason.FAILED


def refusal_of(answer: Answer) -> str | None:
    """The name of the reason that a site gave, as it stands in its own audit log."""
    known = {int(reason): reason.name for reason in Reason}
    return known.get(answer.message.error.code) if answer.message.has_error() else None


def state_of(answer: Answer) -> str | None:
    """sha256 of the arrays in an answer, by which the site's audit log knows it too."""
    if answer.message.has_error() or "arrays" not in answer.message.content.array_records:
        return None
    return fingerprint(answer.message.content.array_records["arrays"])


def drop_too_long(
    study: Study, number: int, received: dict[str, Received], refused: set[str]
) -> None:
    """Move updates from `received` to `refused` that are far longer than the others."""
    cases = {node.site: max(node.cases["train"], 1) for node in study.roster.nodes.values()}
    steps = {site: float(study.config.steps_for(cases[site])) for site in received}
    if study.config.privacy:  # all take as many; the noise of few patients is longer
        steps = {site: 1 / cases[site] for site in received}
    norms = {site: each.norm for site, each in received.items()}
    for site, limit in too_long(norms, steps).items():
        del received[site]
        refused.add(site)
        study.reject(
            number, site, Code.NORM, f"its change has norm {norms[site]:.3g}, expected at most "
            f"{limit:.3g} by those of the others", "update",
        )  # fmt: skip


def record_cost(study: Study, answer: Answer, number: int) -> None:
    """Note what a private update cost, also when it is of no use; raises `Rejected`."""
    cost = read_cost(answer.message.content.config_records.get("privacy"), study.config)
    study.note("privacy", round=number, site=answer.site, **cost.model_dump())


def check_ledger(study: Study, answer: Answer) -> None:
    """Bar a site whose privacy ledger went backwards; raises `Rejected`."""
    if study.roster.receipts is None:
        return
    told = answer.message.content.config_records.get("ledger", ConfigRecord())
    try:
        remember(study.roster.receipts, answer.site, told)
    except ManifestError as error:
        study.roster.barred.add(answer.site)
        raise Rejected(Code.LEDGER, str(error)) from error
