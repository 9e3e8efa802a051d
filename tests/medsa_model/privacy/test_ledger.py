"""The privacy ledger: never under-counts, is never begun anew, and refuses all damage."""

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medsa_model.errors import LedgerError
from medsa_model.privacy.accounting import NoisySteps
from medsa_model.privacy.ledger import (
    Charge,
    Receipt,
    charge,
    holds,
    read_ledger,
    receipt,
    spent,
)

ROOT = Path(__file__).resolve().parents[3]
STEP = Charge("small", "a" * 64, 0, 1.5, 0.1, 1, 0.1, 1e-3, "patient")


def run_script(script: str, *arguments: object) -> str:
    """Output of a Python process of its own, in which `charge` and `STEP` are known."""
    known = (
        "import os, random, signal, sys, time\nfrom pathlib import Path\n"
        "from medsa_model.privacy.ledger import Charge, charge, read_ledger\n"
        f"STEP = Charge{tuple(asdict(STEP).values())!r}\n"
    )
    command = [sys.executable, "-c", known + script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Four charges of two runs."""
    path = tmp_path / "ledger.jsonl"
    for number in range(4):
        run = "small" if number < 3 else "other"
        charge(path, replace(STEP, run=run, round=number, steps=number + 1))
    return path


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves all that it has written."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def head_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def files(path: Path) -> dict[str, bytes]:
    """Everything beside a ledger; whose own refusals must not change it."""
    return {place.name: place.read_bytes() for place in path.parent.iterdir()}


def refused(path: Path) -> str:
    """Neither reading nor charging takes the files as they are, and nothing changes."""
    before = files(path)
    with pytest.raises(LedgerError) as caught:
        read_ledger(path)
    with pytest.raises(LedgerError):
        charge(path, STEP)
    after = files(path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() <= {f"{path.name}.lock"}
    return str(caught.value)


def naive_hash(fields: dict[str, object]) -> str:
    text = json.dumps(dict(sorted(fields.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def rewrite(path: Path, **changes: object) -> None:
    """A forger's hand: change the last entry and compute its hash, and the head, anew."""
    *lines, last = path.read_text().splitlines()
    fields = json.loads(last) | changes
    fields.pop("hash")
    fields["hash"] = naive_hash(fields)
    text = json.dumps(dict(sorted(fields.items())), separators=(",", ":"))
    path.write_text("\n".join([*lines, text]) + "\n")
    head = {"entries": len(lines), "hash": fields["hash"], "ledger": json.loads(lines[0])["ledger"]}
    head_of(path).write_text(json.dumps(head, separators=(",", ":")) + "\n")


def test_what_was_charged_is_read_again(ledger):
    entries = read_ledger(ledger)
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.charge.steps for entry in entries] == [1, 2, 3, 4]
    assert entries[3].charge == replace(STEP, run="other", round=3, steps=4)
    assert spent(entries[:2]) == [NoisySteps(1.5, 0.1, 1), NoisySteps(1.5, 0.1, 2)]


def test_charge_returns_the_entry_that_is_on_the_disk(ledger):
    entry = charge(ledger, STEP)
    assert entry == read_ledger(ledger)[-1] and entry.charge == STEP
    assert entry.time.endswith("+00:00")


def test_the_chain_is_that_of_naive_hashes(ledger):
    """Each line's hash is of its own other fields, each `before` the hash above."""
    before = None
    for number, line in enumerate(ledger.read_text().splitlines()):
        fields = json.loads(line)
        assert fields.pop("hash") == naive_hash(fields)
        if number:
            assert fields["before"] == before and fields["number"] == number
        before = naive_hash(fields)
    assert json.loads(head_of(ledger).read_text())["hash"] == before


def test_without_a_ledger_there_is_no_entry_and_no_file(tmp_path):
    assert read_ledger(tmp_path / "ledger.jsonl") == []
    assert read_ledger(tmp_path / "nowhere" / "ledger.jsonl") == []
    assert files(tmp_path / "ledger.jsonl") == {}


def test_a_folder_that_is_missing_is_not_made(tmp_path):
    """It may be a disk that is not mounted: a new ledger in its place would forget everything."""
    with pytest.raises(LedgerError, match="has to be there, mounted"):
        charge(tmp_path / "share" / "ledger.jsonl", STEP)
    assert not (tmp_path / "share").exists()


def test_only_the_account_of_the_site_reads_it(ledger):
    os.chmod(ledger, 0o644)
    charge(ledger, STEP)
    assert {stat.S_IMODE(place.stat().st_mode) for place in ledger.parent.iterdir()} == {0o600}


def test_a_symbolic_link_is_the_ledger_it_points_to(ledger, tmp_path):
    (tmp_path / "kit").mkdir()
    link = tmp_path / "kit" / "ledger.jsonl"
    link.symlink_to(ledger)
    charge(link, STEP)
    assert link.is_symlink() and len(read_ledger(ledger)) == 5 and len(read_ledger(link)) == 5
    assert [*link.parent.iterdir()] == [link]


def test_a_hard_link_is_refused(ledger, tmp_path):
    """It would stay behind with the next charge, and go on by itself."""
    os.link(ledger, tmp_path / "second.jsonl")
    assert "hard link" in refused(ledger)


@pytest.mark.fault
def test_100_flipped_bytes_are_refused(ledger):
    """Of the ledger and of its head, at places and by bits drawn at random."""
    draw = random.Random(1)
    for place in [*[ledger] * 100, *[head_of(ledger)] * 30]:
        whole = place.read_bytes()
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        place.write_bytes(flipped)
        assert "restore the ledger" in refused(ledger)
        place.write_bytes(whole)
    assert len(read_ledger(ledger)) == 4


@pytest.mark.fault
def test_cuts_are_refused(ledger):
    """At 20 lengths and at the end of every line, down to an empty file."""
    whole = ledger.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10][:-1]
    lengths = [0, *ends, len(whole) - 1, *random.Random(2).sample(range(1, len(whole) - 1), 20)]
    assert len(ends) == 4
    for length in lengths:
        ledger.write_bytes(whole[:length])
        refused(ledger)
    head = head_of(ledger).read_bytes()
    ledger.write_bytes(whole)
    for length in range(0, len(head), 9):
        head_of(ledger).write_bytes(head[:length])
        refused(ledger)


@pytest.mark.fault
@pytest.mark.parametrize("missing", [1, 2, 4])
def test_lines_missing_at_the_end_are_refused(ledger, missing):
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-missing]))
    said = refused(ledger)
    assert str(ledger) in said and "found" in said and "expected" in said and "never delete" in said


def test_lines_that_were_swapped_doubled_or_taken_out_are_refused(ledger):
    first, one, two, three, four = ledger.read_bytes().splitlines(keepends=True)
    for lines in ([first, two, one, three, four], [first, one, one, three, four],
                  [first, one, three, four], [one, two, three, four],
                  [first, one, two, three, four, four], [first, first, one, two, three, four],
                  [first, one, b"\n", two, three, four]):  # fmt: skip
        ledger.write_bytes(b"".join(lines))
        refused(ledger)


def test_an_edited_number_of_steps_is_refused_and_its_line_named(ledger):
    ledger.write_bytes(ledger.read_bytes().replace(b'"steps":3', b'"steps":1'))
    assert "ledger.jsonl, line 4: found content with hash" in refused(ledger)


@pytest.mark.parametrize(("was", "now"), [
    (b'"delta":0.001', b'"delta":1e-3'), (b'"steps":3', b'"steps": 3'),
    (b'"steps":3', b'"steps":9,"steps":3'), (b'"small"', b'"sm\\u0061ll"'), (b"}\n", b"}\r\n"),
])  # fmt: skip
def test_the_same_content_in_other_bytes_is_refused(ledger, was, now):
    """Else two programs could read two different things in one line."""
    changed = ledger.read_bytes().replace(was, now)
    assert changed != ledger.read_bytes()
    ledger.write_bytes(changed)
    assert "expected canonical JSON" in refused(ledger)


def test_an_edit_with_its_hash_computed_anew_breaks_the_chain(ledger):
    lines = ledger.read_text().splitlines()
    fields = json.loads(lines[2]) | {"steps": 1}
    fields.pop("hash")
    fields["hash"] = naive_hash(fields)
    lines[2] = json.dumps(dict(sorted(fields.items())), separators=(",", ":"))
    ledger.write_text("\n".join(lines) + "\n")
    assert "line 4: found before" in refused(ledger)


@pytest.mark.parametrize("changes", [
    {"steps": 0}, {"steps": -5}, {"steps": 1.0}, {"steps": True}, {"steps": "1"}, {"round": -1},
    {"noise_multiplier": -1.0}, {"noise_multiplier": None}, {"sampling_rate": 0.0},
    {"sampling_rate": 1.5}, {"clip_norm": 0}, {"delta": 0.0}, {"delta": 1}, {"unit": "slice"},
    {"sha256": "a"}, {"run": ""}, {"number": 4.0}, {"number": 9}, {"time": "yesterday"},
    {"time": "2026-01-01T00:00:00"}, {"ledger": "0" * 32}, {"more": 1},
])  # fmt: skip
def test_values_that_cannot_be_are_refused_with_the_right_hash(ledger, changes):
    """`rewrite` is right about everything else: without a change the ledger is read."""
    rewrite(ledger)
    assert len(read_ledger(ledger)) == 4
    rewrite(ledger, **changes)
    said = refused(ledger)
    assert "line 5: found" in said and next(iter(changes)) in said


@pytest.mark.parametrize("line", [b"null", b"{}", b"[" * 10**5, b'{"a":NaN}', b"\xff", b"1" * 5000])
def test_lines_that_are_something_else_are_refused(ledger, line):
    ledger.write_bytes(ledger.read_bytes() + line + b"\n")
    assert "line 6: found" in refused(ledger)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"delta": 1.0}, {"noise_multiplier": float("nan")}]
)
def test_a_charge_that_cannot_be_is_an_error(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} .*, expected a"):
        replace(STEP, **changes)


@pytest.mark.fault
def test_a_head_without_a_ledger_is_refused(ledger):
    """Somebody took the ledger away: the next charge must not begin another."""
    ledger.unlink()
    assert "no file beside ledger.jsonl.head" in refused(ledger)


@pytest.mark.fault
def test_a_ledger_without_its_head_is_refused(ledger):
    head_of(ledger).unlink()
    refused(ledger)


def test_the_head_of_another_ledger_is_refused(ledger, tmp_path):
    other = tmp_path / "other.jsonl"
    for _ in range(4):
        charge(other, STEP)
    head_of(ledger).write_bytes(head_of(other).read_bytes())
    refused(ledger)


@pytest.mark.fault
def test_a_crash_before_the_head_is_fine_again_and_again(tmp_path, monkeypatch):
    """The entry counts although `charge` did not return; also when it happens twice in a row."""
    path, real = tmp_path / "ledger.jsonl", os.replace

    def crash(source, target):
        if Path(target) == head_of(path) and len(lines()) > expected:
            raise KeyboardInterrupt
        real(source, target)

    def lines():
        return path.read_bytes().splitlines()[1:] if path.exists() else []

    monkeypatch.setattr(os, "replace", crash)
    for expected in range(4):
        with pytest.raises(KeyboardInterrupt):
            charge(path, STEP)
        assert len(read_ledger(path)) == expected + 1
    monkeypatch.undo()
    charge(path, STEP)
    assert len(read_ledger(path)) == 5


@pytest.mark.fault
def test_a_full_disk_charges_nothing(ledger, monkeypatch):
    before = files(ledger)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match="cannot be written, so nothing is trained"):
        charge(ledger, STEP)
    assert files(ledger) == before


def test_what_does_not_allow_a_charge_leaves_every_byte(ledger):
    before = files(ledger)
    seen = []

    def allow(entries):
        seen.extend(entries)
        raise ValueError("too much")

    with pytest.raises(ValueError, match="too much"):
        charge(ledger, STEP, allow)
    assert files(ledger) == before and seen == read_ledger(ledger)


def test_a_ledger_that_went_backwards_does_not_hold_the_receipt(ledger):
    old = {place: place.read_bytes() for place in (ledger, head_of(ledger))}
    remembered = receipt(read_ledger(ledger))
    charge(ledger, STEP)
    newer = receipt(read_ledger(ledger))
    assert holds(read_ledger(ledger), remembered) and holds(read_ledger(ledger), newer)
    for place, content in old.items():
        place.write_bytes(content)
    assert holds(read_ledger(ledger), remembered) and not holds(read_ledger(ledger), newer)
    charge(ledger, replace(STEP, round=7))  # as many entries again, but another last one
    assert not holds(read_ledger(ledger), newer)


def test_receipts_of_nothing_and_of_other_places(ledger):
    entries = read_ledger(ledger)
    assert receipt([]).entries == 0 and holds([], receipt([])) and holds(entries, receipt([]))
    last = receipt(entries)
    assert not holds([], last)
    for entries_ in (-1, 3, 5):
        assert not holds(entries, Receipt(entries_, last.hash, last.ledger))
    assert not holds(entries, replace(last, ledger="0" * 32))


RESTARTS = """
ledger, trained = Path(sys.argv[1]), Path(sys.argv[2])
draw, seen, started = random.Random(7), 1, time.monotonic()
charge(ledger, STEP)
one = time.monotonic() - started
trained.touch()
for _ in range(200):
    reads, tells = os.pipe()
    child = os.fork()
    if child == 0:
        notes = os.open(trained, os.O_WRONLY | os.O_APPEND)
        while True:
            charge(ledger, STEP)
            os.write(notes, b"x")
            os.write(tells, b"x")
    os.close(tells)
    os.read(reads, 1) if draw.random() < 0.5 else None
    time.sleep(draw.uniform(0, 1.5 * one))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    charged = sum(entry.charge.steps for entry in read_ledger(ledger))
    done = trained.stat().st_size
    assert seen <= charged and done < charged, (seen, done, charged)
    seen = charged
print(seen, done)
"""


@pytest.mark.fault
def test_200_restarts_at_random_points_never_count_too_little(quick):
    """Processes that charge and then train a step, on and on, until they are killed.

    The first charge is trained by nobody, and every kill may cost one more.
    """
    said = run_script(RESTARTS, quick / "ledger.jsonl", quick / "trained")
    charged, trained = map(int, said.split())
    assert charged == len(read_ledger(quick / "ledger.jsonl"))
    assert 50 < trained < charged <= trained + 201


EVERY_POINT = """
folder, calls = Path(sys.argv[1]), 0
NAMES = ("open", "fsync", "replace", "fdopen", "unlink", "close", "stat")
real = {name: getattr(os, name) for name in NAMES}
def counted(name):
    def call(*arguments, **more):
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments, **more)
    return call
kept, ended = [], False
while not ended:
    deadly = len(kept) + 1
    path = folder / f"{deadly}.jsonl"
    for _ in range(2):
        charge(path, STEP)
    child = os.fork()
    if child == 0:
        for name in NAMES:
            setattr(os, name, counted(name))
        charge(path, STEP)
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    kept.append(len(read_ledger(path)))
    charge(path, STEP)
    assert len(read_ledger(path)) == kept[-1] + 1
print(*kept)
"""


def test_killed_at_every_call_to_the_system(quick):
    """The third entry is there or not, never torn; after it, another charge always fits."""
    kept = [int(number) for number in run_script(EVERY_POINT, quick).split()]
    assert len(kept) > 12 and set(kept) == {2, 3}
    assert kept == sorted(kept) and kept.count(3) > 2, "on the disk before charge returns"


def test_processes_that_charge_at_once_lose_nothing(quick):
    script = (
        "from dataclasses import replace\nchildren, path = [], Path(sys.argv[1])\n"
        "for round_ in range(4):\n"
        "    children.append(os.fork())\n"
        "    if not children[-1]:\n"
        "        for _ in range(10):\n"
        "            charge(path, replace(STEP, round=round_))\n"
        "            read_ledger(path)\n"
        "        os._exit(0)\n"
        "assert all(os.waitpid(child, 0)[1] == 0 for child in children)\n"
    )
    run_script(script, quick / "ledger.jsonl")
    rounds = [entry.charge.round for entry in read_ledger(quick / "ledger.jsonl")]
    assert [rounds.count(round_) for round_ in range(4)] == [10] * 4


def test_it_imports_nothing_heavy():
    said = run_script("print(*{'torch', 'opacus', 'pydantic', 'numpy'} & sys.modules.keys())")
    assert said.strip() == ""
