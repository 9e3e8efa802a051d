"""The live page as a browser or a stranger gets it, without a network."""

import asyncio
import json
import os
import re

import httpx
import pytest

from medsa_model.errors import ConfigError
from server import page, page_state
from server.page import as_json, known_hosts, make_app, read_address
from tests.server.page_run import RecordedRun

HOSTILE = "<script>alert(1)</script>"


def ask(run: RecordedRun, path: str, method: str = "GET", host: str = "127.0.0.1:8080"):
    """One request to the page that listens at 127.0.0.1."""

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=run.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, headers={"host": host})

    return asyncio.run(answer())


@pytest.fixture
def run(tmp_path, monkeypatch) -> RecordedRun:
    """Nothing of it is to outlive a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    recorded = RecordedRun(tmp_path)
    recorded.app = make_app(recorded.state, known_hosts("127.0.0.1", recorded.federation))
    return recorded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)), ("localhost:1", ("localhost", 1)),
        ("[::1]:65535", ("::1", 65535)), ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)  # fmt: skip
def test_an_address_is_read(text, expected):
    assert read_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "8080", ":8080", "localhost", "localhost:", "localhost:0", "localhost:65536", "::1:8080",
     "[127.0.0.1]:8080", "http://localhost:8080", "localhost:80x", "localhost:\N{SUPERSCRIPT TWO}"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"expected HOST:PORT .* such as 127\.0\.0\.1:8080"):
        read_address(text)


def test_two_addresses_can_be_read_and_nothing_can_be_changed(run):
    """Whatever the method, the run directory stays as it is."""
    run.state.begin(run.config, run.place)
    run.start()
    before = {path: path.read_bytes() for path in run.place.rglob("*") if path.is_file()}
    for path in ("/", "/state.json"):
        assert ask(run, path).status_code == 200
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"):
            assert ask(run, path, method).status_code == 405, (path, method)
    for path in ("/x", "/state.json/", "/docs", "/../server.key", "/audit.jsonl", "/static/"):
        assert ask(run, path).status_code == 404, path
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200), ("localhost", 200), ("localhost:9", 200), ("[::1]:8080", 200),
        ("evil.example", 400), ("evil.example:8080", 400), ("127.0.0.1.evil.example", 400),
        ("", 400), ("[::2]:8080", 400), ("[", 400), ("coordinator.example", 400),
        ("LocalHost:8080", 200), ("[0:0::1]", 200), ("[::1", 400), ("[::1]evil.example", 400),
        ("::1", 400), ("[127.0.0.1]", 400), ("localhost:", 400), ("localhost:8080:80", 400),
        ("localhost:evil.example", 400), ("*", 400),
    ],
)  # fmt: skip
def test_another_host_name_is_refused(run, host, status):
    """A web site whose name is suddenly that of this machine (DNS rebinding)."""
    for path in ("/", "/state.json"):
        assert ask(run, path, host=host).status_code == status


def test_at_an_address_for_others_the_names_of_the_machine_are_known(run):
    address = run.federation.address.model_copy(
        update={"host": "Coordinator.Example", "also": ("*", "*.example", "2001:DB8:0:0::1")}
    )
    run.federation = run.federation.model_copy(update={"address": address})
    hosts = known_hosts("0.0.0.0", run.federation)
    assert {"0.0.0.0", "localhost", "coordinator.example"} <= set(hosts)
    run.app = make_app(run.state, hosts)
    for host in ("coordinator.example", "COORDINATOR.example:80", "[2001:db8::1]:8080"):
        assert ask(run, "/state.json", host=host).status_code == 200
    for host in ("evil.example", "127.0.0.2", "[2001:db8::2]"):  # a * is no pattern
        assert ask(run, "/state.json", host=host).status_code == 400
    assert known_hosts("0:0::1", run.federation) == ["127.0.0.1", "[::1]", "localhost"]


@pytest.mark.parametrize("path", ["/", "/state.json", "/nothing"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_has_the_headers_of_safety(run, path, host):
    headers = ask(run, path, host=host).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "access-control" not in str(headers)


def test_texts_of_others_are_texts(run):
    """Names of sites and reasons may be anything once they are in the logs."""
    run.state.begin(run.config, run.place)
    run.ask(1, "train", HOSTILE)
    run.train(1, HOSTILE, 0.5)
    run.note("rejected", round=1, site=HOSTILE, code="NORM", reason=f'"{HOSTILE}', what="update")
    text = ask(run, "/").text
    assert HOSTILE not in text and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6
    assert text.count("<script") == 1
    state = ask(run, "/state.json")
    assert state.headers["content-type"] == "application/json"
    assert state.json()["sites"][-1]["name"] == HOSTILE


def test_the_page_is_whole_without_a_script(run):
    run.state.begin(run.config, run.place)
    run.start()
    run.whole_round(1)
    shown = ask(run, "/").text
    state = ask(run, "/state.json").json()
    for text in [state["words"], state["progress"], *(site["name"] for site in state["sites"]),
                 *(event["text"] for event in state["events"])]:  # fmt: skip
        assert text in shown
    paths = [line["path"] for chart in state["charts"] for line in chart["lines"]]
    assert len(paths) == 7 and all(path in shown for path in paths)  # three sites twice, one mean
    assert '<noscript><meta http-equiv="refresh"' in shown
    assert not re.search(r'(src|href|action)="', shown) and ' style="' not in shown


def test_every_cell_of_a_site_has_its_heading(run):
    """On a telephone there is no row of headings: a site is a card of labelled cells."""
    run.state.begin(run.config, run.place)
    run.start()
    run.note("privacy", round=1, site="north", epsilon=1.25, delta=0.001)
    shown, columns = ask(run, "/").text, ask(run, "/state.json").json()["columns"]
    table = re.search(r'id="sites">.*?</table>', shown, re.DOTALL)[0]
    rows = re.findall(r"<tr data-site=.*?</tr>", table, re.DOTALL)
    assert columns[-1] == "Epsilon" and len(rows) == 3
    for row in rows:
        assert re.findall(r'data-label="(.*?)"', row) == columns[1:]
    assert '<abbr title="10^6 bytes">MB</abbr>' in shown and "10<sup>" not in shown


def test_nothing_that_others_should_not_know(run):
    """No hashes, no numbers of nodes, no paths, whatever the logs hold."""
    run.state.begin(run.config, run.place)
    run.start()
    run.whole_round(1)
    run.finish(1)
    run.state.end("", well=True)
    for text in (ask(run, "/").text, ask(run, "/state.json").text):
        assert "0f0f0f" not in text and "900000000000000" not in text
        assert str(run.place.parent) not in text and "run.yaml" not in text


def test_an_error_of_the_page_is_logged_once(run, monkeypatch, caplog):
    monkeypatch.setattr("medsa_model.logs.logger.propagate", True)

    def fail() -> None:
        raise PermissionError("no")

    monkeypatch.setattr(run.state, "state", fail)
    app = make_app(run.state, ["localhost"])

    async def answers() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.get(path) for path in ("/", "/state.json", "/state.json")]

    for answer in asyncio.run(answers()):
        assert answer.status_code == 500 and "its run goes on" in answer.json()["problem"]
    assert len({id(each) for each in caplog.records}) == 1 and "PermissionError" in caplog.text


def test_the_state_is_strict_json(run):
    """NaN would be none: a browser refuses it."""
    run.state.begin(run.config, run.place)
    (run.place / "metrics.jsonl").write_text(
        '{"event": "train", "site": "north", "round": 1, "loss": NaN, "up_bytes": Infinity}\n'
    )

    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads(ask(run, "/state.json").text, parse_constant=refuse)


def test_a_damaged_line_leaves_page_and_state_readable(run):
    """A lone surrogate is JSON, and no text that can be sent."""
    run.state.begin(run.config, run.place)
    (run.place / "metrics.jsonl").write_text(
        '{"event": "rejected", "site": "north", "round": 1, "reason": "lone \\ud800"}\n'
    )
    assert "lone ?" in ask(run, "/").text
    answer = ask(run, "/state.json")
    assert answer.status_code == 200 and answer.json()["rejected"][0][2] == "lone \ud800"
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"loss": float("nan")})


def test_many_readers_cost_no_more_than_one(run, monkeypatch):
    """A state is computed once, and each answer is written once of it, until it is old."""
    run.state.begin(run.config, run.place)
    computed, written = [], []
    compute, write = run.state._compute, page.Page._as_html
    monkeypatch.setattr(run.state, "_compute", lambda s: computed.append(1) or compute(s))
    monkeypatch.setattr(page.Page, "_as_html", lambda s, v: written.append(1) or write(s, v))
    monkeypatch.setattr(page, "as_json", lambda v: written.append(2) or b"{}")
    clock = [100.0]
    monkeypatch.setattr(page_state.time, "monotonic", lambda: clock[0])

    def all_ask() -> tuple[int, list[int]]:
        answers = {(path, ask(run, path).text) for _ in range(5) for path in ("/", "/state.json")}
        assert len(answers) == 2
        return len(computed), written

    assert all_ask() == (1, [1, 2])
    clock[0] += page_state.FRESH + 0.01
    assert all_ask() == (2, [1, 2, 1, 2])
    run.state.end("over")  # is told at once
    assert all_ask() == (3, [1, 2, 1, 2, 1, 2])
