"""What the coordinator remembers of the sites' ledgers, and that none of them goes backwards."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.privacy.ledger import Charge, Entry, Receipt, charge, read_ledger, receipt
from server.receipts import accept_receipt, read_receipts, remember, write_receipts

OLD = Receipt(5, "a" * 64, "c" * 32)
STEP = Charge("small", "a" * 64, 0, 1.5, 0.1, 1, 0.1, 1e-3, "patient")


def test_receipts_are_read_as_they_were_written(tmp_path):
    place = tmp_path / "receipts.json"
    assert read_receipts(place) == {}
    receipts = {"south": replace(OLD, entries=9), "north": OLD}
    write_receipts(place, receipts)
    assert read_receipts(place) == receipts
    assert json.loads(place.read_text())["north"] == asdict(OLD)
    assert [*tmp_path.iterdir()] == [place]


@pytest.mark.fault
@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"a": 1}', '{"a": {"entries": 5}}', b"\xff",
     json.dumps({"a": {**asdict(OLD), "more": 1}}),
     json.dumps({"a": {**asdict(OLD), "hash": "x"}})],
)  # fmt: skip
def test_a_damaged_file_is_not_begun_anew(tmp_path, content):
    place = tmp_path / "receipts.json"
    whole = content if isinstance(content, bytes) else content.encode()
    place.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"receipts\.json holds no receipts"):
        read_receipts(place)
    assert place.read_bytes() == whole


def test_the_first_receipt_an_equal_one_and_a_longer_one_are_remembered():
    """Equal: the answer to a repeated question; longer: the usual."""
    for old, new in ((None, OLD), (OLD, OLD), (OLD, replace(OLD, entries=6, hash="b" * 64))):
        assert accept_receipt(old, new) == new


@pytest.mark.parametrize("changes", [
    {"entries": 4}, {"entries": 4, "hash": "b" * 64}, {"hash": "b" * 64}, {"ledger": "d" * 32},
    {"ledger": "d" * 32, "entries": 99},
])  # fmt: skip
def test_a_ledger_that_went_backwards_is_not_accepted(changes):
    with pytest.raises(ManifestError, match=r"went backwards: found .*, expected"):
        accept_receipt(OLD, replace(OLD, **changes))


@pytest.mark.parametrize("changes", [
    {"entries": 0}, {"entries": -1}, {"entries": True}, {"entries": 5.0}, {"entries": 2**60},
    {"entries": "5"}, {"hash": "A" * 64}, {"hash": ""}, {"hash": None}, {"ledger": "c" * 33},
    {"ledger": 5}, {"ledger": "c" * 31 + "\n"},
])  # fmt: skip
def test_what_is_no_receipt_is_not_accepted(changes):
    changed: dict[str, Any] = changes
    for old in (None, OLD):
        with pytest.raises(ManifestError, match="is none"):
            accept_receipt(old, replace(OLD, **changed))


@pytest.mark.fault
def test_a_ledger_from_an_old_backup_is_noticed(tmp_path):
    """Real ledgers: the backup alone has fewer entries, with another charge it has another last."""
    ledger, head = tmp_path / "ledger.jsonl", tmp_path / "ledger.jsonl.head"
    charge(ledger, STEP)
    backup = ledger.read_bytes(), head.read_bytes()
    known = accept_receipt(None, receipt(read_ledger(ledger)))
    charge(ledger, STEP)
    known = accept_receipt(known, receipt(read_ledger(ledger)))
    ledger.write_bytes(backup[0])
    head.write_bytes(backup[1])
    with pytest.raises(ManifestError, match="found 1 entries, expected at least 2"):
        accept_receipt(known, receipt(read_ledger(ledger)))
    charge(ledger, replace(STEP, round=1))
    with pytest.raises(ManifestError, match="found entry 2 with hash"):
        accept_receipt(known, receipt(read_ledger(ledger)))


def told(entries: list[Entry], last: int = 512) -> dict[str, object]:
    hashes = [entry.hash for entry in entries[-last:]]
    return {"ledger": entries[-1].ledger, "entries": len(entries), "hashes": hashes}


def test_what_a_site_tells_is_remembered_and_compared(tmp_path):
    """Two more charges on an old backup have more entries than the receipt, but not its hash."""
    place, ledger = tmp_path / "receipts.json", tmp_path / "ledger.jsonl"
    head = tmp_path / "ledger.jsonl.head"
    charge(ledger, STEP)
    remember(place, "a", told(read_ledger(ledger)))
    backup = ledger.read_bytes(), head.read_bytes()
    for round_ in (1, 2, 3):
        charge(ledger, replace(STEP, round=round_))
    remember(place, "a", told(read_ledger(ledger)))
    remember(place, "b", told(read_ledger(ledger), 1))
    before = place.read_bytes()
    ledger.write_bytes(backup[0])
    head.write_bytes(backup[1])
    for round_ in range(4):
        with pytest.raises(ManifestError, match="went backwards"):
            remember(place, "a", told(read_ledger(ledger)))
        charge(ledger, replace(STEP, round=round_))
    with pytest.raises(ManifestError, match="entry 4 has another hash"):
        remember(place, "a", told(read_ledger(ledger)))
    assert place.read_bytes() == before


@pytest.mark.parametrize("nothing", [{}, {"hashes": []}, {"hashes": "ab"}, {"hashes": [1]}])
def test_a_site_that_tells_nothing_is_not_accepted(tmp_path, nothing):
    with pytest.raises(ManifestError):
        remember(tmp_path / "receipts.json", "a", nothing)
    assert not (tmp_path / "receipts.json").exists()
