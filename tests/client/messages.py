"""Messages to the app of one site, and what its replies hold."""

from collections.abc import Callable

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from client.app import make_app
from client.hospital import Site
from medsa_model.build import Built, build
from medsa_model.config import RunConfig
from medsa_model.data.sample import Case, Sample
from medsa_model.records import to_arrays
from medsa_model.refusals import Reason
from sim.grid import InProcessGrid

CPU = torch.device("cpu")
PATIENT, CASE = "DOE^JOHN", "case-4711"


def configuration(**more: object) -> RunConfig:
    content = {
        "name": "small",
        "rounds": 2,
        "model": {"image_size": 32},
        "data": {"kind": "synthetic"},
        "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1},
        **more,
    }
    return RunConfig.model_validate(content)


def built(config: RunConfig) -> Built:
    return build(config.model, config.adapter, config.seed, CPU)


def ask(
    open_site: Callable[[Context], Site], kind: str, content: RecordDict | None = None
) -> Message:
    """The reply to one message, delivered as in a simulation."""
    grid = InProcessGrid(make_app(open_site), ["site_a"])
    question = RecordDict({"config": ConfigRecord({"private": False})})
    message = Message(content or question, dst_node_id=2, message_type=kind)
    (reply,) = grid.send_and_receive([message])
    return reply


def order(config: RunConfig, coordinator: Built | None = None, **more: str) -> RecordDict:
    """What the coordinator of `config` sends; `coordinator` when it has another model."""
    has = coordinator or built(config)
    manifest = has.manifest.sent_as(config.message.update)
    record = {
        "run": config.for_sites(), "version": "9.9", "base": manifest.base_sha256,
        "manifest": manifest.sha256, **({} if "part" in more else {"round": "0"}), **more,
    }  # fmt: skip
    return RecordDict(
        {
            "arrays": to_arrays(has.initial, has.manifest.shapes),
            "config": ConfigRecord(dict(record)),
        }
    )


def order_for(
    kind: str, config: RunConfig, coordinator: Built | None = None, **more: str
) -> RecordDict:
    """A message to train in the first round, or to evaluate on test cases."""
    asked = {"round": "0"} if kind == "train" else {"part": "test"}
    return order(config, coordinator, **asked, **more)


def reason(reply: Message, code: Reason = Reason.FAILED) -> str:
    """Of an error; everything else that crosses would be in the content, and there is none."""
    assert reply.has_error() and not reply.has_content()
    assert reply.error.code == code
    assert reply.error.reason is not None
    return reply.error.reason


def metrics(reply: Message) -> MetricRecord:
    assert reply.has_content(), reply.error
    return reply.content.metric_records["metrics"]


def raising(error: Exception) -> Case:
    """A case that cannot be read."""

    def load() -> Sample:
        raise error

    return Case(CASE, PATIENT, "site_a", None, load)
