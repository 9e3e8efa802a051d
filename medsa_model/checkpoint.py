"""Round directories: `rounds/0007/` holds everything that the next round needs.

    adapter_model.safetensors   the global adapter state (file names as in PEFT)
    adapter_config.json         what it belongs to: model, adapter, task, manifest
    memory.safetensors          what the strategy keeps, when it keeps anything
    round.json                  round, sites, loss, scores, sha256 of the tensor files
    SHA256SUMS                  sha256 of all of these, for `sha256sum --check` too

A round directory is written beside its place, forced to the disk and renamed, so it is there whole
or not at all, also after a power failure and on a disk that is full. One that is damaged is put
aside as `rounds/.damaged-0007`. `best` and `final` are links.
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medsa_model.backbone import file_sha256
from medsa_model.errors import CheckpointError
from medsa_model.logs import logger
from medsa_model.state import AdapterState, Manifest
from medsa_model.strategies import Memory

STATE, MEMORY = "adapter_model.safetensors", "memory.safetensors"
CONFIG, FACTS = "adapter_config.json", "round.json"
FILES, SUMS = (CONFIG, STATE, MEMORY, FACTS), "SHA256SUMS"
OF_THE_FILES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
"""Errors of reading that speak of the files, not of this process (rights, too many open files)."""


class DamagedRound(CheckpointError):
    """A round directory has other content than was written."""


@dataclass(frozen=True)
class Round:
    """The state after `number` rounds; 0 is before any training."""

    number: int
    state: AdapterState
    memory: Memory
    facts: Mapping[str, object]


def save_round(
    run: Path, round_: Round, manifest: Manifest, sections: Mapping[str, object]
) -> Path:
    """Write a round directory; `sections` are `model`, `adapter` and `task` of the run.

    Raises `CheckpointError` when it cannot be written; nothing of it is left then, and the rounds
    before are untouched.
    """
    place = run / "rounds" / f"{round_.number:04d}"
    draft = place.with_name(f".{place.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        _write_files(draft, round_, manifest, sections)
        for path in [*draft.iterdir(), draft]:
            to_disk(path)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        to_disk(place.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps those of the disk
        shutil.rmtree(draft, ignore_errors=True)  # a disk that is full needs the space
        needed = sum(t.nbytes for t in (*round_.state.values(), *round_.memory.values()))
        raise CheckpointError(
            f"rounds/{place.name} cannot be written in {run} ({_told(error)}): it needs about "
            f"{_megabytes(needed)} MB, {_free(run)} MB are free. The rounds before are whole: make "
            "space or correct what is said there, and go on with --resume"
        ) from error
    return place


def _write_files(
    draft: Path, round_: Round, manifest: Manifest, sections: Mapping[str, object]
) -> None:
    write_adapter(draft, round_.state, manifest, sections)
    if round_.memory:
        save_file(round_.memory, draft / MEMORY, {"format": "pt"})
    hashes = {path.name: file_sha256(path) for path in sorted(draft.glob("*.safetensors"))}
    write_json(draft / FACTS, {"round": round_.number, **round_.facts, "sha256": hashes})
    (draft / SUMS).write_text("".join(_sums(draft).values()))


def write_adapter(
    folder: Path, state: AdapterState, manifest: Manifest, sections: Mapping[str, object]
) -> None:
    """Write the two files of an adapter into `folder`, which must exist."""
    # one entry: safetensors writes several in any order, and equal states shall be equal files
    save_file(state, folder / STATE, {"format": "pt"})
    config = {**sections, "manifest": asdict(manifest), "manifest_sha256": manifest.sha256}
    write_json(folder / CONFIG, config)


def latest_round(run: Path) -> int | None:
    """The highest complete round of a run directory, `None` when there is none."""
    numbers = [int(p.name) for p in (run / "rounds").glob("[0-9]*") if p.name.isdigit()]
    return max(numbers, default=None)


def is_complete(run: Path) -> bool:
    """Whether a run has done everything but say farewell."""
    return (run / "final").exists()


def load_latest(run: Path, manifest: Manifest) -> Round | None:
    """The last round that is whole, `None` when there is none.

    A later one that is damaged is put aside, with a warning: a run goes on from the round before
    and makes it again. Raises `CheckpointError` for a round of another model and for one that
    cannot be read for another reason than its content.
    """
    while (number := latest_round(run)) is not None:
        try:
            return load_round(run, number, manifest)
        except DamagedRound as error:
            aside = _put_aside(run / "rounds" / f"{number:04d}")
            logger.warning(
                "rounds/%04d is damaged and is not used (%s); it is kept as rounds/%s. The run "
                "goes on from the last round before that is whole. Has this disk other errors?",
                number, error.__cause__, aside.name,
            )  # fmt: skip
    return None


def load_round(run: Path, number: int, manifest: Manifest) -> Round:
    """Read a round directory.

    Raises `DamagedRound` when it has other content than was written, and `CheckpointError` when it
    is of another model or may not be read.
    """
    place = run / "rounds" / f"{number:04d}"
    try:
        check_files(place)
        state = load_file(place / STATE)
        memory = load_file(place / MEMORY) if (place / MEMORY).exists() else {}
        config = json.loads((place / CONFIG).read_text())
        facts = json.loads((place / FACTS).read_text())
        hashes = facts.pop("sha256", {})
        if altered := [n for n, sha256 in hashes.items() if file_sha256(place / n) != sha256]:
            raise ValueError(f"other content than was written: {', '.join(altered)}")
        if (said := facts.pop("round")) != number:
            raise ValueError(f"{FACTS} is of round {said}")
        found = config["manifest_sha256"]
        if found == manifest.sha256:
            state = {name: state[name] for name in manifest.shapes}  # the model's order
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        missing = isinstance(error, FileNotFoundError)  # safetensors' own has no number
        other = isinstance(error, OSError) and not missing and error.errno not in OF_THE_FILES
        raise (CheckpointError if other else DamagedRound)(
            f"rounds/{number:04d} cannot be read ({type(error).__name__}: {_told(error)}); remove "
            "that folder to go on from the round before"
        ) from error
    if found != manifest.sha256:
        raise CheckpointError(
            f"rounds/{number:04d} belongs to another model: its manifest is "
            f"{str(found)[:12]}, this run's is {manifest.sha256[:12]}"
        )
    return Round(number, state, memory, facts)


def _sums(place: Path) -> dict[str, str]:
    """File name -> its line as `sha256sum` writes it, of the files that are there."""
    names = [name for name in FILES if (place / name).exists()]
    return {name: _sum(place / name) for name in names}


def _sum(path: Path) -> str:
    return f"{file_sha256(path)}  {path.name}\n"


def check_files(place: Path, names: Sequence[str] = FILES) -> None:
    """Raise `ValueError` when a file is not what SHA256SUMS says; older rounds have none.

    With `names` only these files count, as where two of a round's files were handed on.
    """
    if not (place / SUMS).exists():
        return
    written, sums = (place / SUMS).read_bytes().decode(), _sums(place)
    if names != FILES:
        lines = [line for line in written.splitlines(True) if line.rstrip("\r\n")[66:] in names]
        written, sums = "".join(lines), {name: sums[name] for name in names if name in sums}
    if written == "".join(sums.values()):
        return
    for name in names:
        if f"  {name}\n" in written and name not in sums:
            raise ValueError(f"{name} is missing")
    altered = [name for name, line in sums.items() if line not in written]
    raise ValueError(f"other content than was written: {', '.join(altered) or SUMS}")


def _put_aside(place: Path) -> Path:
    """Rename a damaged round directory, so that it is not taken for one; returns where it is."""
    name = f".damaged-{place.name}"
    places = (place.with_name(f"{name}-{more}" if more > 1 else name) for more in count(1))
    aside = next(each for each in places if not each.exists())
    try:
        place.rename(aside)
        to_disk(place.parent)
    except OSError as error:
        raise CheckpointError(
            f"rounds/{place.name} is damaged and cannot be put aside ({_told(error)}): remove that "
            "folder to go on from the round before"
        ) from error
    return aside


def link_round(run: Path, name: str, number: int) -> None:
    """Let `run/name` point to a round directory; replaced in one step."""
    draft = run / f".{name}.draft"
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path("rounds") / f"{number:04d}")
    os.replace(draft, run / name)
    to_disk(run)


def read_facts(run: Path, number: int) -> dict[str, object]:
    """What round.json of a round says; empty when it cannot be read or was altered."""
    place = run / "rounds" / f"{number:04d}"
    try:
        if (place / SUMS).exists() and _sum(place / FACTS) not in (place / SUMS).read_text():
            return {}
        facts = json.loads((place / FACTS).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _told(error: Exception) -> str:
    """What the system says, without a path."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f}"


def _free(run: Path) -> str:
    """Megabytes that are free where the run directory is."""
    try:
        return _megabytes(shutil.disk_usage(run).free)
    except OSError:
        return "an unknown number of"


def to_disk(path: Path) -> None:
    """Force a file's content or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write a file that other programs read, whole or not at all.

    Raises `OSError` when it cannot be written; what was there before is untouched then.
    """
    draft = path.with_name(f".{path.name}.draft")
    text = json.dumps(content, indent=2) + "\n"
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            draft.unlink()
        raise
