"""The audit log: appended to, never healed, and every change of it is found."""

import hashlib
import json
import logging
import logging.handlers
import multiprocessing
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from medsa_model.audit_log import CHUNK, read, record, verify
from medsa_model.errors import AuditError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves all that it has written."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def log(quick: Path) -> Path:
    """Eight events."""
    path = quick / "audit.jsonl"
    for number in range(8):
        record(path, "joined" if number % 2 else "sent", site=f"site {number}", round=number)
    return path


@pytest.fixture
def said() -> Iterator[list[logging.LogRecord]]:
    """What the project's logger says."""
    logger, heard = logging.getLogger("medsa"), logging.handlers.BufferingHandler(10**6)
    logger.addHandler(heard)
    yield heard.buffer
    logger.removeHandler(heard)


def head_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def naive_line(fields: dict[str, object]) -> bytes:
    """A line of these fields, its hash computed by hand."""

    def text(content: dict[str, object]) -> str:
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    fields = {name: value for name, value in fields.items() if name != "hash"}
    return text(fields | {"hash": hashlib.sha256(text(fields).encode()).hexdigest()}).encode()


def chained_anew(lines: list[bytes], numbers: dict[int, int]) -> bytes:
    """A forger's hand: all `before` and hashes of a log computed anew, and some `numbers`."""
    before, written = "", []
    for number, line in enumerate(lines):
        fields = json.loads(line)
        if number:
            fields |= {"number": numbers.get(number, number), "before": before}
        written.append(naive_line(fields))
        before = json.loads(written[-1])["hash"]
    return b"\n".join(written) + b"\n"


def write_head(path: Path) -> None:
    """The head of a log as it lies there."""
    last = json.loads(path.read_bytes().splitlines()[-1])
    head = {"entries": last["number"], "hash": last["hash"]}
    head_of(path).write_text(json.dumps(head, sort_keys=True, separators=(",", ":")) + "\n")


def found(path: Path) -> str:
    """Verification fails, and changes nothing."""
    before = {place.name: place.read_bytes() for place in path.parent.iterdir()}
    with pytest.raises(AuditError) as caught:
        verify(path)
    assert {place.name: place.read_bytes() for place in path.parent.iterdir()} == before
    told = str(caught.value)
    assert str(path) in told and ", line " in told and "found" in told and "expected" in told
    return told


def test_what_was_recorded_is_read_again(tmp_path):
    path, began = tmp_path / "audit.jsonl", datetime.now(UTC)
    facts = {"site": "north", "rounds": [1, 2.5, None, True], "more": {"a": {"b": "c"}}}
    first = record(path, "joined", **facts)
    second = record(path, "sent", event="a name of its own", place="too")
    one, two = read(path)
    assert (one.number, one.event, one.facts, one.hash) == (1, "joined", facts, first)
    assert (two.number, two.event, two.hash, two.before) == (2, "sent", second, first)
    assert two.facts == {"event": "a name of its own", "place": "too"}
    whole = verify(path)
    assert (whole.entries, whole.first, whole.last, whole.hash, whole.torn) == (
        2, one.time, two.time, second, 0,
    )  # fmt: skip
    assert abs((datetime.fromisoformat(one.time) - began).total_seconds()) < 60
    assert one.time.endswith("+00:00")


def test_the_chain_is_that_of_naive_hashes(log):
    header, *lines = log.read_bytes().splitlines()
    assert json.loads(header)["log"] == verify(log).log and len(verify(log).log) == 32
    before = json.loads(header)["hash"]
    for number, line in enumerate(lines, start=1):
        fields = json.loads(line)
        assert fields.keys() == {"before", "event", "facts", "hash", "number", "time"}
        assert line == naive_line(fields)
        assert fields["before"] == before and fields["number"] == number
        before = fields["hash"]
    assert json.loads(head_of(log).read_text()) == {"entries": 8, "hash": before}


def test_two_logs_have_two_ids(log, tmp_path):
    record(tmp_path / "other.jsonl", "sent")
    assert verify(log).log != verify(tmp_path / "other.jsonl").log


def test_it_is_appended_to_and_not_rewritten(log):
    node, content = log.stat().st_ino, log.read_bytes()
    record(log, "sent")
    assert log.stat().st_ino == node and log.read_bytes().startswith(content)
    assert {stat.S_IMODE(place.stat().st_mode) for place in log.parent.iterdir()} == {0o600}


def test_an_entry_is_on_the_disk_before_its_head_and_both_before_it_returns(log, monkeypatch):
    done: list[str] = []
    for name, real in (("write", os.write), ("fsync", os.fsync), ("replace", os.replace)):

        def noted(what, *more, name=name, real=real):
            kind = os.fstat(what) if isinstance(what, int) else None
            log_itself = kind is not None and kind.st_ino == log.stat().st_ino
            done.append(f"{name} {'log' if log_itself else 'head'}")
            return real(what, *more)

        monkeypatch.setattr(os, name, noted)
    record(log, "sent")
    assert done == ["write log", "fsync log", "fsync head", "replace head", "fsync head"]


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    """Also when its last line is longer than what is read at a time."""
    path = tmp_path / "audit.jsonl"
    for size in (1, CHUNK // 4, 1):
        record(path, "sent", numbers=list(range(size)))
    record(path, "checkpoint", texts=["x" * 500] * 500)
    record(path, "sent")
    opened, kept = Path.open, []

    def counted(place: Path, *arguments: object, **more: object):
        file = opened(place, *arguments, **more)
        if place == path:
            real = file.read
            kept.append(0)

            class Counted:
                seek, close = file.seek, file.close

                def read(self, size: int) -> bytes:
                    kept[-1] += size
                    return real(size)

                def __enter__(self):
                    return self

                def __exit__(self, *_: object) -> None:
                    file.close()

            return Counted()
        return file

    assert path.stat().st_size > 3 * CHUNK
    monkeypatch.setattr(Path, "open", counted)
    record(path, "sent")
    monkeypatch.undo()
    assert kept and max(kept) <= CHUNK
    assert verify(path).entries == 6


def test_texts_become_one_short_printable_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    record(
        path, "rejected", reason="a\nb\x1b[31m\u202e\ud800 é" + "x" * 10**4, **{"k\ney": ["\x07"]}
    )
    (entry,) = read(path)
    reason = entry.facts["reason"]
    assert reason.startswith("a b[31m é") and len(reason) == 500 and reason.isprintable()
    assert entry.facts["k ey"] == [""]
    assert len(path.read_bytes().splitlines()) == 2 and verify(path).entries == 1


def test_numbers_of_other_types_become_plain(tmp_path):
    class Code(IntEnum):
        ONE = 1

    record(tmp_path / "a", "rejected", code=Code.ONE, loss=np.float64(0.5), sites=("a", "b"))
    assert read(tmp_path / "a")[0].facts == {"code": 1, "loss": 0.5, "sites": ["a", "b"]}


@pytest.mark.parametrize("fact", [
    float("nan"), float("inf"), [1, -float("inf")], {"a": float("nan")}, np.float32(1), b"x",
    Path("x"), {1: 2}, {"a": object()}, 10**5000, {"a": 1, "a\x07": 2},
], ids=lambda fact: f"{type(fact).__name__}")  # fmt: skip
def test_what_json_cannot_say_is_refused_and_nothing_is_written(fact, log):
    before = log.read_bytes()
    with pytest.raises(AuditError, match=r"sent\.loss"):
        record(log, "sent", loss=fact)
    assert log.read_bytes() == before


@pytest.mark.parametrize("event", ["torn", "", "Sent", "two words", "a\n", "x" * 65])
def test_events_have_plain_names(event, log):
    before = log.read_bytes()
    with pytest.raises(AuditError, match="the event is"):
        record(log, event)
    assert log.read_bytes() == before


def test_without_a_log_there_is_nothing_to_verify(tmp_path):
    for ask in (verify, read):
        with pytest.raises(AuditError, match="there is no audit log"):
            ask(tmp_path / "audit.jsonl")
    assert [*tmp_path.iterdir()] == []


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(AuditError, match="the folder has to be there"):
        record(tmp_path / "share" / "audit.jsonl", "sent")
    assert [*tmp_path.iterdir()] == []


def test_a_copy_without_its_lock_is_verified(log, tmp_path):
    (tmp_path / "copy").mkdir()
    for place in (log, head_of(log)):
        (tmp_path / "copy" / place.name).write_bytes(place.read_bytes())
    assert verify(tmp_path / "copy" / log.name) == verify(log)
    assert len([*(tmp_path / "copy").iterdir()]) == 2


def test_a_symbolic_link_is_the_log_it_points_to(log, tmp_path):
    (tmp_path / "kit").mkdir()
    link = tmp_path / "kit" / "audit.jsonl"
    link.symlink_to(log)
    record(link, "sent")
    assert verify(link).entries == verify(log).entries == 9 and [*link.parent.iterdir()] == [link]


def test_100_flipped_bytes_are_found(log):
    """Of the log and of its head, at places and by bits drawn at random."""
    draw = random.Random(1)
    for place in [*[log] * 100, *[head_of(log)] * 30]:
        whole = place.read_bytes()
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        place.write_bytes(flipped)
        found(log)
        place.write_bytes(whole)
    assert verify(log).entries == 8


def test_cuts_are_found(log):
    """At 20 lengths and at the end of every line, down to an empty file."""
    whole = log.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10][:-1]
    assert len(ends) == 8
    draw = random.Random(2)
    for length in [0, *ends, len(whole) - 1, *draw.sample(range(1, len(whole) - 1), 20)]:
        log.write_bytes(whole[:length])
        found(log)


def test_lines_that_were_swapped_doubled_taken_out_or_put_in_are_found(log, tmp_path):
    record(tmp_path / "other.jsonl", "sent")
    foreign, other = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)
    whole = log.read_bytes().splitlines(keepends=True)
    wrong = [[*whole[:n], *whole[n + 1 :]] for n in range(9)]
    wrong += [[*whole[:n], whole[n + 1], whole[n], *whole[n + 2 :]] for n in range(8)]
    wrong += [[*whole[: n + 1], *whole[n:]] for n in range(9)]
    wrong += [[*whole[:n], line, *whole[n:]] for n in range(10) for line in (other, b"\n", b"{}\n")]
    wrong += [[foreign, *whole[1:]]]
    for lines in wrong:
        log.write_bytes(b"".join(lines))
        found(log)
    log.write_bytes(b"".join(whole))
    assert verify(log).entries == 8


def test_bytes_that_were_put_in_or_taken_out_are_found(log):
    """At the start of each line and at places drawn at random, also in a log with a torn line."""
    log.write_bytes(log.read_bytes() + b'{"before":"12')
    record(log, "sent")
    whole, draw = log.read_bytes(), random.Random(4)
    starts = [0, *[place + 1 for place, byte in enumerate(whole) if byte == 10]]
    for place in [*starts[:-1], *draw.sample(range(len(whole)), 60)]:
        for put_in in (b"x", b" ", b"\n", b'{"before":"', b""):
            log.write_bytes(whole[:place] + put_in + whole[place + (not put_in) :])
            found(log)
    log.write_bytes(whole)
    assert (verify(log).entries, verify(log).torn) == (10, 1)


@pytest.mark.parametrize("number", [3, 5, 0, 10**30])
def test_numbers_that_do_not_count_are_found_in_a_chain_computed_anew(log, number):
    lines = log.read_bytes().splitlines()
    log.write_bytes(chained_anew(lines, {4: number}))
    write_head(log)
    assert "line 5: found number" in found(log)
    log.write_bytes(chained_anew(lines, {}))
    write_head(log)
    assert verify(log).entries == 8


def test_a_line_is_named_with_what_was_found_and_expected(log):
    log.write_bytes(log.read_bytes().replace(b"site 3", b"site 9"))
    told = found(log)
    assert f"{log}, line 5: found content with hash" in told and "keep the log" in told


def test_an_edit_with_its_hash_computed_anew_breaks_the_chain(log):
    lines = log.read_bytes().splitlines()
    fields = json.loads(lines[3])
    fields["facts"]["round"] = 77
    lines[3] = naive_line(fields)
    log.write_bytes(b"\n".join(lines) + b"\n")
    assert "line 5: found before" in found(log)


@pytest.mark.parametrize("changes", [
    {"number": 8.0}, {"number": True}, {"time": "yesterday"}, {"time": "2026-01-01T00:00:00"},
    {"event": 1}, {"facts": []}, {"event": "torn"}, {"before": 1}, {"more": 1},
])  # fmt: skip
def test_values_that_cannot_be_are_found_with_the_right_hash(log, changes):
    *lines, last = log.read_bytes().splitlines()
    for change in ({}, changes):  # without a change `naive_line` is right about everything
        log.write_bytes(b"\n".join([*lines, naive_line(json.loads(last) | change)]) + b"\n")
        write_head(log)
        if not change:
            assert verify(log).entries == 8
    assert ", line 9: found" in found(log)


def test_a_chain_computed_anew_is_found_by_a_remembered_hash_alone(log):
    remembered = [entry.hash for entry in read(log)]
    for known in remembered:
        assert verify(log, known) == verify(log)
    lines = log.read_bytes().replace(b"site 4", b"site 9").splitlines()
    log.write_bytes(chained_anew(lines, {}))
    write_head(log)
    assert verify(log).entries == 8
    for known in remembered[:4]:
        assert verify(log, known).entries == 8
    for known in remembered[4:]:
        with pytest.raises(AuditError, match=f"found no entry with hash {known}, expected"):
            verify(log, known)


@pytest.mark.parametrize("known", ["", "abc", "g" * 64, "A" * 64])
def test_a_hash_that_cannot_be_one_is_an_error(log, known):
    with pytest.raises(AuditError, match="expected 64 hexadecimal digits"):
        verify(log, known)


def test_a_log_or_a_head_that_is_gone_is_found(log):
    head = head_of(log).read_bytes()
    head_of(log).unlink()
    assert "line 10: found 8 entries" in found(log)
    head_of(log).write_bytes(head)
    log.unlink()
    assert "found no file beside audit.jsonl.head" in found(log)


@pytest.mark.parametrize("kept", [1, 30, 200, -1])
def test_a_torn_line_is_told_and_the_chain_goes_on(log, kept, said):
    """A crash in the middle of the ninth entry, then another one in that of `torn`."""
    whole = log.read_bytes()
    head = head_of(log).read_bytes()
    record(log, "sent", site="lost")
    torn = log.read_bytes()[len(whole) :][:kept]
    log.write_bytes(whole + torn)
    head_of(log).write_bytes(head)
    assert (verify(log).entries, verify(log).torn) == (8, 1)
    record(log, "sent", site="next")
    again = log.read_bytes()[len(whole) + len(torn) :].splitlines(keepends=True)[0][:kept]
    log.write_bytes(whole + torn + again)
    head_of(log).write_bytes(head)
    known = record(log, "sent", site="next")
    *_, told, last = read(log)
    unfinished = torn + again
    assert told.event == "torn" and told.number == 9 and last.hash == known
    assert told.facts == {
        "bytes": len(unfinished), "sha256": hashlib.sha256(unfinished).hexdigest()
    }  # fmt: skip
    assert (verify(log).entries, verify(log).torn) == (10, 1)
    assert said == []
    # the torn bytes are guarded like all others
    place = len(whole) + len(unfinished) // 2
    content = bytearray(log.read_bytes())
    content[place] ^= 1
    log.write_bytes(content)
    assert "line 10: found" in found(log)
    del content[place]
    log.write_bytes(content)
    assert "line 10: found" in found(log)


def test_a_crash_before_the_head_is_fine_again_and_again(tmp_path, monkeypatch):
    """The entry counts although `record` did not return; also when it happens in a row."""
    path, real = tmp_path / "audit.jsonl", os.replace

    def entries() -> int:
        return max(len(path.read_bytes().splitlines()) - 1, 0) if path.exists() else 0

    def crash(source: Path, target: Path) -> None:
        if Path(target) == head_of(path) and entries() > expected:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", crash)
    for expected in range(4):
        with pytest.raises(KeyboardInterrupt):
            record(path, "sent")
        assert verify(path).entries == expected + 1
    monkeypatch.undo()
    record(path, "sent")
    assert verify(path).entries == 5


DAMAGE = {
    "an empty file": lambda path: path.write_bytes(b""),
    "a cut line": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a missing line": lambda path: path.write_bytes(
        b"".join(path.read_bytes().splitlines(keepends=True)[:-1])
    ),
    "a flipped byte": lambda path: path.write_bytes(
        path.read_bytes().replace(b"site 7", b"site 6")
    ),
    "another end": lambda path: path.write_bytes(path.read_bytes() + b"\n\x00\n\x00"),
    "no log": lambda path: path.unlink(),
    "no head": lambda path: head_of(path).unlink(),
    "another head": lambda path: head_of(path).write_bytes(b"{}\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_stops_nothing_and_is_never_healed(log, damage, said):
    """Further events are recorded in a chain of their own, and the damage is said once."""
    DAMAGE[damage](log)
    content = log.read_bytes() if log.exists() else b""
    for number in range(3):
        record(log, "sent", after=number)
        found(log)
    assert log.read_bytes().startswith(content)
    assert [entry.facts for entry in read(log)[-3:]] == [{"after": n} for n in range(3)]
    assert len(said) == 1 and said[0].levelname == "ERROR" and str(log) in said[0].getMessage()
    continuation = [line for line in log.read_bytes().split(b"\n")[-5:] if b'"after":"' in line]
    assert len(continuation) == 1
    log.write_bytes(log.read_bytes()[log.read_bytes().index(continuation[0]) :])
    assert "line 1: found a continuation after damage (found" in found(log)


def test_damage_above_the_last_line_does_not_stop_the_chain(log):
    log.write_bytes(log.read_bytes().replace(b"site 3", b"site 9"))
    record(log, "sent")
    assert "line 5: found content" in found(log)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_is_an_error_and_the_log_stays_whole(log, monkeypatch, call):
    real = os.write

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    def half(descriptor: int, content: bytes) -> int:
        if len(content) < 50:
            full()
        return real(descriptor, content[: len(content) // 2])

    before = verify(log)
    monkeypatch.setattr(os, call, half if call == "write" else full)
    for _ in range(3):
        with pytest.raises(AuditError, match="No space left on device"):
            record(log, "sent", site="late")
        entries = verify(log).entries  # whole lines were written though nobody was told so
        assert entries - before.entries == (0 if call == "write" else 1)
    monkeypatch.undo()
    record(log, "sent", site="next")
    whole = verify(log, before.hash)
    assert (whole.torn, read(log)[-1].facts) == (int(call == "write"), {"site": "next"})
    assert whole.entries == before.entries + 2


def test_a_first_event_on_a_full_disk_can_be_repeated(tmp_path, monkeypatch):
    path, real, calls = tmp_path / "audit.jsonl", os.fsync, 0
    for fails in range(1, 12):
        calls = 0

        def full(descriptor: int, fails: int = fails) -> None:
            nonlocal calls
            calls += 1
            if calls >= fails:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        try:
            record(path, "sent")
        except AuditError:
            monkeypatch.undo()
            record(path, "sent")
            assert verify(path).entries in (1, 2)
            for place in path.parent.iterdir():
                place.unlink()
        else:
            monkeypatch.undo()
            break
    assert fails > 5 and verify(path).entries == 1


def append_fifty(path: Path, name: str) -> None:
    for number in range(50):
        record(path, "sent", who=name, number=number)


def test_two_processes_append_at_once(quick):
    path = quick / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_fifty, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert verify(path).torn == 0  # whoever reads meanwhile sees it whole
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert verify(path).entries == 100
    for name in "ab":
        mine = [entry.facts["number"] for entry in read(path) if entry.facts["who"] == name]
        assert mine == list(range(50))


WRITER = """
import sys
from pathlib import Path
from medsa_model.audit_log import record
while True:
    print(record(Path(sys.argv[1]), "sent", text="x" * 500, more=["y" * 500] * 40), flush=True)
"""


def test_20_kills_at_random_moments_lose_nothing_that_was_told(quick):
    """A process that records on and on; each hash that it has printed stays in a whole log."""
    path, draw, told = quick / "audit.jsonl", random.Random(3), []
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            told += [writer.stdout.readline().strip() for _ in range(draw.randrange(1, 6))]
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            told += [line for line in rest.split() if len(line) == 64]
        whole = verify(path)
        hashes = {entry.hash for entry in read(path)}
        assert hashes >= set(told)
    torn = sum(entry.event == "torn" for entry in read(path))
    assert len(told) > 20 and len(told) <= whole.entries - torn <= len(told) + 20


EVERY_POINT = """
import os, signal, sys
from pathlib import Path
from medsa_model.audit_log import read, record, verify
NAMES = ("open", "fsync", "replace", "fdopen", "unlink", "close", "stat", "write")
folder, torn, states, calls = Path(sys.argv[1]), sys.argv[2] == "torn", [], 0
real = {name: getattr(os, name) for name in NAMES}
def counted(name):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls == deadly:
            if name == "write":
                real["write"](arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments, **more)
    return call
ended = False
while not ended:
    deadly = len(states) + 1
    path = folder / f"{deadly}.jsonl"
    begun = sys.argv[2] != "new"
    for _ in range(2 if begun else 0):
        record(path, "sent")
    if torn:
        path.write_bytes(path.read_bytes() + b'{"before":"ab')
    child = os.fork()
    if child == 0:
        for name in NAMES:
            setattr(os, name, counted(name))
        record(path, "sent")
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    record(path, "checkpoint")
    whole, events = verify(path), [entry.event for entry in read(path)]
    assert events[: 2 * begun] == ["sent"] * 2 * begun and events[-1] == "checkpoint"
    assert events.count("torn") == whole.torn and len(events) == whole.entries
    states.append((events.count("sent") - 2 * begun, whole.torn))
print(states)
"""


@pytest.mark.parametrize("when", ["new", "begun", "torn"])
def test_killed_at_every_call_to_the_system(quick, when):
    """Also in the middle of a write; the entry is there or torn, and another one always fits."""
    command = [sys.executable, "-c", EVERY_POINT, str(quick), when]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states = [tuple(state) for state in json.loads(done.stdout.replace("(", "[").replace(")", "]"))]
    recorded = [sent for sent, _ in states]
    assert len(states) > 12 and recorded == sorted(recorded) and set(recorded) == {0, 1}
    torn = {torn for _, torn in states}
    assert torn == {"new": {0, 1}, "begun": {0, 1}, "torn": {1, 2}}[when]


def test_it_imports_nothing_heavy():
    script = (
        "import sys, medsa_model.audit_log\n"
        "print(*{'torch', 'opacus', 'pydantic', 'numpy', 'flwr'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
