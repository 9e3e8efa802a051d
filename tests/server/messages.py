"""What sites of tests put into their answers."""

from functools import cache

from flwr.app import ConfigRecord, Message

from medsa_model.config import RunConfig


@cache
def _sha256(run: str) -> str:
    return RunConfig.model_validate_json(run).sha256


def echo_of(message: Message) -> ConfigRecord:
    """What an honest answer repeats of the order in `message`."""
    order = dict(message.content.config_records["config"])
    run = _sha256(str(order.pop("run")))
    del order["version"]
    order.pop("nonce", None)
    return ConfigRecord({**order, "run": run})
