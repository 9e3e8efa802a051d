"""The Flower ClientApp: unpack the message, let the site work, pack the answer.

`query` answers who the site is, `train` and `evaluate` what their names say, `query.farewell` that
the federation is over. Messages hold a configuration record with the run as JSON; code never
travels.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.charged import charge_round, to_receipt, told_of
from client.counted import count_evaluation, count_training
from client.hospital import Site, cases_annotated, cases_by_structure, evaluate_site, train_site
from client.policy import (
    check_model,
    check_part,
    check_run,
    check_size,
    check_training,
    read_round,
    read_run,
)
from client.privacy import Account, require_privacy
from client.result import keep_result
from client.update import to_update
from medsa_model import __version__
from medsa_model.audit_log import record
from medsa_model.config import RunConfig
from medsa_model.errors import AuditError, MedsaError
from medsa_model.logs import logger
from medsa_model.privacy.ledger import read_ledger
from medsa_model.privacy.section import rounded, rounded_up
from medsa_model.records import fingerprint, size_in_bytes, to_metrics
from medsa_model.refusals import Reason, Refused
from medsa_model.rejections import Code, Rejected
from medsa_model.residues import forget_residues
from medsa_model.state import AdapterState, Manifest
from medsa_model.validation import check_records, read_settings, read_state

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
FAREWELL = "query.farewell"
LARGEST_LOG = 100 * 10**6  # bytes of an audit log


def make_app(open_site: Callable[[Context], Site], mods: Sequence[Mod] = ()) -> ClientApp:
    """The app of one site; `open_site` finds or opens the site that a context belongs to.

    `mods` are Flower's: functions around the app, which a simulation of attacks uses.
    """
    app = ClientApp(mods=[*mods])

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, lambda: open_site(context), _introduce)

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return _answer(message, lambda: open_site(context), _take_leave)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, lambda: open_site(context), _train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, lambda: open_site(context), _evaluate)

    return app


def _answer(
    message: Message, open_site: Callable[[], Site], work: Callable[[Site, RecordDict], RecordDict]
) -> Message:
    """Reply with the result or the refusal; of an error only its kind crosses the wire."""
    site, reason = None, Reason.FAILED
    try:
        site = open_site()
        return Message(work(site, message.content), reply_to=message)
    except Refused as refused:
        logger.error("refused: %s", refused)
        reason, text = refused.reason, str(refused)
    except MedsaError as error:
        logger.error("%s", error)
        text = f"{type(error).__name__} (details in the site's log)"
    except Exception as error:
        logger.exception("unexpected error while answering")
        text = f"{type(error).__name__} (details in the site's log)"
    if site:
        with suppress(AuditError, Refused):  # it is what failed, or was logged
            _note(site, "refused", what=message.metadata.message_type, code=reason.name, told=text)
    return Message(Error(reason, text), reply_to=message)


def _note(site: Site, event: str, **facts: object) -> None:
    """Write an event into the site's audit log; raises `Refused` when that is too large: a
    coordinator that asks without end must not fill the disk.
    """
    if site.audit:
        if site.audit.exists() and site.audit.stat().st_size > LARGEST_LOG:
            raise Refused(
                Reason.OVER_LIMIT, "its audit log is full; its engineer moves it and its .head "
                "out of the state folder",
            )  # fmt: skip
        record(site.audit, event, **facts)


def _fingerprint_of(site: Site, arrays: ArrayRecord) -> str:
    """The fingerprint that a site's audit log notes; empty when it keeps none."""
    return fingerprint(arrays) if site.audit else ""


def _take_leave(site: Site, content: RecordDict) -> RecordDict:
    _note(site, "farewell")
    if site.residues:
        forget_residues(site.residues)
    return RecordDict()


def _introduce(site: Site, content: RecordDict) -> RecordDict:
    try:
        check_records(content, {"config": ConfigRecord})
    except Rejected as rejected:
        raise Refused(Reason.MESSAGE, f"{rejected} ({rejected.code})") from rejected
    facts = ConfigRecord({"site": site.name, "version": __version__})
    _note(site, "introduced")
    counts = {part: len(cases) for part, cases in site.parts.items()}
    asked = content.config_records.get("config", ConfigRecord())
    private = bool(asked.get("private")) or site.limits.epsilon is not None
    if private:
        counts = {part: rounded_up(cases) for part, cases in counts.items()}
    told = RecordDict({"site": facts, "cases": to_metrics(counts)})
    if private and site.ledger and (entries := read_ledger(site.ledger)):
        told["ledger"] = to_receipt(entries)
    return told


def _unpack(
    site: Site, content: RecordDict, more: str
) -> tuple[RunConfig, dict[str, str], ArrayRecord]:
    """The run, in which the site takes part, the order's settings, and the arrays as they came.

    `more` is the setting `round` or `part`. Raises `Refused`.
    """
    try:
        check_records(content, {"arrays": ArrayRecord, "config": ConfigRecord})
        names = {"run", "version", "base", "manifest", more}
        order = read_settings(content.config_records["config"], names, Code.RECORDS)
    except Rejected as rejected:
        raise Refused(Reason.MESSAGE, f"{rejected} ({rejected.code})") from rejected
    config = read_run(order["run"], order["version"])
    check_run(config, site.limits, site.classes, site.has_volumes, site.agreed)
    require_privacy(config, site.limits)
    return config, order, content.array_records["arrays"]


def _unpack_state(
    site: Site, arrays: ArrayRecord, config: RunConfig, order: Mapping[str, str]
) -> tuple[AdapterState, Manifest]:
    """Global state and its manifest, which fit the site's model; raises `Refused`."""
    check_size(size_in_bytes(arrays), site.limits)
    manifest = site.built(config).manifest.sent_as(config.message.update)
    check_model(manifest, order["base"], order["manifest"])
    try:
        return read_state(arrays, manifest), manifest
    except Rejected as rejected:
        raise Refused(Reason.OTHER_TENSORS, f"{rejected} ({rejected.code})") from rejected


def _echo(config: RunConfig, manifest: Manifest, **more: str) -> ConfigRecord:
    """What the answer belongs to, as this site has it."""
    has = {"run": config.sha256, "base": manifest.base_sha256, "manifest": manifest.sha256, **more}
    return ConfigRecord(dict(has))


def _train(site: Site, content: RecordDict) -> RecordDict:
    config, order, arrays = _unpack(site, content, "round")
    cases, round_ = site.parts.get("train", ()), read_round(order["round"])
    check_training(config, site.limits, len(cases), round_, site.has_volumes)
    state, manifest = _unpack_state(site, arrays, config, order)
    _note(site, "asked", what="train", run=config.name, sha256=config.sha256, round=round_ + 1,
          state=_fingerprint_of(site, arrays))  # fmt: skip
    count_training(site.counted, config, round_)
    accounts: list[Account] = []

    def charge() -> None:
        accounts.append(charge_round(site, config, round_))

    result = train_site(site, config, state, round_, charge)
    metrics: dict[str, float | int] = {
        "num-examples": result.examples,
        "images": result.images,
        "seconds": result.seconds,
        "memory": result.memory,
    }
    if result.loss is not None:
        metrics["loss"] = result.loss
    if result.waited is not None:
        metrics["waited"] = result.waited
    if config.prompt.by_class:
        by_class = any(kind.by_class for kind in config.prompt.train_at(site.name))
        count = cases_annotated if config.privacy else cases_by_structure
        counts = count(site, config) if by_class else [0] * len(config.data.classes)
        metrics |= {f"cases/{n}": c for n, c in zip(config.data.classes, counts, strict=True)}
    update = to_update(site, config, manifest, result.state, state, round_)
    echo = _echo(config, manifest, round=str(round_))
    answer = RecordDict({"arrays": update, "metrics": to_metrics(metrics), "echo": echo})
    for account in accounts:
        for name, told in told_of(account, config, round_).items():
            answer[name] = told
        _note(site, "privacy", round=round_ + 1, epsilon=account.epsilon, delta=account.delta,
             entries=len(account.entries))  # fmt: skip
    _note(site, "answered", what="train", round=round_ + 1, bytes=size_in_bytes(update),
         state=_fingerprint_of(site, update))  # fmt: skip
    return answer


def _evaluate(site: Site, content: RecordDict) -> RecordDict:
    config, order, arrays = _unpack(site, content, "part")
    part = order["part"]
    check_part(part)
    least = site.limits.least_evaluated_cases
    too_few = Refused(Reason.TOO_FEW_CASES, f"fewer scored {part} cases than its limit {least}")
    state, manifest = _unpack_state(site, arrays, config, order)
    _note(site, "asked", what=part, run=config.name, sha256=config.sha256,
          state=_fingerprint_of(site, arrays))  # fmt: skip
    count_evaluation(site.counted, config, part)
    # also where scores of few cases are refused
    if part == "test" and site.results and (
        keep_result(site.results, config, state, site.built(config).manifest)
    ):  # fmt: skip
        _note(site, "kept", run=config.name, sha256=config.sha256)
    if 0 < len(site.parts.get(part, ())) < least:
        raise too_few
    everything = evaluate_site(site, config, state, part)
    evaluation = everything.with_at_least(least)
    # again, now that those without a structure are known: they are in no mean
    if everything.rows and not evaluation.rows:
        raise too_few
    scored = len({row.case for row in evaluation.rows})
    metrics: dict[str, float | int] = {"num-examples": scored, "empty": evaluation.empty}
    for prompt, scores in evaluation.summary().items():
        metrics |= _named(prompt, scores)
    classes = config.data.classes
    for prompt, by_structure in evaluation.by_structure().items() if len(classes) > 1 else ():
        for structure, scores in by_structure.items():
            metrics |= _named(f"{prompt}/{classes[structure]}", scores)
    if config.privacy:
        metrics = rounded(metrics)
    _note(site, "answered", what=part, numbers=len(metrics))
    return RecordDict({"metrics": to_metrics(metrics), "echo": _echo(config, manifest, part=part)})


def _named(of: str, scores: Mapping[str, float]) -> dict[str, float | int]:
    """Means as an answer has them; how many cases they are of is a whole number."""
    return {f"{of}/{n}": int(v) if n == "cases" else v for n, v in scores.items()}
