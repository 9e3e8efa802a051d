"""Nothing of a patient crosses the wire: whatever a site answers, and wherever it fails.

A name is planted in folders, file names, picture texts, EXIF, NIfTI headers, the CSV's patients,
the site's own paths and the texts of errors. Every answer is searched as it travels.
"""

import dataclasses
import errno
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from flwr.app import Array, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from PIL import Image

import client.app
from client import worker
from client.config import Limits, load_site
from client.hospital import Site
from client.opened import open_site
from medsa_model.config import RunConfig
from medsa_model.data.sample import Case, Sample
from medsa_model.errors import CheckpointError, DataError, LedgerError
from medsa_model.records import unique
from medsa_model.refusals import Reason
from tests.client.messages import ask, built, configuration, order, order_for
from tests.planted import CANARY, FORMS, plant_images, plant_volumes, traces

PRIVACY = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "delta": 1e-3, "clip_norm": 0.1}


def wire(reply: Message) -> bytes:
    """A reply as one protobuf and as the parts that Flower sends."""
    if reply.has_content():
        reply.content = unique(reply.content)
    parts = [message_to_proto(reply).SerializeToString()]
    if reply.has_content():
        parts += [each.deflate() for each in get_all_nested_objects(reply).values()]
    return b"\n".join(parts)


@pytest.fixture(autouse=True)
def site_log(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr("client.app.logger.propagate", True)  # set_up() turns it off
    return caplog


def opened(place: Path, data: dict[str, object]) -> Site:
    content = {"site": "site_a", "coordinator": {"address": "127.0.0.1:1"}, "device": "cpu",
               "data": data}  # fmt: skip
    (place / "site.yaml").write_text(yaml.safe_dump(content))
    return open_site(load_site(place / "site.yaml"))


@pytest.fixture
def home(tmp_path) -> Path:
    place = tmp_path / CANARY
    place.mkdir()
    return place


@pytest.fixture
def site(home) -> Site:
    """A site of which every name is the patient's."""
    plant_images(home / CANARY, 8, size=32)
    return opened(home, {"kind": "folder", "root": CANARY})


def run(**more: object) -> RunConfig:
    return configuration(data={"kind": "folder"}, **more)


FAREWELL = "query.farewell"
ANSWERED: dict[str, tuple[str, Callable[[], RecordDict | None]]] = {
    "introduced": ("query", lambda: None),
    "introduced under privacy": (
        "query", lambda: RecordDict({"config": ConfigRecord({"private": True})})
    ),
    "trained": ("train", lambda: order(run())),
    "trained under privacy": ("train", lambda: order(run(privacy=PRIVACY))),
    "validated": ("evaluate", lambda: order(run(), part="val")),
    "tested": ("evaluate", lambda: order(run(), part="test")),
    "tested under privacy": ("evaluate", lambda: order(run(privacy=PRIVACY), part="test")),
    "bidden farewell": (FAREWELL, lambda: None),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "content"), ANSWERED.values(), ids=ANSWERED)
def test_no_answer_has_a_trace(site, kind, content):
    reply = ask(lambda _: site, kind, content())
    assert reply.has_content(), reply.error
    assert traces(wire(reply)) == []


def cases_of(site: Site) -> Iterator[Case]:
    for cases in site.parts.values():
        yield from cases


def replace_load(site: Site, load: Callable[[], Sample]) -> None:
    site.parts = {
        part: [dataclasses.replace(case, load=load) for case in cases]
        for part, cases in site.parts.items()
    }


def raises(error: Exception) -> Callable[[Site, Path, Any], None]:
    """Reading a case ends with an error whose text is the patient's name."""

    def load() -> Sample:
        raise error

    return lambda site, home, patch: replace_load(site, load)


def files(change: Callable[[Path], object], folder: str = "images") -> Callable[..., None]:
    """Every file of a folder is changed after the site was opened and checked."""

    def spoil(site: Site, home: Path, patch: pytest.MonkeyPatch) -> None:
        for path in (home / CANARY / folder).iterdir():
            change(path)

    return spoil


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def limits(**values: object) -> Callable[..., None]:
    def limit(site: Site, home: Path, patch: pytest.MonkeyPatch) -> None:
        site.limits = Limits.model_validate(values)

    return limit


def having(**values: Any) -> Callable[..., None]:
    """Another field of the site; a `Path` lies in its folder."""

    def change(site: Site, home: Path, patch: pytest.MonkeyPatch) -> None:
        for name, value in values.items():
            setattr(site, name, home / value if isinstance(value, Path) else value)

    return change


def breaking(name: str, error: Exception) -> Callable[..., None]:
    """A step of `client.app` fails with the patient's name."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return lambda site, home, patch: patch.setattr(client.app, name, fail)


def written(name: str, text: str) -> Callable[..., None]:
    """A file of the site's state holds something else; its path has the patient's name."""

    def spoil(site: Site, home: Path, patch: pytest.MonkeyPatch) -> None:
        (home / "state" / name).write_text(text)

    return spoil


def no_weights(site: Site, home: Path, patch: pytest.MonkeyPatch) -> None:
    site.checkpoint = home / f"{CANARY}.pth"
    site.checkpoint.write_text(CANARY)


def other_shape(path: Path) -> None:
    Image.new("L", (7, 5)).save(path)


FAILED = Reason.FAILED
FAILING: dict[str, tuple[Callable[..., None], dict[str, Reason]]] = {
    # what reading a case may raise
    "RuntimeError": (raises(RuntimeError(CANARY)), {"train": FAILED, "evaluate": FAILED}),
    "DataError": (raises(DataError(f"case {CANARY}")), {"train": FAILED, "evaluate": FAILED}),
    "KeyError": (raises(KeyError(CANARY)), {"train": FAILED, "evaluate": FAILED}),
    "OSError": (
        raises(OSError(errno.EIO, CANARY, f"/{CANARY}")), {"train": FAILED, "evaluate": FAILED}
    ),
    "an error with a cause": (
        raises(ExceptionGroup(CANARY, [ValueError(CANARY)])), {"train": FAILED, "evaluate": FAILED}
    ),
    # files that changed after the check
    "an image is cut": (files(cut), {"train": FAILED, "evaluate": FAILED}),
    "an image is gone": (files(Path.unlink), {"train": FAILED, "evaluate": FAILED}),
    "an image is a text": (
        files(lambda path: path.write_text(CANARY)), {"train": FAILED, "evaluate": FAILED}
    ),
    "an image is a folder": (
        files(lambda path: (path.unlink(), path.mkdir())), {"train": FAILED, "evaluate": FAILED}
    ),
    "a mask is cut": (files(cut, "masks"), {"train": FAILED, "evaluate": FAILED}),
    "a mask is gone": (files(Path.unlink, "masks"), {"train": FAILED, "evaluate": FAILED}),
    "a mask of another size": (
        files(other_shape, "masks"), {"train": FAILED, "evaluate": FAILED}
    ),
    # files of the site itself
    "weights are missing": (
        having(checkpoint=Path(f"{CANARY}.pth")), {"train": FAILED, "evaluate": FAILED}
    ),
    "weights are something else": (no_weights, {"train": FAILED, "evaluate": FAILED}),
    "counts are damaged": (
        written("counted.json", CANARY), {"train": FAILED, "evaluate": FAILED}
    ),
    "the ledger is damaged": (
        written("ledger.jsonl", CANARY), {"private": Reason.LEDGER, "query": FAILED}
    ),
    "the ledger is nowhere": (
        having(ledger=Path(CANARY) / "no" / "ledger"), {"private": Reason.LEDGER}
    ),
    # steps of an answer
    "the device fails": (
        breaking("train_site", torch.OutOfMemoryError(CANARY)), {"train": FAILED, "private": FAILED}
    ),
    "the scores fail": (breaking("evaluate_site", RuntimeError(CANARY)), {"evaluate": FAILED}),
    "packing fails": (breaking("to_metrics", TypeError(CANARY)), {
        "query": FAILED, "train": FAILED, "private": FAILED, "evaluate": FAILED,
    }),
    "charging fails": (breaking("charge_round", LedgerError(CANARY)), {"private": FAILED}),
    # what the site refuses
    "a run that is not on the list": (limits(runs=["0" * 64]), {
        "train": Reason.RUN_NOT_ALLOWED, "evaluate": Reason.RUN_NOT_ALLOWED,
    }),
    "structures by the patient's name": (having(classes=(CANARY,)), {
        "train": Reason.OTHER_CLASSES, "evaluate": Reason.OTHER_CLASSES,
    }),
    "too few cases": (limits(least_training_cases=99, least_evaluated_cases=99), {
        "train": Reason.TOO_FEW_CASES, "evaluate": Reason.TOO_FEW_CASES,
    }),
    "too much work": (limits(rounds=1), {
        "train": Reason.OVER_LIMIT, "evaluate": Reason.OVER_LIMIT,
    }),
    "too large a state": (limits(megabytes=0.1), {
        "train": Reason.OVER_LIMIT, "evaluate": Reason.OVER_LIMIT,
    }),
    "no privacy": (limits(epsilon=1.0), {
        "train": Reason.NO_PRIVACY, "evaluate": Reason.NO_PRIVACY,
    }),
    "no privacy left": (limits(epsilon=1e-3), {"private": Reason.EPSILON}),
}  # fmt: skip
EACH = [
    pytest.param(spoil, kind, code, id=f"{where}, {kind}")
    for where, (spoil, codes) in FAILING.items() for kind, code in codes.items()
]  # fmt: skip
ASKED: dict[str, tuple[str, Callable[[], RecordDict]]] = {
    "query": ("query", lambda: RecordDict({"config": ConfigRecord({"private": True})})),
    "train": ("train", lambda: order(run())),
    "private": ("train", lambda: order(run(privacy=PRIVACY))),
    "evaluate": ("evaluate", lambda: order(run(), part="test")),
}


@pytest.mark.fault
@pytest.mark.parametrize(("spoil", "kind", "code"), EACH)
def test_no_failure_has_a_trace(site, home, monkeypatch, spoil, kind, code, site_log):
    spoil(site, home, monkeypatch)
    message_type, content = ASKED[kind]
    reply = ask(lambda _: site, message_type, content())
    assert reply.has_error() and reply.error.code == code, reply
    assert traces(wire(reply)) == []
    if code == FAILED:
        assert CANARY in site_log.text  # it was at hand, and the site's engineer reads it
        assert str(reply.error.reason).endswith("(details in the site's log)")


def without(name: str) -> Callable[[str], RecordDict]:
    def make(kind: str) -> RecordDict:
        content = order_for(kind, run())
        del content[name]
        return content

    return make


def infinite(kind: str) -> RecordDict:
    ours = built(run())
    bad = {name: tensor * torch.inf for name, tensor in ours.initial.items()}
    return order_for(kind, run(), dataclasses.replace(ours, initial=bad))


ORDERS: dict[str, Callable[[str], RecordDict]] = {
    "nothing": lambda kind: RecordDict(),
    "no order": without("config"),
    "no arrays": without("arrays"),
    "no JSON": lambda kind: order_for(kind, run(), **{"run": "{"}),
    "another backbone": lambda kind: order_for(kind, run(), base="0" * 64),
    "another manifest": lambda kind: order_for(kind, run(), manifest="0" * 64),
    "a setting too many": lambda kind: order_for(kind, run(), more="x"),
    "tensors that are not finite": infinite,
}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("content", ORDERS.values(), ids=ORDERS)
def test_no_answer_to_a_bad_order_has_a_trace(site, kind, content):
    reply = ask(lambda _: site, kind, content(kind))
    assert reply.has_error() and traces(wire(reply)) == []


@pytest.mark.parametrize(
    ("kind", "asked"), [("train", {"round": "9"}), ("evaluate", {"part": "train"})]
)
def test_no_answer_to_an_order_that_cannot_be_has_a_trace(site, kind, asked):
    reply = ask(lambda _: site, kind, order(run(), **asked))
    assert reply.has_error() and traces(wire(reply)) == []


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize(
    "error", [DataError(CANARY), CheckpointError(CANARY), RuntimeError(CANARY)]
)
def test_a_site_that_cannot_be_opened_leaves_no_trace(kind, error):
    def fail(_: object) -> Site:
        raise error

    reply = ask(fail, kind, ASKED[kind][1]())
    assert reply.has_error() and traces(wire(reply)) == []


@pytest.mark.parametrize("kind", ["train", "train.more", "query.other"])
def test_what_the_worker_says_itself_has_no_trace(kind):
    """About a message that it cannot read, and one that its app does not know."""
    message = Message(RecordDict(), dst_node_id=2, message_type=kind)
    task: Any = SimpleNamespace(intact=True, app=worker.APP, content=b"", context=None)
    for reply in (
        worker.failed(message, ValueError(CANARY)),
        worker.answer(lambda message, context: exec("raise KeyError(CANARY)"), task, message),
    ):
        assert reply.has_error() and traces(wire(reply)) == []


VOLUMES = {"kind": "btcv", "classes": ["spleen"]}
SPOILT: dict[str, Callable[[Path], object] | None] = {
    "none": None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:400]),
    "gone": Path.unlink,
    "no NIfTI": lambda path: path.write_text(CANARY),
}


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("how", SPOILT)
def test_headers_of_volumes_leave_no_trace(home, kind, how):
    images = plant_volumes(home / CANARY, 4, size=40)
    assert all(traces(path.read_bytes()) for path in images)
    site = opened(home, {**VOLUMES, "root": CANARY})
    config = configuration(data=VOLUMES, volume={"slices": 2, "overlap": 0})
    for path in images if SPOILT[how] else ():
        SPOILT[how](path)
    reply = ask(lambda _: site, kind, order_for(kind, config))
    assert reply.has_error() == (how != "none"), reply.error
    assert traces(wire(reply)) == []


CONTROL: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda word: word,
    "hex": lambda word: word.hex().encode(),
    "base64": b64encode,
    "base64, one later": lambda word: b64encode(b"a" + word),
    "base64, two later": lambda word: b64encode(b"ab" + word + b"c"),
    "packed": zlib.compress,
    "packed base64": lambda word: zlib.compress(b64encode(b"0123" + word)),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("hide", CONTROL.values(), ids=CONTROL)
def test_the_search_finds_what_is_hidden(hide, encoding):
    """In a real answer: among numbers, in a text, in a name, and in the reason of an error."""
    hidden = hide(f"x/{CANARY}.png".encode(encoding))
    text = hidden.decode("latin-1")
    message = Message(RecordDict(), dst_node_id=2, message_type="train")
    array = Array("uint8", (len(hidden),), "numpy.ndarray", b"\x93NUMPY" + bytes(70) + hidden)
    contents: list[RecordDict] = [order(run()) for _ in range(2)]
    contents[0].array_records["arrays"]["more"] = array
    contents[1].config_records["config"]["more"] = hidden
    for content in contents:
        assert traces(wire(Message(content, reply_to=message)))
    if hidden.isascii():
        named = RecordDict({"metrics": MetricRecord({text: 1})})
        assert traces(wire(Message(named, reply_to=message)))
        assert traces(wire(Message(Error(1000, f"no {text}"), reply_to=message)))


def test_the_search_finds_nothing_where_nothing_is():
    assert traces(wire(Message(order(run()), dst_node_id=2, message_type="train"))) == []
    assert len(FORMS) > 60 and all(len(form) >= 5 for form in FORMS)
