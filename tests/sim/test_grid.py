"""The in-process grid: what it needs of Flower's private names, and whom it lets answer when.

`constraints.txt` holds Flower at one version, because the names in the first half of this file are
not part of its public interface. When one of these tests fails after raising that version, mend
`sim/grid.py`.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

SITES = ("site_a", "site_b", "site_c")


def changed(name: str, what: str) -> str:
    """The message of a failure."""
    return f"Flower's private name {name} changed: {what}; sim/grid.py needs it"


def private(module: str, name: str) -> Any:
    """A name of a private module of Flower's; the test fails when it is gone."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        pytest.fail(changed(f"{module}.{name}", str(error)))


@pytest.fixture
def identity() -> Iterator[Any]:
    """Flower's `TaskIdentity`, which is left as the grid leaves it."""
    found = private("flwr.supercore.task_identity", "TaskIdentity")
    yield found
    found.run_id = found.task_id = found.node_id = 1


def message(dst: int = 2, kind: str = "query") -> Message:
    return Message(RecordDict(), dst_node_id=dst, message_type=kind)


@pytest.mark.parametrize(
    ("attribute", "shown"),
    [("run_id", "run_id"), ("task_id", "src_task_id"), ("node_id", "src_node_id")],
)
def test_flower_asks_the_task_identity_who_sends(identity, attribute, shown):
    identity.run_id = identity.task_id = identity.node_id = 1
    name = f"flwr.supercore.task_identity.TaskIdentity.{attribute}"
    for number in (71, 72):
        setattr(identity, attribute, number)
        found = getattr(message().metadata, shown, None)
        assert found == number, changed(
            name, f"it was set to {number}, and Message(...).metadata.{shown} is {found!r}"
        )


def test_flower_keeps_the_message_id_where_the_grid_writes_it(identity):
    identity.run_id = identity.task_id = identity.node_id = 1
    name = "message.metadata.__dict__['_message_id']"
    sent = message()
    inside = sorted(vars(sent.metadata))
    assert "_message_id" in inside, changed(name, f"it is not among {inside}")
    sent.metadata.__dict__["_message_id"] = "message-7"
    assert sent.metadata.message_id == "message-7", changed(
        name, f"it was set, and metadata.message_id is {sent.metadata.message_id!r}"
    )
    identity.node_id = 2
    answered = Message(RecordDict(), reply_to=sent).metadata.reply_to_message_id
    assert answered == "message-7", changed(name, f"a reply says that it answers {answered!r}")


def test_flower_has_the_error_code_of_an_app_that_raised():
    codes = private("flwr.common.constant", "ErrorCode")
    code = getattr(codes, "CLIENT_APP_RAISED_EXCEPTION", None)
    assert isinstance(code, int), changed(
        "flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION", f"it is {code!r}"
    )
    ours = min(importlib.import_module("medsa_model.refusals").Reason)
    taken = {n: v for n, v in vars(codes).items() if isinstance(v, int) and v >= ours}
    assert not taken, f"Flower's own error codes {taken} meet those of medsa_model.refusals, {ours}"


@pytest.fixture
def module() -> ModuleType:
    """`sim.grid`, imported late: without Flower's private names the tests above have to speak."""
    return importlib.import_module("sim.grid")


@pytest.fixture
def heard() -> list[str]:
    """Sites in the order of their answers."""
    return []


@pytest.fixture
def grid(module, heard) -> Any:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        heard.append(str(context.node_config["site"]))
        if heard[-1] == "site_b":
            raise ValueError("/hospital/DOE^JOHN.png")
        return Message(RecordDict(), reply_to=message)

    return module.InProcessGrid(app, SITES)


def test_each_pull_brings_one_answer(grid, heard):
    """So that answers stream: the coordinator notes each before the next site works."""
    nodes = list(grid.get_node_ids())
    assert len(set(nodes)) == 3
    names = list(grid.push_messages([message(node) for node in nodes]))
    assert len(set(names)) == 3 and heard == []
    for number, name in enumerate(names, start=1):
        (reply,) = grid.pull_messages(names)
        assert reply.metadata.reply_to_message_id == name
        assert reply.metadata.src_node_id == nodes[number - 1]
        assert heard == list(SITES[:number])
    assert list(grid.pull_messages(names)) == []


def test_of_an_app_that_raises_the_kind_of_error_arrives(grid, module, identity):
    replies = grid.send_and_receive([message(node) for node in grid.get_node_ids()])
    assert [reply.has_error() for reply in replies] == [False, True, False]
    code = private("flwr.common.constant", "ErrorCode").CLIENT_APP_RAISED_EXCEPTION
    assert (replies[1].error.code, replies[1].error.reason) == (code, "ValueError")
    assert identity.node_id == module.COORDINATOR


def test_after_an_interruption_the_coordinator_is_the_sender_again(module, identity):
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    grid = module.InProcessGrid(app, SITES)
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive([message()])
    assert message().metadata.src_node_id == module.COORDINATOR == identity.node_id
