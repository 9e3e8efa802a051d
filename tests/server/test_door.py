"""The door: who is let in to what, and how questions are held. Nothing listens here."""

import asyncio
import base64
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PullObjectResponse
from flwr.proto.node_pb2 import Node

from medsa_model.site_keys import public_pem
from server import door as module
from server import limits
from server.door import FEW_PARTS, Door
from server.flower_fleet import PUSH_OBJECT
from server.flower_private import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from server.stamps import TOLERANCE, Keys, Refusal, Stamps, check_stamp

KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("a", "b", "stranger", "revoked")}
PEM = {name: public_pem(key.public_key()) for name, key in KEYS.items()}
PULL, OBJECT, PUSH, BEAT, OTHER = (
    f"/v1/fleet/{name}"
    for name in ("pull-messages", "pull-object", "push-messages", "send-node-heartbeat", "get-run")
)
EMPTY = PullMessagesResponse().SerializeToString()
WORK = PullMessagesResponse(messages_list=[Message()]).SerializeToString()
LONGEST = 10.0  # seconds for one test; reached only by a fault


class Inner:
    """The SuperLink behind the door: notes what reaches it and answers with `answers` in turn.

    An answer is the body, a whole response, or an exception; the last one is repeated.
    """

    def __init__(self, *answers: bytes | httpx.Response | Exception) -> None:
        self.answers = [*answers] or [b"answer"]
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, content=answer) if isinstance(answer, bytes) else answer

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode() for request in self.requests]


def open_door(
    inner: Callable[[httpx.Request], httpx.Response], keys: Keys | None = None, **more: Any
) -> Door:
    client = httpx.AsyncClient(transport=httpx.MockTransport(inner), base_url="https://superlink")
    admitted = {PEM["a"]: "a", PEM["b"]: "b"}
    return Door(client, keys or Keys(admitted, {PEM["revoked"]: "revoked"}), **more)


def stamp(name: str, age: float = 0.0, **wrong: str) -> dict[str, str]:
    """The headers of a request that the site signed `age` seconds ago."""
    at = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    signature = KEYS[name].sign(at.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        PUBLIC_KEY_HEADER: base64.b64encode(PEM[name]).decode(),
        TIMESTAMP_HEADER: at,
        SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        **wrong,
    }


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, LONGEST))


def ask(
    door: Door, path: str = OTHER, headers: dict[str, str] | None = None, body: bytes = b"question",
    method: str = "POST", sender: str = "a",
) -> httpx.Response:  # fmt: skip
    """What the door answers to one request."""

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            given = stamp(sender) if headers is None else headers
            return await client.request(method, path, headers=given, content=body)

    return run(work())


def call(door: Door, path: str, receive: list[dict[str, Any]] | None = None) -> list[Any]:
    """The door's events for a path as a server hands it over, which no client has tidied up."""
    events = receive or [{"type": "http.request", "body": b""}]
    sent: list[Any] = []

    async def next_event() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(name.encode(), value.encode()) for name, value in stamp("a").items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    run(door(scope, next_event, send))
    return sent


def refused(answer: httpx.Response, status: int, code: int) -> str:
    """The sentence of a refusal."""
    assert answer.status_code == status
    assert answer.headers["x-medsa-door"] == "refused"
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"code", "detail"} and answer.json()["code"] == code
    return str(answer.json()["detail"])


def test_a_signed_request_goes_through_and_its_answer_comes_back():
    more = {
        "content-type": "application/protobuf", "flwr-version": "1.41.0",
        "set-cookie": "no", "server": "no",
    }  # fmt: skip
    inner = Inner(httpx.Response(418, content=b"\x00\xff", headers=more))
    given = stamp("a") | {
        "content-type": "application/protobuf", "flwr-more": "1", "cookie": "no",
        "x-forwarded-for": "no", "authorization": "no",
    }  # fmt: skip
    answer = ask(open_door(inner), headers=given, body=b"\x01\x02")
    assert (answer.status_code, answer.content) == (418, b"\x00\xff")
    assert dict(answer.headers) == {
        "content-type": "application/protobuf", "flwr-version": "1.41.0", "content-length": "2",
        "x-medsa-site": "a",
    }  # fmt: skip
    (request,) = inner.requests
    assert str(request.url) == f"https://superlink{OTHER}" and request.method == "POST"
    assert request.content == b"\x01\x02"
    kept = {name: value for name, value in given.items() if name in request.headers}
    assert kept.keys() == {*stamp("a"), "content-type", "flwr-more"}
    assert all(request.headers[name] == value for name, value in kept.items())


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/redoc", "/health", "/healthz", "/metrics", "/v1/fleet",
        "/v1/fleet/", "/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task",
        "/v1/fleetx/pull-messages", "/V1/FLEET/pull-messages", "/v1/fleet/Pull-Messages",
        "/v1/fleet/pull-messages/", "/v1/fleet/pull-messages/x", "/api/v1/fleet/pull-messages",
    ],
)  # fmt: skip
def test_nothing_but_the_fleet_can_be_reached(path):
    """Also for a site that is admitted: Flower's Control API asks nobody for a login."""
    inner = Inner()
    assert refused(ask(open_door(inner), path), 404, 9000) == "there is nothing here"
    assert inner.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-nodes", "/v1/fleet/..", "/v1/fleet/./pull-messages",
        "//v1/fleet/pull-messages", "/v1//fleet/pull-messages", "/v1/fleet//pull-messages",
        "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/%2E%2E%2Fcontrol%2Flist-nodes",
        "/v1/fleet/..;/control/list-nodes", "/v1/fleet/..\\control\\list-nodes",
        "/v1/fleet/pull-messages?x=1", "/v1/fleet/pull-messages#x", "/v1/fleet/pull-messages\n",
        "/v1/fleet/pull messages", "/v1/fleet/pull-messages\x00", "/v1/fleet/\uff0e\uff0e/control",
        "v1/fleet/pull-messages", "https://door/v1/fleet/pull-messages",
    ],
)  # fmt: skip
def test_tricks_with_paths_do_not_help(path):
    inner = Inner()
    start, body = call(open_door(inner), path)
    assert start["status"] == 404 and b"9000" in body["body"]
    assert inner.requests == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_find_nothing(method):
    inner = Inner()
    assert ask(open_door(inner), method=method).status_code == 404
    assert inner.requests == []


def test_every_call_of_a_site_has_a_path_that_goes_through():
    """Of Flower's own list, so that a new version with other names is noticed."""
    from flwr.supercore.protobuf import translation

    tables = [each for each in vars(translation).values() if isinstance(each, dict)]
    found = {key[1] for each in tables for key in each if isinstance(key, tuple)}
    fleet = {path for path in found if str(path).startswith("/v1/fleet/")}
    assert len(fleet) >= 12 and {PULL, OBJECT, PUSH, BEAT, OTHER} <= fleet
    assert len(found - fleet) > 12
    assert {path for path in found if module.FLEET.fullmatch(path)} == fleet


UNSIGNED: dict[str, dict[str, str]] = {
    "no header": {},
    "no key": {name: value for name, value in stamp("a").items() if name != PUBLIC_KEY_HEADER},
    "no time": {name: value for name, value in stamp("a").items() if name != TIMESTAMP_HEADER},
    "no signature": {n: value for n, value in stamp("a").items() if n != SIGNATURE_HEADER},
    "a key that is no base64": stamp("a", **{PUBLIC_KEY_HEADER: "*"}),
    "a signature that is no base64": stamp("a", **{SIGNATURE_HEADER: "*"}),
    "a time that is none": stamp("a", **{TIMESTAMP_HEADER: "now"}),
    "a time without a zone": stamp("a", **{TIMESTAMP_HEADER: "2026-01-01T00:00:00"}),
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED)
def test_unsigned_requests_are_refused(headers):
    inner = Inner()
    said = refused(ask(open_door(inner), headers=headers), 401, 9001)
    assert said == "the request is not signed with a site's key"
    assert inner.requests == []


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("stranger", 9002, "this key is not registered at the coordinator"),
        ("revoked", 9003, "this key was revoked by the coordinator"),
    ],
)
def test_unknown_and_revoked_keys_are_told_apart(name, code, said):
    inner = Inner()
    assert refused(ask(open_door(inner), sender=name), 401, code) == said
    assert inner.requests == []


@pytest.mark.fault
@pytest.mark.parametrize("age", [310, 86_400, -310, -86_400])
def test_stale_stamps_are_refused_with_their_age(age):
    """Of the past and of the future."""
    inner = Inner()
    said = refused(ask(open_door(inner), headers=stamp("a", age)), 401, 9004)
    found = int(said.split("the stamp is ")[1].split(" seconds")[0])
    assert abs(found - age) <= LONGEST and "at most 300 are allowed" in said
    assert inner.requests == []


@pytest.mark.parametrize("age", [280, -280])
def test_clocks_may_differ_a_little(age):
    assert ask(open_door(Inner()), headers=stamp("a", age)).status_code == 200


@pytest.mark.parametrize(
    "times", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "1970-01-01T00Z"]
)
def test_the_ends_of_the_calendar_are_stale_and_no_fault(times):
    headers = stamp("a", **{TIMESTAMP_HEADER: times})
    refused(ask(open_door(Inner()), headers=headers), 401, 9004)


def forged(name: str) -> dict[str, str]:
    """A request in the name of `name`, with the signature of another key."""
    headers = stamp(name)
    at = headers[TIMESTAMP_HEADER].encode()
    signature = KEYS["stranger"].sign(at, ec.ECDSA(hashes.SHA256()))
    return headers | {SIGNATURE_HEADER: base64.b64encode(signature).decode()}


WRONG = {
    "signed with another key": lambda: forged("a"),
    "signed by another site that is admitted": lambda: (
        stamp("a") | {PUBLIC_KEY_HEADER: stamp("b")[PUBLIC_KEY_HEADER]}
    ),
    "signed for another time": lambda: (
        stamp("a", 10) | {TIMESTAMP_HEADER: stamp("a")[TIMESTAMP_HEADER]}
    ),
    "not a signature": lambda: stamp("a", **{SIGNATURE_HEADER: base64.b64encode(b"x").decode()}),
    "an empty signature": lambda: stamp("a", **{SIGNATURE_HEADER: ""}),
}  # fmt: skip


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_signatures_must_belong_to_key_and_stamp(headers):
    inner = Inner()
    said = refused(ask(open_door(inner), headers=headers()), 401, 9005)
    assert said == "the signature does not belong to this key and stamp"
    assert inner.requests == []


def test_a_stamp_opens_once():
    inner, headers = Inner(), stamp("a")
    door = open_door(inner)
    assert ask(door, headers=headers).status_code == 200
    for path in (OTHER, PULL):
        said = refused(ask(door, path, headers=headers), 401, 9006)
        assert said == "this stamp was used before: the request is a copy"
    assert len(inner.requests) == 1
    assert ask(door).status_code == 200  # with a stamp of its own


def test_a_copy_with_the_other_form_of_the_signature_is_a_copy_too():
    """(r, s) and (r, -s) are both valid, and everybody can turn one into the other."""
    order = 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D  # of P-384
    headers = stamp("a")
    r, s = decode_dss_signature(base64.b64decode(headers[SIGNATURE_HEADER]))
    twin = base64.b64encode(encode_dss_signature(r, order - s)).decode()
    assert ask(open_door(Inner()), headers=headers | {SIGNATURE_HEADER: twin}).status_code == 200
    door = open_door(Inner())
    assert ask(door, headers=headers).status_code == 200
    refused(ask(door, headers=headers | {SIGNATURE_HEADER: twin}), 401, 9006)


def test_a_refused_request_does_not_use_a_stamp_up():
    """Else whoever copies a signature could lock a site out."""
    headers, door = stamp("a"), open_door(Inner())
    later = headers | {TIMESTAMP_HEADER: stamp("a")[TIMESTAMP_HEADER]}
    refused(ask(door, headers=later), 401, 9005)
    assert ask(door, headers=headers).status_code == 200


def test_used_stamps_are_forgotten_when_a_clock_alone_refuses_them(monkeypatch):
    """And not before: one of the future is valid for twice the tolerance."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    signatures = [encode_dss_signature(r, 1) for r in range(1, 10_003)]
    stamps = Stamps()
    assert all(stamps.use(each) for each in signatures) and len(stamps.seen) == 10_002
    now[0] += 2 * TOLERANCE
    assert not stamps.use(signatures[0]) and len(stamps.seen) == 10_002
    now[0] += 61
    assert stamps.use(encode_dss_signature(20_000, 1)) and len(stamps.seen) == 1


def test_a_key_comes_in_as_its_own_site():
    """Whatever else stands in the request: the SuperLink compares key and node id after this."""
    inner = Inner()
    door = open_door(inner)
    assert ask(door, sender="b").headers["x-medsa-site"] == "b"
    assert check_stamp(stamp("b"), door.keys, door.stamps) == "b"
    (request,) = inner.requests
    assert base64.b64decode(request.headers[PUBLIC_KEY_HEADER]) == PEM["b"]


def test_of_a_header_that_is_there_twice_one_is_judged_and_passed_on():
    """Else the door would look at one key and the SuperLink at another."""
    inner = Inner()
    door = open_door(inner)
    one, two = stamp("stranger"), stamp("a")

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            headers = [*one.items(), *two.items()]
            return await client.post(OTHER, headers=headers, content=b"")

    assert run(work()).status_code == 200
    (request,) = inner.requests
    for name in two:
        assert request.headers.get_list(name) == [two[name]]


def test_keys_can_be_replaced_while_the_door_is_open():
    door = open_door(Inner())
    assert ask(door, sender="a").status_code == 200
    door.keys = Keys({PEM["b"]: "b"}, {PEM["a"]: "a"})
    refused(ask(door, sender="a"), 401, 9003)
    assert ask(door, sender="b").status_code == 200


def test_a_key_that_is_admitted_and_revoked_is_revoked():
    keys = Keys({PEM["a"]: "a"}, {PEM["a"]: "a"})
    refused(ask(open_door(Inner(), keys)), 401, 9003)


def test_a_key_of_another_kind_is_refused_and_no_fault():
    """It cannot be registered; if it were, its signature is none of ours."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    headers = stamp("a") | {PUBLIC_KEY_HEADER: base64.b64encode(pem).decode()}
    with pytest.raises(Refusal) as caught:
        check_stamp(headers, Keys({pem: "a"}), Stamps())
    assert caught.value.code == 9005


@pytest.mark.fault
def test_too_large_requests_are_refused_before_they_are_whole(monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    inner = Inner()
    door = open_door(inner)
    assert ask(door, body=b"x" * 1000).status_code == 200
    said = refused(ask(door, body=b"x" * 1001), 413, 9007)
    assert said == "the request is larger than 1000 bytes"
    part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
    start, _ = call(door, OTHER, [part, part])  # the third part is never asked for
    assert start["status"] == 413
    assert len(inner.requests) == 1


def test_a_body_in_parts_arrives_whole():
    inner = Inner()
    parts = [{"type": "http.request", "body": b"ab", "more_body": True},
             {"type": "http.request", "more_body": True},
             {"type": "http.request", "body": b"c"}]  # fmt: skip
    start, _ = call(open_door(inner), OTHER, parts)
    assert start["status"] == 200 and inner.requests[0].content == b"abc"


@pytest.mark.fault
def test_a_request_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "SLOWEST", 0.02)
    inner = Inner()
    start, body = call(
        open_door(inner), OTHER, [{"type": "http.request", "body": b"x", "more_body": True}]
    )
    assert start["status"] == 408 and b"9008" in body["body"]
    assert inner.requests == []


@pytest.mark.fault
def test_a_connection_that_breaks_in_the_middle_reaches_nobody():
    inner = Inner()
    events = [{"type": "http.request", "body": b"x", "more_body": True},
              {"type": "http.disconnect"}]  # fmt: skip
    start, _ = call(open_door(inner), OTHER, events)
    assert start["status"] == 400 and inner.requests == []


@pytest.fixture
def quick(monkeypatch):
    """Looks for work that follow each other at once."""
    monkeypatch.setattr(module, "LEAST_PAUSE", 0.001)
    monkeypatch.setattr(module, "LOOK", 0.001)


LATER = PullObjectResponse(object_found=True).SerializeToString()
READY = PullObjectResponse(
    object_found=True, object_available=True, object_content=b"x"
).SerializeToString()


@pytest.mark.parametrize(
    ("path", "nothing", "something"), [(PULL, EMPTY, WORK), (OBJECT, LATER, READY)]
)
@pytest.mark.usefixtures("quick")
def test_a_question_is_held_until_there_is_an_answer(path, nothing, something):
    """The same question each time; the site sees one answer."""
    inner = Inner(nothing, nothing, nothing, something)
    door = open_door(inner)
    answer = ask(door, path, body=b"whose")
    assert (answer.status_code, answer.content) == (200, something)
    assert inner.paths == [path] * 4
    assert {request.content for request in inner.requests} == {b"whose"}
    assert len({request.headers[SIGNATURE_HEADER] for request in inner.requests}) == 1


@pytest.mark.parametrize(
    ("path", "nothing"), [(PULL, EMPTY), (OBJECT, LATER)], ids=["messages", "object"]
)
@pytest.mark.usefixtures("quick")
def test_a_question_without_an_answer_is_answered_so_in_time(monkeypatch, path, nothing):
    """Before the site gives up."""
    monkeypatch.setattr(module, "HOLD", 0.05)
    inner = Inner(nothing)
    answer = ask(open_door(inner), path)
    assert (answer.status_code, answer.content) == (200, nothing)
    assert len(inner.requests) > 2


def test_the_door_answers_before_a_site_gives_up():
    """Flower's client waits for 30 seconds; a look may wait for a SuperLink that restarts."""
    assert module.HOLD + module.COMES_BACK < 30


GONE = PullObjectResponse(object_found=False).SerializeToString()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (OTHER, b""), (OTHER, EMPTY), (BEAT, b""), (PULL, WORK), (OBJECT, READY), (OBJECT, GONE),
        (PULL, httpx.Response(401, content=b"")), (PULL, httpx.Response(500, content=b"")),
    ],
)  # fmt: skip
def test_everything_else_is_answered_at_once(path, answer):
    inner = Inner(answer)
    ask(open_door(inner), path)
    assert len(inner.requests) == 1


@pytest.mark.usefixtures("quick")
def test_a_site_that_hangs_up_is_not_asked_for_any_more():
    """Else work would be fetched for nobody, and lost."""
    looked = asyncio.Event()
    requests: list[httpx.Request] = []

    def inner(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if len(requests) == 3:
            looked.set()
        return httpx.Response(200, content=EMPTY)

    door = open_door(inner)
    events = [{"type": "http.request", "body": b""}]
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop()
        await looked.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(name.encode(), value.encode()) for name, value in stamp("a").items()]
    scope = {"type": "http", "method": "POST", "path": PULL, "headers": headers}
    run(door(scope, receive, send))
    assert sent == [] and 3 <= len(requests) <= 4


@pytest.mark.usefixtures("quick")
def test_a_site_that_hung_up_before_the_first_look_gets_no_work():
    inner = Inner(WORK)
    events = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    door = open_door(inner)
    assert call(door, PULL, events) == [] and inner.requests == []


@pytest.mark.usefixtures("quick")
def test_while_nothing_changes_at_the_superlink_it_is_left_alone():
    """Sites that wait cost it nothing; when something happens it is asked for all of them."""
    looks: list[int] = []

    def changed() -> int:
        looks.append(1)
        return len(looks) // 20

    inner = Inner(EMPTY, EMPTY, WORK)
    door = open_door(inner, changed=changed)
    assert ask(door, PULL).content == WORK
    assert len(inner.requests) == 3 and len(looks) >= 40


@pytest.mark.usefixtures("quick")
def test_now_and_then_it_is_asked_all_the_same(monkeypatch):
    """A change that went unnoticed costs a moment and not the round."""
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)
    inner = Inner(EMPTY, EMPTY, WORK)
    assert ask(open_door(inner, changed=lambda: 0), PULL).content == WORK
    assert len(inner.requests) == 3


@pytest.mark.usefixtures("quick")
def test_many_sites_are_held_at_once():
    """One that waits does not keep another one waiting: there is work once all five wait."""
    asked: set[str] = set()

    def inner(request: httpx.Request) -> httpx.Response:
        asked.add(request.headers[SIGNATURE_HEADER])
        return httpx.Response(200, content=WORK if len(asked) == 5 else EMPTY)

    async def work() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=open_door(inner))
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            calls = [client.post(PULL, headers=stamp("a"), content=b"") for _ in range(5)]
            return await asyncio.gather(*calls)

    assert [answer.content for answer in run(work())] == [WORK] * 5


@pytest.mark.fault
def test_a_superlink_that_restarts_is_waited_for(monkeypatch):
    """Nothing was sent, so that it may be sent again."""
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    away = httpx.ConnectError("refused")
    inner = Inner(away, away, away, b"back")
    answer = ask(open_door(inner))
    assert (answer.status_code, answer.content) == (200, b"back")
    assert len(inner.requests) == 4


def test_a_superlink_that_stays_away_is_said_to_be_away(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    monkeypatch.setattr(module, "COMES_BACK", 0.03)
    inner = Inner(httpx.ConnectError("refused"))
    door = open_door(inner)
    said = refused(ask(door), 503, 9010)
    assert said == "the SuperLink does not answer; try again"
    assert len(inner.requests) > 2


@pytest.mark.parametrize(
    "error", [httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.WriteError]
)
def test_what_may_have_arrived_is_not_sent_twice(error):
    """The site decides: it knows whether it may be sent again."""
    inner = Inner(error("broken"))
    said = refused(ask(open_door(inner), OTHER), 503, 9010)
    assert said == "the SuperLink broke off; try again"
    assert len(inner.requests) == 1


def test_the_way_to_the_superlink_is_closed_with_the_door():
    """Between the events of the server's start and its end."""
    door = open_door(Inner())
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[tuple[str, bool]] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(event: Any) -> None:
        sent.append((event["type"], door.inner.is_closed))

    run(door({"type": "lifespan"}, receive, send))
    assert sent == [("lifespan.startup.complete", False), ("lifespan.shutdown.complete", True)]


ME, SUPERLINK, ANOTHER = 7, 1, 8  # node ids


def reply(**other: Any) -> Message:
    """A message as the node `ME` sends it, but for `other` in its metadata."""
    metadata = {"src_node_id": ME, "dst_node_id": SUPERLINK, "reply_to_message_id": "asked"}
    return Message(metadata=Metadata(**metadata | other))


def tree(parts: int = 1) -> ObjectTree:
    """How an answer of so many parts hangs together."""
    children = [ObjectTree(object_id=f"part {number}") for number in range(parts - 1)]
    return ObjectTree(object_id="answer", children=children)


def push(*messages: Message, node: int = ME, trees: tuple[ObjectTree, ...] = (tree(),)) -> bytes:
    """The body of a request that pushes `messages`."""
    return PushMessagesRequest(
        node=Node(node_id=node), messages_list=messages, message_object_trees=trees
    ).SerializeToString()


def test_a_site_may_answer():
    inner, body = Inner(), push(reply())
    assert ask(open_door(inner), PUSH, body=body).content == b"answer"
    assert [request.content for request in inner.requests] == [body]


def test_what_flower_itself_makes_of_an_answer_goes_through():
    """An order of the server, answered by a client app, as a SuperNode puts it on the wire."""
    from flwr.app import Message as Order
    from flwr.app import RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto

    order = Message(metadata=Metadata(
        run_id=3, message_id="asked", src_node_id=SUPERLINK, dst_node_id=ME, ttl=60,
        message_type="train", created_at=1.8e9,
    ))  # fmt: skip
    order.content.SetInParent()
    answer = Order(RecordDict(), reply_to=message_from_proto(order))
    body = push(message_to_proto(answer))
    assert ask(open_door(Inner()), PUSH, body=body).content == b"answer"


@pytest.mark.parametrize(
    "body",
    [
        push(reply(src_node_id=ANOTHER)), push(reply(), node=ANOTHER), push(reply(), node=0),
        push(reply(src_node_id=SUPERLINK)), push(reply(src_node_id=0)),
        push(reply(dst_node_id=ANOTHER)), push(reply(dst_node_id=ME)), push(reply(dst_node_id=0)),
        push(reply(src_node_id=SUPERLINK, dst_node_id=ANOTHER, reply_to_message_id="")),
        push(reply(reply_to_message_id="")), push(Message()), push(),
        push(reply(), reply()), push(reply(), reply(src_node_id=ANOTHER)), b"",
        push(reply(), trees=()), push(reply(), trees=(tree(), tree())),
        push(reply(), trees=(tree(FEW_PARTS + 2),)),
    ],
)  # fmt: skip
def test_a_site_sends_nothing_but_its_own_answer(body):
    """Flower looks at the node of the request alone: else one could speak for all others."""
    inner = Inner()
    said = refused(ask(open_door(inner, largest_answer=2**20), PUSH, body=body), 403, 9011)
    assert (
        "one answer at a time, in its own name, to the coordinator and in at most 65 parts" in said
    )
    assert inner.requests == []


def test_the_parts_of_an_answer_are_bounded_together():
    """The SuperLink would keep whatever it is sent, until the disk is full."""
    inner = Inner()
    door = open_door(inner, largest_answer=1000)
    for _ in range(2):  # each answer has its own bound
        assert ask(door, PUSH, body=push(reply())).status_code == 200
        for _ in range(2):
            assert ask(door, PUSH_OBJECT, body=bytes(400)).status_code == 200
        said = refused(ask(door, PUSH_OBJECT, body=bytes(400)), 413, 9015)
        assert said.startswith("the answer of a is larger than 1000 bytes") and "megabytes" in said
    assert ask(door, PUSH_OBJECT, body=bytes(400), sender="b").status_code == 200
    assert inner.paths.count(PUSH_OBJECT) == 5


@pytest.mark.parametrize("body", [b"question", b"\xff", push(reply())[:-1]])
def test_an_answer_that_cannot_be_read_is_refused(body):
    inner = Inner()
    said = refused(ask(open_door(inner), PUSH, body=body), 400, 9012)
    assert said == "the request is not what Flower sends to this path"
    assert inner.requests == []


@pytest.mark.fault
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("between", [[], [BEAT], [BEAT, BEAT], ["/v1/fleet/get-run", BEAT]])
def test_work_that_did_not_arrive_is_given_again(between):
    """Who asks for work has none: the connection broke before it came. The heart beats on, and the
    site itself asks now and then whether the door is open, for no run (an empty body)."""
    inner = Inner(WORK, b"alive", b"alive")
    door = open_door(inner)
    assert ask(door, PULL).content == WORK
    for path in between:
        ask(door, path, body=b"")
    again = [ask(door, PULL) for _ in range(2)]
    assert [(answer.status_code, answer.content) for answer in again] == [(200, WORK)] * 2
    assert again[0].headers["x-medsa-site"] == "a"
    assert inner.paths == [PULL, *between]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("then", "body"),
    [
        ("/v1/fleet/get-run", b"run"), (OBJECT, b""), ("/v1/fleet/confirm-message-received", b""),
        (PUSH, push(reply())), ("/v1/fleet/activate-node", b""),
        ("/v1/fleet/deactivate-node", b""),
    ],
)  # fmt: skip
def test_work_that_arrived_is_not_given_again(then, body):
    """Whoever asks for the run or the arrays has it, also when he fails then; a site that was
    started anew gets its own from the round loop."""
    other = PullMessagesResponse(messages_list=[reply()]).SerializeToString()
    inner = Inner(WORK, b"", other)
    door = open_door(inner)
    assert ask(door, PULL).content == WORK
    ask(door, then, body=body)
    assert ask(door, PULL).content == other
    assert inner.paths == [PULL, then, PULL]


@pytest.mark.usefixtures("quick")
def test_work_is_given_again_to_the_same_node_alone():
    first, second, third = (
        PullMessagesResponse(messages_list=[reply(run_id=each)]).SerializeToString()
        for each in range(3)
    )
    inner = Inner(first, second, third)
    door = open_door(inner)
    assert ask(door, PULL, body=b"node 7").content == first
    assert ask(door, PULL, body=b"node 7", sender="b").content == second
    assert ask(door, PULL, body=b"node 8").content == third


@pytest.mark.parametrize("status", [401, 500])
def test_what_is_no_work_is_not_given_again(status):
    inner = Inner(httpx.Response(status, content=WORK), WORK)
    door = open_door(inner)
    assert ask(door, PULL).status_code == status
    assert ask(door, PULL).status_code == 200 and len(inner.requests) == 2


class Slow:
    """A SuperLink that answers with `answer` when it is told to; notes what waits for it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.go = asyncio.Event()
        self.asked: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        await self.go.wait()
        return httpx.Response(200, content=self.answer)

    async def wait_for(self, count: int) -> None:
        """Until so many requests wait."""
        while len(self.asked) < count:
            await asyncio.sleep(0)


@pytest.mark.usefixtures("quick")
def test_work_that_was_fetched_for_somebody_who_hung_up_is_kept():
    """He was there when the SuperLink was asked and gone when it answered; others ask no more
    before that, since the work would be with the first."""

    async def work() -> None:
        inner = Slow(WORK)
        door = open_door(inner)
        gone = asyncio.Event()
        events = [{"type": "http.request", "body": b""}]

        async def receive() -> dict[str, Any]:
            if events:
                return events.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            return

        headers = [(name.encode(), value.encode()) for name, value in stamp("a").items()]
        scope = {"type": "http", "method": "POST", "path": PULL, "headers": headers}
        first = asyncio.create_task(door(scope, receive, send))
        await inner.wait_for(1)
        gone.set()
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            second = asyncio.create_task(client.post(PULL, headers=stamp("a"), content=b""))
            while door.load.requests["a"] != 2:
                await asyncio.sleep(0)
            for _ in range(100):  # it gets as far as it can
                await asyncio.sleep(0)
            inner.go.set()
            assert (await second).content == WORK
        await first
        assert len(inner.asked) == 1

    run(work())


async def post(door: Door, sender: str, path: str = OTHER, body: bytes = b"") -> httpx.Response:
    """One of several requests at a time."""
    transport = httpx.ASGITransport(app=door)
    async with httpx.AsyncClient(transport=transport, base_url="https://door") as client:
        return await client.post(path, headers=stamp(sender), content=body)


def test_a_site_has_a_limit_of_its_own():
    """Others do not notice; when a request ends there is room for another one."""

    async def work() -> None:
        inner = Slow(b"answer")
        door = open_door(inner)
        many = [asyncio.create_task(post(door, "a")) for _ in range(limits.AT_ONCE)]
        await inner.wait_for(limits.AT_ONCE)
        said = refused(await post(door, "a"), 503, 9013)
        assert said.startswith(f"a has {limits.AT_ONCE} requests under way")
        other = asyncio.create_task(post(door, "b"))
        await inner.wait_for(limits.AT_ONCE + 1)
        inner.go.set()
        answers = [*await asyncio.gather(*many), await other, await post(door, "a")]
        assert {answer.content for answer in answers} == {b"answer"}

    run(work())


def test_a_site_over_its_limit_is_refused_before_its_body_is_read(monkeypatch):
    monkeypatch.setattr(limits, "AT_ONCE", 0)
    events = [{"type": "http.request", "body": b"x", "more_body": True}]
    start, _ = call(open_door(Inner()), OTHER, events)
    assert start["status"] == 503 and len(events) == 1


def test_strangers_do_not_count_for_a_site(monkeypatch):
    """Whoever knows a site's public key could shut it out."""
    monkeypatch.setattr(limits, "AT_ONCE", 0)
    refused(ask(open_door(Inner()), headers=forged("a")), 401, 9005)


def test_a_supernode_stays_below_the_limit():
    """Also when requests of connections that broke are still under way twice over."""
    from flwr.supercore import constant

    threads = max(
        constant.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS,
        constant.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES,
    )
    assert 3 * (threads + 1) <= limits.AT_ONCE


def test_bodies_of_all_sites_together_have_a_limit(monkeypatch):
    """As long as they are needed, and of those that were refused no more."""
    monkeypatch.setattr(limits, "BODIES", 1000)

    async def work() -> None:
        inner = Slow(b"answer")
        door = open_door(inner)
        first = asyncio.create_task(post(door, "a", body=b"x" * 600))
        await inner.wait_for(1)
        for _ in range(2):
            said = refused(await post(door, "b", body=b"x" * 600), 503, 9014)
            assert said == "the coordinator has too much to receive; try again"
        second = asyncio.create_task(post(door, "b", body=b"x" * 400))
        await inner.wait_for(2)
        inner.go.set()
        await asyncio.gather(first, second)
        assert (await post(door, "b", body=b"x" * 1000)).content == b"answer"

    run(work())


def test_used_stamps_are_looked_through_once_a_minute(monkeypatch):
    """And not for each request of a busy day."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stamps = Stamps()
    for r in range(1, 10_003):
        stamps.use(encode_dss_signature(r, 1))
    seen = stamps.seen
    now[0] += 59
    assert stamps.use(encode_dss_signature(20_000, 1)) and stamps.seen is seen
    now[0] += 1
    assert stamps.use(encode_dss_signature(20_001, 1)) and stamps.seen is not seen


def test_a_superlink_that_fails_is_asked_again_a_few_times(monkeypatch):
    """Such as with a locked database: else one busy moment costs a site its answer."""
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    failed = httpx.Response(500, content=b"database is locked")
    inner = Inner(failed, failed, b"done")
    assert ask(open_door(inner)).content == b"done" and len(inner.requests) == 3
    inner = Inner(failed)
    assert ask(open_door(inner)).status_code == 500 and len(inner.requests) == module.TRIES
