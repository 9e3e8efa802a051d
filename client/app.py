"""The Flower ClientApp: unpack the message, let the site work, pack the answer.

`query` answers who the site is, `train` and `evaluate` what their names say, `query.farewell` that
the federation is over. Messages hold a configuration record with the run as JSON; code never
travels.
"""

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
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
    read_run,
)
from client.privacy import Account, require_privacy
from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.errors import ManifestError, MedsaError
from medsa_model.logs import logger
from medsa_model.privacy.ledger import read_ledger
from medsa_model.privacy.section import rounded, rounded_up
from medsa_model.records import Shapes, size_in_bytes, to_arrays, to_metrics, to_state
from medsa_model.refusals import Reason, Refused
from medsa_model.state import AdapterState, check_state

FAREWELL = "query.farewell"


def make_app(open_site: Callable[[Context], Site]) -> ClientApp:
    """The app of one site; `open_site` finds or opens the site that a context belongs to."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _introduce(open_site(context), message.content))

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        return _answer(message, RecordDict)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _train(open_site(context), message.content))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _evaluate(open_site(context), message.content))

    return app


def _answer(message: Message, work: Callable[[], RecordDict]) -> Message:
    """Reply with the result or the refusal; of an error only its kind crosses the wire."""
    try:
        return Message(work(), reply_to=message)
    except Refused as refused:
        logger.error("refused: %s", refused)
        return Message(Error(refused.reason, str(refused)), reply_to=message)
    except MedsaError as error:
        logger.error("%s", error)
        kind = type(error).__name__
    except Exception as error:
        logger.exception("unexpected error while answering")
        kind = type(error).__name__
    return Message(Error(Reason.FAILED, f"{kind} (details in the site's log)"), reply_to=message)


def _introduce(site: Site, content: RecordDict) -> RecordDict:
    facts = ConfigRecord({"site": site.name, "version": __version__})
    counts = {part: len(cases) for part, cases in site.parts.items()}
    asked = content.config_records.get("config", ConfigRecord())
    private = bool(asked.get("private")) or site.limits.epsilon is not None
    if private:
        counts = {part: rounded_up(cases) for part, cases in counts.items()}
    told = RecordDict({"site": facts, "cases": to_metrics(counts)})
    if private and site.ledger and (entries := read_ledger(site.ledger)):
        told["ledger"] = to_receipt(entries)
    return told


def _unpack_run(site: Site, content: RecordDict) -> RunConfig:
    """The run, in which the site takes part; raises `Refused`."""
    order = content.config_records["config"]
    config = read_run(str(order["run"]), str(order["version"]))
    check_run(config, site.limits, site.classes, site.has_volumes)
    require_privacy(config, site.limits)
    return config


def _unpack_state(
    site: Site, content: RecordDict, config: RunConfig
) -> tuple[AdapterState, Shapes]:
    """Global state and its shapes, which fit the site's model; raises `Refused`."""
    order = content.config_records["config"]
    arrays = content.array_records["arrays"]
    check_size(size_in_bytes(arrays), site.limits)
    built = site.built(config)
    check_model(built, str(order["base"]), str(order["manifest"]))
    try:
        state = to_state(arrays, built.manifest.shapes)
        check_state(state, built.manifest.shapes)
    except ManifestError as error:
        raise Refused(Reason.OTHER_TENSORS, str(error)) from error
    return state, built.manifest.shapes


def _train(site: Site, content: RecordDict) -> RecordDict:
    config = _unpack_run(site, content)
    round_ = int(str(content.config_records["config"]["round"]))
    cases = site.parts.get("train", ())
    check_training(config, site.limits, len(cases), round_, site.has_volumes)
    state, shapes = _unpack_state(site, content, config)
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
    if config.prompt.by_class:
        by_class = any(kind.by_class for kind in config.prompt.train_at(site.name))
        count = cases_annotated if config.privacy else cases_by_structure
        counts = count(site, config) if by_class else [0] * len(config.data.classes)
        metrics |= {f"cases/{n}": c for n, c in zip(config.data.classes, counts, strict=True)}
    answer = RecordDict({"arrays": to_arrays(result.state, shapes), "metrics": to_metrics(metrics)})
    for account in accounts:
        for name, record in told_of(account, config, round_).items():
            answer[name] = record
    return answer


def _evaluate(site: Site, content: RecordDict) -> RecordDict:
    config = _unpack_run(site, content)
    part = str(content.config_records["config"]["part"])
    check_part(part)
    least = site.limits.least_evaluated_cases
    too_few = Refused(Reason.TOO_FEW_CASES, f"fewer scored {part} cases than its limit {least}")
    if 0 < len(site.parts.get(part, ())) < least:
        raise too_few
    state, _ = _unpack_state(site, content, config)
    count_evaluation(site.counted, config, part)
    everything = evaluate_site(site, config, state, part)
    evaluation = everything.with_at_least(least)
    # again, now that those without a structure are known: they are in no mean
    if everything.rows and not evaluation.rows:
        raise too_few
    scored = len({row.case for row in evaluation.rows})
    metrics: dict[str, float | int] = {"num-examples": scored, "empty": evaluation.empty}
    for prompt, scores in evaluation.summary().items():
        metrics |= {f"{prompt}/{name}": value for name, value in scores.items()}
    classes = config.data.classes
    for prompt, by_structure in evaluation.by_structure().items() if len(classes) > 1 else ():
        for structure, scores in by_structure.items():
            key = f"{prompt}/{classes[structure]}"
            metrics |= {f"{key}/{name}": value for name, value in scores.items()}
    if config.privacy:
        metrics = rounded(metrics)
    return RecordDict({"metrics": to_metrics(metrics)})
