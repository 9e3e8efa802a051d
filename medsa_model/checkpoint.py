"""Round directories: `rounds/0007/` holds everything that the next round needs.

    adapter_model.safetensors   the global adapter state (file names as in PEFT)
    adapter_config.json         what it belongs to: model and adapter sections, manifest
    memory.safetensors          what the strategy keeps, when it keeps anything
    round.json                  round, sites, loss, scores, sha256 of the tensor files

A round directory is written beside its place, forced to the disk and renamed, so it is there whole
or not at all, also after a power failure. `best` and `final` are links.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medsa_model.backbone import file_sha256
from medsa_model.errors import CheckpointError
from medsa_model.state import AdapterState, Manifest
from medsa_model.strategies import Memory


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
    """Write a round directory; `sections` are the model and adapter sections of the run."""
    place = run / "rounds" / f"{round_.number:04d}"
    draft = place.with_name(f".{place.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    metadata = {"format": "pt", "manifest_sha256": manifest.sha256}
    save_file(round_.state, draft / "adapter_model.safetensors", metadata)
    if round_.memory:
        save_file(round_.memory, draft / "memory.safetensors", {"format": "pt"})
    config = {**sections, "manifest": asdict(manifest), "manifest_sha256": manifest.sha256}
    write_json(draft / "adapter_config.json", config)
    hashes = {path.name: file_sha256(path) for path in sorted(draft.glob("*.safetensors"))}
    write_json(draft / "round.json", {"round": round_.number, **round_.facts, "sha256": hashes})
    for path in [*draft.iterdir(), draft]:
        _to_disk(path)
    shutil.rmtree(place, ignore_errors=True)
    draft.rename(place)
    _to_disk(place.parent)
    return place


def latest_round(run: Path) -> int | None:
    """The highest complete round of a run directory, `None` when there is none."""
    numbers = [int(p.name) for p in (run / "rounds").glob("[0-9]*") if p.name.isdigit()]
    return max(numbers, default=None)


def is_complete(run: Path) -> bool:
    """Whether a run has done everything but say farewell."""
    return (run / "final").exists()


def load_round(run: Path, number: int, manifest: Manifest) -> Round:
    """Read a round directory; raises `CheckpointError` when damaged or of another model."""
    place = run / "rounds" / f"{number:04d}"
    try:
        state = load_file(place / "adapter_model.safetensors")
        memory_file = place / "memory.safetensors"
        memory = load_file(memory_file) if memory_file.exists() else {}
        config = json.loads((place / "adapter_config.json").read_text())
        facts = json.loads((place / "round.json").read_text())
        hashes = facts.pop("sha256", {})
        if altered := [n for n, sha256 in hashes.items() if file_sha256(place / n) != sha256]:
            raise ValueError(f"other content than was written: {', '.join(altered)}")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"rounds/{number:04d} cannot be read ({type(error).__name__}: {error}); remove that "
            "folder to go on from the round before"
        ) from error
    if config.get("manifest_sha256") != manifest.sha256:
        raise CheckpointError(
            f"rounds/{number:04d} belongs to another model: its manifest is "
            f"{str(config.get('manifest_sha256'))[:12]}, this run's is {manifest.sha256[:12]}"
        )
    state = {name: state[name] for name in manifest.shapes}  # the model's order
    facts.pop("round")
    return Round(number, state, memory, facts)


def link_round(run: Path, name: str, number: int) -> None:
    """Let `run/name` point to a round directory; replaced in one step."""
    draft = run / f".{name}.draft"
    draft.unlink(missing_ok=True)
    draft.symlink_to(Path("rounds") / f"{number:04d}")
    os.replace(draft, run / name)
    _to_disk(run)


def read_facts(run: Path, number: int) -> dict[str, object]:
    """What round.json of a round says; empty when it cannot be read."""
    try:
        facts = json.loads((run / "rounds" / f"{number:04d}" / "round.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _to_disk(path: Path) -> None:
    """Force a file's content or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write a file that other programs read, whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
