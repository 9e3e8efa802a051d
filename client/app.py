"""The Flower ClientApp: unpack the message, let the site work, pack the answer.

`query` answers who the site is, `train` and `evaluate` what their names say. Messages hold a
configuration record with the run as JSON; code never travels.
"""

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from client.hospital import Site, evaluate_site, train_site
from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.errors import MedsaError
from medsa_model.logs import logger
from medsa_model.records import to_arrays, to_metrics, to_state

SITE_FAILED = 1000  # Flower's own error codes lie below


def make_app(open_site: Callable[[Context], Site]) -> ClientApp:
    """The app of one site; `open_site` finds or opens the site that a context belongs to."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _introduce(open_site(context)))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _train(open_site(context), message.content))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _evaluate(open_site(context), message.content))

    return app


def _answer(message: Message, work: Callable[[], RecordDict]) -> Message:
    """Reply with the result; of an error only its kind crosses the wire, details stay here."""
    try:
        return Message(work(), reply_to=message)
    except MedsaError as error:
        logger.error("%s", error)
        reason = type(error).__name__
    except Exception as error:
        logger.exception("unexpected error while answering")
        reason = type(error).__name__
    return Message(Error(SITE_FAILED, f"{reason} (details in the site's log)"), reply_to=message)


def _introduce(site: Site) -> RecordDict:
    facts = ConfigRecord({"site": site.name, "version": __version__})
    counts = to_metrics({part: len(cases) for part, cases in site.parts.items()})
    return RecordDict({"site": facts, "cases": counts})


def _train(site: Site, content: RecordDict) -> RecordDict:
    order = content.config_records["config"]
    result = train_site(
        site,
        RunConfig.model_validate_json(str(order["run"])),
        str(order["manifest"]),
        to_state(content.array_records["arrays"]),
        int(str(order["round"])),
    )
    metrics = {
        "num-examples": result.examples,
        "images": result.images,
        "loss": result.loss,
        "seconds": result.seconds,
        "memory": result.memory,
    }
    return RecordDict({"arrays": to_arrays(result.state), "metrics": to_metrics(metrics)})


def _evaluate(site: Site, content: RecordDict) -> RecordDict:
    order = content.config_records["config"]
    evaluation = evaluate_site(
        site,
        RunConfig.model_validate_json(str(order["run"])),
        str(order["manifest"]),
        to_state(content.array_records["arrays"]),
        str(order["part"]),
    )
    scored = len({row.case for row in evaluation.rows})
    metrics: dict[str, float | int] = {"num-examples": scored, "empty": evaluation.empty}
    for prompt, scores in evaluation.summary().items():
        metrics |= {f"{prompt}/{name}": value for name, value in scores.items()}
    return RecordDict({"metrics": to_metrics(metrics)})
