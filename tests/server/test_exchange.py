"""One message to many sites, whatever happens to them in between. No time passes here."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from medsa_model.refusals import Reason
from server import exchange as module
from server.exchange import ATTEMPTS, Answer, Unanswered, exchange
from server.flower_private import LOST, Connected
from sim.grid import InProcessGrid

CONTENT = RecordDict({"config": ConfigRecord({"round": "7"})})
A, B, C = 2, 3, 4
SITES = {A: "a", B: "b", C: "c"}
Step = Callable[[], list[Message]]


class Clock:
    """In place of the module `time`: a look at it takes a millisecond, to sleep takes no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Link(InProcessGrid):
    """A SuperLink: `steps` are what the pulls bring, one after the other, and then nothing."""

    def __init__(self) -> None:
        super().__init__(ClientApp(), [*SITES.values()])
        self.nodes = {node_id: Connected(site, "1") for node_id, site in SITES.items()}
        self.sent: dict[int, list[Message]] = {node_id: [] for node_id in SITES}
        self.steps: list[Step] = []
        self.pulled: list[list[str]] = []
        self.not_taken: set[int] = set()
        self.nothing: str | None = ""  # in place of a message's id

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        messages = [*messages]
        for message in messages:
            self.sent[message.metadata.dst_node_id].append(message)
        names = super().push_messages(messages)
        return [
            self.nothing if message.metadata.dst_node_id in self.not_taken else name
            for message, name in zip(messages, names, strict=True)
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulled.append([*message_ids])
        return self.steps.pop(0)() if self.steps else []

    def answer(self, node_id: int, number: int = -1, text: str = "done") -> Message:
        """The node's answer to what it was sent last, or to message `number`."""
        content = RecordDict({"said": ConfigRecord({"text": text})})
        return Message(content, reply_to=self.sent[node_id][number])

    def error(self, node_id: int, code: int, number: int = -1) -> Message:
        return Message(Error(code, "why"), reply_to=self.sent[node_id][number])

    def restart(self, node_id: int) -> None:
        """Its process was started again: Flower activates the node anew."""
        node = self.nodes[node_id]
        self.nodes[node_id] = Connected(node.name, node.activated + "1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(monkeypatch, clock) -> Link:
    monkeypatch.setattr(module, "connected", lambda grid: dict(grid.nodes))
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "LOOK", -1.0)  # look every time
    return Link()


def ask(link: Link, *nodes: int, timeout: float = 5.0, needed: int = 0) -> Iterator[Answer]:
    targets = {node_id: SITES[node_id] for node_id in nodes or SITES}
    return exchange(link, targets, "train", CONTENT, "7", timeout, needed)


def said(answers: Iterable[Answer]) -> list[tuple[str, object]]:
    """Site and its text, or the code of its error."""
    return [
        (
            each.site,
            each.message.error.code if each.message.has_error()
            else each.message.content.config_records["said"]["text"],
        )
        for each in answers
    ]  # fmt: skip


def test_every_site_gets_one_message_with_everything(link):
    link.steps = [lambda: [link.answer(node_id) for node_id in SITES]]
    assert said(ask(link)) == [("a", "done"), ("b", "done"), ("c", "done")]
    for node_id, (message,) in link.sent.items():
        assert message.content == CONTENT
        assert message.metadata.dst_node_id == node_id
        assert (message.metadata.message_type, message.metadata.group_id) == ("train", "7")


def test_answers_stream_in_the_order_of_their_arrival(link):
    """The coordinator notes each before it waits for the next."""
    link.steps = [
        lambda: [link.answer(B)], list, lambda: [link.answer(C), link.answer(A)],
    ]  # fmt: skip
    answers = ask(link)
    assert next(answers).site == "b" and len(link.pulled) == 1
    assert next(answers).site == "c" and len(link.pulled) == 3
    assert next(answers).site == "a" and len(link.pulled) == 3
    assert [*answers] == []


def test_only_answers_that_are_missing_are_asked_for(link):
    link.steps = [lambda: [link.answer(B)], lambda: [link.answer(A), link.answer(C)]]
    assert len([*ask(link)]) == 3
    names = {node_id: link.sent[node_id][0].metadata.message_id for node_id in SITES}
    assert link.pulled == [[names[A], names[B], names[C]], [names[A], names[C]]]


def test_bytes_are_those_of_both_messages(link):
    link.steps = [lambda: [link.answer(A, text="x" * 1000), link.error(B, Reason.FAILED)]]
    one, two = ask(link, A, B)
    assert 1000 < one.received_bytes < 1100 and two.received_bytes == 0
    assert 0 < one.sent_bytes == two.sent_bytes < 100


def test_nobody_to_ask_is_the_end(link):
    assert [*exchange(link, {}, "train", CONTENT, "7", 5.0)] == []
    assert link.pulled == []


@pytest.mark.fault
def test_a_restarted_node_is_asked_again_and_its_answer_counts_once(link, clock):
    """The old process forgot the message; if it still answers, that is one too many."""

    def restart() -> list[Message]:
        link.restart(B)
        return [link.answer(A)]

    def both() -> list[Message]:
        old, new = link.answer(B, 0, "old"), link.answer(B, 1, "new")
        return [old, new, old]

    link.steps = [restart, list, list, both]
    assert said(ask(link, A, B)) == [("a", "done"), ("b", "new")]
    first, second = link.sent[B]
    assert first.content == second.content == CONTENT
    assert first.metadata.message_id != second.metadata.message_id
    assert second.metadata.dst_node_id == B and second.metadata.group_id == "7"
    assert len(link.sent[A]) == 1
    assert link.pulled[1] == [second.metadata.message_id]
    assert clock.now < 1  # it did not wait for the deadline


def test_a_node_that_stays_is_asked_once(link):
    link.steps = [list, list, list, lambda: [link.answer(A)]]
    assert said(ask(link, A)) == [("a", "done")]
    assert len(link.sent[A]) == 1


def test_a_node_is_not_asked_again_while_it_is_away(link):
    def leave() -> list[Message]:
        del link.nodes[A]
        return []

    def come_back() -> list[Message]:
        assert len(link.sent[A]) == 1
        link.nodes[A] = Connected("a", "2")
        return []

    link.steps = [leave, list, come_back, lambda: [link.answer(A)]]
    assert said(ask(link, A)) == [("a", "done")]
    assert len(link.sent[A]) == 2


def test_looks_at_the_nodes_keep_their_distance(link, clock, monkeypatch):
    """Each is a request to the SuperLink."""
    monkeypatch.setattr(module, "LOOK", 2.0)
    looks = []
    monkeypatch.setattr(
        module, "connected", lambda grid: looks.append(clock.now) or dict(grid.nodes)
    )
    assert [*ask(link, A, timeout=9.0)] == []
    gaps = [later - before for before, later in pairwise(looks)]
    assert 4 <= len(looks) <= 5 and min(gaps) >= 2.0


@pytest.mark.fault
@pytest.mark.parametrize("code", sorted(LOST))
def test_lost_work_is_asked_for_again(link, code, clock):
    link.steps = [lambda: [link.error(A, code), link.answer(B)], lambda: [link.answer(A)]]
    assert said(ask(link, A, B, needed=2)) == [("b", "done"), ("a", "done")]
    assert len(link.sent[A]) == 2 and len(link.sent[B]) == 1
    assert link.sent[A][1].content == CONTENT
    assert clock.now < 1


@pytest.mark.fault
def test_lost_work_of_a_connected_site_is_asked_for_also_when_there_is_enough(link, clock):
    """Its answer broke off: it is there, and would be left out of a round that it worked for."""
    link.steps = [
        lambda: [link.answer(B), link.error(A, ErrorCode.NODE_UNAVAILABLE)], list,
        lambda: [link.answer(A)],
    ]  # fmt: skip
    assert said(ask(link, A, B, needed=1)) == [("b", "done"), ("a", "done")]
    assert len(link.sent[A]) == 2


def test_lost_work_is_asked_for_when_the_node_is_back(link):
    def gone() -> list[Message]:
        del link.nodes[A]
        return [link.error(A, ErrorCode.NODE_UNAVAILABLE)]

    def back() -> list[Message]:
        assert len(link.sent[A]) == 1
        link.nodes[A] = Connected("a", "2")
        return []

    # nothing is on its way to `a` in the meantime: what is pulled are the answers of `b`
    link.steps = [gone, list, back, lambda: [link.answer(A)], lambda: [link.answer(B)]]
    assert said(ask(link, A, B)) == [("a", "done"), ("b", "done")]
    assert len(link.pulled[1]) == 1 and len(link.pulled[3]) == 2


def test_nobody_is_asked_more_than_a_few_times(link, clock):
    link.steps = [lambda: [link.error(A, ErrorCode.CLIENT_APP_CRASHED)]] * (ATTEMPTS + 2)
    assert said(ask(link, A, needed=1)) == [("a", ErrorCode.CLIENT_APP_CRASHED)]
    assert len(link.sent[A]) == ATTEMPTS and clock.now < 1


def test_nor_one_that_is_restarted_again_and_again(link):
    def restart() -> list[Message]:
        link.restart(A)
        return []

    link.steps = [restart] * (ATTEMPTS + 2)
    assert [*ask(link, A, needed=1)] == []
    assert len(link.sent[A]) == ATTEMPTS


@pytest.mark.parametrize(
    "code", [Reason.FAILED, Reason.TOO_FEW_CASES, ErrorCode.CLIENT_APP_RAISED_EXCEPTION]
)
def test_any_other_error_is_an_answer(link, code):
    link.steps = [lambda: [link.error(A, code)]]
    assert said(ask(link, A, needed=1)) == [("a", code)]
    assert len(link.sent[A]) == 1


def test_for_a_site_that_is_gone_others_are_waited_for(link, clock):
    """And when they have answered it is not waited for any longer: 2 answers are enough."""

    def gone() -> list[Message]:
        del link.nodes[A]
        return [link.error(A, ErrorCode.NODE_UNAVAILABLE), link.answer(B)]

    link.steps = [gone, list, list, list, lambda: [link.answer(C)]]
    assert said(ask(link, needed=2)) == [
        ("b", "done"), ("c", "done"), ("a", ErrorCode.NODE_UNAVAILABLE),
    ]  # fmt: skip
    assert len(link.sent[A]) == 1 and clock.now < 2


def test_a_site_that_is_gone_is_waited_for_when_it_is_needed(link, clock):
    def gone() -> list[Message]:
        del link.nodes[A]
        return [link.error(A, ErrorCode.NODE_UNAVAILABLE), link.answer(B), link.answer(C)]

    link.steps = [gone]
    answers = said(ask(link, needed=3))
    assert answers[2:] == [("a", ErrorCode.NODE_UNAVAILABLE)]  # at the deadline
    assert clock.now > 5
    assert len(link.pulled) == 1  # there is nothing to ask for


def test_errors_are_no_answers_that_were_needed(link, clock):
    def gone() -> list[Message]:
        del link.nodes[A]
        return [link.error(A, ErrorCode.NODE_UNAVAILABLE), link.error(B, Reason.FAILED)]

    link.steps = [gone]
    assert [site for site, _ in said(ask(link, A, B, needed=1))] == ["b", "a"]
    assert clock.now > 5


@pytest.mark.fault
def test_who_is_missing_at_the_deadline_is_left_out(link, clock):
    link.steps = [lambda: [link.answer(B)]]
    assert said(ask(link)) == [("b", "done")]
    assert 5 < clock.now < 6


@pytest.mark.parametrize("nothing", ["", None])  # Flower sends "", its documentation says None
def test_what_the_superlink_did_not_take_is_sent_again(link, nothing, clock):
    link.not_taken, link.nothing = {A, B}, nothing

    def take() -> list[Message]:
        link.not_taken.clear()
        return [link.answer(C)]

    link.steps = [take, lambda: [link.answer(A), link.answer(B)]]
    assert said(ask(link, needed=3)) == [("c", "done"), ("a", "done"), ("b", "done")]
    assert [len(sent) for sent in link.sent.values()] == [2, 2, 1]
    assert [len(names) for names in link.pulled] == [1, 2]  # nobody asks for nothing
    assert clock.now < 1


def test_what_is_never_taken_is_not_waited_for_when_it_is_not_needed(link, clock):
    """A site that was revoked a moment ago does not hold up the round."""
    link.not_taken = {A}
    link.steps = [lambda: [link.answer(B), link.answer(C)]]
    assert said(ask(link, needed=2)) == [("b", "done"), ("c", "done")]
    assert clock.now < 1


def test_replies_to_other_messages_are_ignored(link):
    stranger = Message(CONTENT, dst_node_id=A, message_type="train")
    InProcessGrid.push_messages(link, [stranger])

    def strange() -> list[Message]:
        return [Message(RecordDict(), reply_to=stranger), link.answer(A)]

    link.steps = [strange]
    assert said(ask(link, A)) == [("a", "done")]


@pytest.mark.fault
def test_a_site_that_answers_twice_counts_once(link):
    link.steps = [lambda: [link.answer(A), link.answer(A, text="again")], lambda: [link.answer(B)]]
    assert said(ask(link, A, B)) == [("a", "done"), ("b", "done")]


def test_an_answer_in_the_name_of_another_site_is_ignored(link):
    """One hospital cannot speak for another."""

    def forge() -> list[Message]:
        reply = link.answer(A)
        reply.metadata.__dict__["_src_node_id"] = B
        return [reply, link.answer(B)]

    link.steps = [forge]
    assert said(ask(link, A, B)) == [("b", "done")]


def test_a_later_call_goes_on_with_what_is_on_its_way(link, monkeypatch):
    """An answer that was arriving at the deadline is not asked for again."""
    seen: list[list[object]] = []
    monkeypatch.setattr(
        module, "receive", lambda grid, ids, arriving, most: seen.append(arriving) or []
    )
    unanswered = Unanswered()
    for _ in range(2):
        answers = exchange(link, {A: "a"}, "train", CONTENT, "7", 1.0, 0, unanswered)
        assert [*answers] == []
    assert len(link.sent[A]) == 1
    assert len(seen) > 2 and all(each is unanswered.arriving for each in seen)
