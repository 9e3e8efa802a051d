"""Round directories: whole or not there, self-explaining, refused when damaged or foreign."""

import errno
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from medsa_model.checkpoint import (
    DamagedRound,
    Round,
    latest_round,
    link_round,
    load_latest,
    load_round,
    read_facts,
    save_round,
    write_json,
)
from medsa_model.errors import CheckpointError
from medsa_model.state import Manifest

MANIFEST = Manifest({"b": (2,), "a": (3,)}, "0" * 64, 48)
STATE = {"b": torch.tensor([1.0, 2.0]), "a": torch.arange(3.0)}


def saved(run, number, **facts):
    return save_round(run, Round(number, STATE, {"first/a": torch.ones(3)}, facts), MANIFEST, {})


def test_a_round_comes_back_as_it_was(tmp_path):
    saved(tmp_path, 7, sites=["x"])
    back = load_round(tmp_path, 7, MANIFEST)
    assert back.number == 7 and back.facts == {"sites": ["x"]} and list(back.state) == ["b", "a"]
    assert all(torch.equal(back.state[n], STATE[n]) for n in STATE)
    assert torch.equal(back.memory["first/a"], torch.ones(3))


def test_a_draft_that_was_never_finished_does_not_count(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "rounds" / ".0002.draft").mkdir()
    assert latest_round(tmp_path) == 1


def test_no_run_has_no_round(tmp_path):
    assert latest_round(tmp_path) is None


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_truncated_file_is_named_with_what_to_do(tmp_path, name):
    path = saved(tmp_path, 3) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"rounds/0003 cannot be read.*remove that folder"):
        load_round(tmp_path, 3, MANIFEST)


def test_a_round_of_another_model_is_refused(tmp_path):
    saved(tmp_path, 3)
    other = Manifest(MANIFEST.shapes, "1" * 64, 48)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_round(tmp_path, 3, other)


def test_a_round_explains_itself(tmp_path):
    place = saved(tmp_path, 2, validation_dice=0.5)
    config = json.loads((place / "adapter_config.json").read_text())
    assert config["manifest"]["base_sha256"] == "0" * 64
    facts = json.loads((place / "round.json").read_text())
    files = facts.pop("sha256")
    assert facts == {"round": 2, "validation_dice": 0.5}
    for name in ("adapter_model.safetensors", "memory.safetensors"):
        assert files.pop(name) == hashlib.sha256((place / name).read_bytes()).hexdigest()
    assert not files


def test_tensors_that_were_altered_are_refused(tmp_path):
    """A flipped bit is a finite number like any other; only the hash tells."""
    path = saved(tmp_path, 3) / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other content than was written: adapter_model"):
        load_round(tmp_path, 3, MANIFEST)


def test_links_are_replaced(tmp_path):
    for number in (1, 2):
        saved(tmp_path, number)
        link_round(tmp_path, "final", number)
    assert (tmp_path / "final" / "round.json").exists()
    assert (tmp_path / "final").resolve().name == "0002"


EVERY_FILE = ["adapter_model.safetensors", "memory.safetensors", "adapter_config.json",
              "round.json", "SHA256SUMS"]  # fmt: skip


def damaged(content: bytes) -> Iterator[bytes]:
    """100 times with one bit of a random byte flipped, and cut at 20 lengths."""
    draw = random.Random(0)
    for _ in range(100):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)
    for part in range(20):
        yield content[: len(content) * part // 20]


@pytest.mark.fault
@pytest.mark.parametrize("name", EVERY_FILE)
def test_any_damage_to_any_file_is_noticed_and_the_round_before_is_taken(
    tmp_path, name, caplog, monkeypatch
):
    """What is damaged is put aside, whole as it was found, and named."""
    monkeypatch.setattr("medsa_model.checkpoint.logger.propagate", True)  # set_up() turns it off
    saved(tmp_path, 6, validation_dice=0.5)
    file = saved(tmp_path, 7, sites=["x"], validation_dice=0.25) / name
    content, aside = file.read_bytes(), tmp_path / "rounds" / ".damaged-0007"
    for number, other in enumerate(damaged(content)):
        file.write_bytes(other)
        caplog.clear()
        back = load_latest(tmp_path, MANIFEST)
        assert back and back.number == 6 and back.facts == {"validation_dice": 0.5}, number
        assert "rounds/0007 is damaged" in caplog.text and ".damaged-0007" in caplog.text
        assert (aside / name).read_bytes() == other
        aside.rename(file.parent)
        if name == "round.json":
            assert not read_facts(tmp_path, 7)
    file.write_bytes(content)
    assert (back := load_latest(tmp_path, MANIFEST)) and back.number == 7


@pytest.mark.fault
@pytest.mark.parametrize("name", EVERY_FILE[:4])
def test_a_missing_file_is_damage_too(tmp_path, name):
    saved(tmp_path, 6)
    (saved(tmp_path, 7) / name).unlink()
    with pytest.raises(DamagedRound, match=f"{name} is missing"):
        load_round(tmp_path, 7, MANIFEST)
    assert (back := load_latest(tmp_path, MANIFEST)) and back.number == 6


@pytest.mark.fault
def test_nothing_that_was_put_aside_is_lost(tmp_path):
    """Of a disk that damages round after round, even the same one again."""
    for number in (0, 1, 2):
        (saved(tmp_path, number) / "round.json").write_text(f"{number}, damaged")
    assert load_latest(tmp_path, MANIFEST) is None
    (saved(tmp_path, 2) / "round.json").write_text("2, damaged again")
    assert load_latest(tmp_path, MANIFEST) is None
    kept = {path.parent.name: path.read_text() for path in tmp_path.rglob("round.json")}
    assert kept == {
        ".damaged-0000": "0, damaged", ".damaged-0001": "1, damaged",
        ".damaged-0002": "2, damaged", ".damaged-0002-2": "2, damaged again",
    }  # fmt: skip


def test_only_damage_is_put_aside(tmp_path, monkeypatch):
    """Neither a round of another model, nor one that this account may not read."""
    saved(tmp_path, 6)
    place = saved(tmp_path, 7)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_latest(tmp_path, Manifest(MANIFEST.shapes, "1" * 64, 48))

    def refuse(path: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("medsa_model.checkpoint.file_sha256", refuse)
    with pytest.raises(CheckpointError, match=r"rounds/0007 cannot be read.*Permission denied"):
        load_latest(tmp_path, MANIFEST)
    assert place.exists() and latest_round(tmp_path) == 7


def test_without_a_round_there_is_none_to_load(tmp_path):
    assert load_latest(tmp_path, MANIFEST) is None


def test_the_sums_are_those_of_the_program_of_that_name(tmp_path):
    place = saved(tmp_path, 1)
    lines = (place / "SHA256SUMS").read_text().splitlines()
    naive = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in place.iterdir()}
    naive.pop("SHA256SUMS")
    assert sorted(lines) == sorted(f"{sha256}  {name}" for name, sha256 in naive.items())


def test_equal_rounds_are_equal_files(tmp_path):
    """So that runs can be compared by `SHA256SUMS`."""
    one = saved(tmp_path / "0", 1, sites=["x"])
    for number in range(1, 12):
        two = saved(tmp_path / str(number), 1, sites=["x"])
        for path in one.iterdir():
            assert path.read_bytes() == (two / path.name).read_bytes()


def test_a_round_of_before_there_were_sums_is_read(tmp_path):
    """And one of its JSON files that is damaged is refused, or read as what it says."""
    place = saved(tmp_path, 3, sites=["x"])
    (place / "SHA256SUMS").unlink()
    back = load_round(tmp_path, 3, MANIFEST)
    assert back.facts == {"sites": ["x"]} and torch.equal(back.state["a"], STATE["a"])
    for name in ("round.json", "adapter_config.json"):
        content = (place / name).read_bytes()
        for other in [*damaged(content), b"[]", b"null", b"{}", b'{"sha256": 1}']:
            (place / name).write_bytes(other)
            with suppress(CheckpointError):  # nothing else is raised
                load_round(tmp_path, 3, MANIFEST)
        (place / name).write_bytes(content)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/runs/secret/place")


FULL = {
    "the tensors": "medsa_model.checkpoint.save_file",
    "the facts": "medsa_model.checkpoint.write_json",
    "forced to the disk": "medsa_model.checkpoint.os.fsync",
}


@pytest.mark.fault
@pytest.mark.parametrize("what", FULL.values(), ids=FULL)
def test_a_full_disk_leaves_the_rounds_before_and_no_draft(tmp_path, monkeypatch, what):
    saved(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(what, full)
        with pytest.raises(CheckpointError) as caught:
            saved(tmp_path, 2)
    said = str(caught.value)
    assert said.startswith(f"rounds/0002 cannot be written in {tmp_path} (No space left on device)")
    assert "MB are free" in said and "--resume" in said and "rounds before are whole" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["0001"]
    saved(tmp_path, 2)
    assert (back := load_latest(tmp_path, MANIFEST)) and back.number == 2


@pytest.mark.fault
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_json_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, error):
    write_json(tmp_path / "facts.json", {"a": 1})
    write = Path.write_text

    def written_in_part(path: Path, text: str, **words: str) -> None:
        write(path, text[:4], **words)
        raise error

    monkeypatch.setattr(Path, "write_text", written_in_part)
    with pytest.raises(type(error)):
        write_json(tmp_path / "facts.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert json.loads((tmp_path / "facts.json").read_text()) == {"a": 1}


@pytest.mark.fault
def test_a_real_limit_on_the_size_of_a_file_is_said_too(tmp_path):
    """As of a quota: in a process of its own, since such a limit is not lifted again."""
    code = f"""
import resource, torch
from pathlib import Path
from medsa_model.checkpoint import Round, save_round
from medsa_model.errors import CheckpointError
from medsa_model.state import Manifest
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))
state = {{"a": torch.zeros(10**6)}}
try:
    save_round(Path({str(tmp_path)!r}), Round(2, state, {{}}, {{}}), Manifest({{}}, "", 0), {{}})
except CheckpointError as error:
    print(error)
"""
    saved(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rounds/0002 cannot be written" in done.stdout and "File too large" in done.stdout
    assert "it needs about 4.0 MB" in done.stdout
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["0001"]
