"""The folder of `--out`: never over files that this program did not write.

`prediction.json` is the first file of every call, so a folder without it holds no results.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from medsa_model.errors import ConfigError
from medsa_model.predict.facts import ABOUT
from medsa_model.predict.inputs import listed
from medsa_model.predict.results import FACTS, MASKS, OVERLAYS, PAGE, SUMMARY, VOLUMES

FOLDERS, FILES = {MASKS, OVERLAYS}, {VOLUMES, SUMMARY, FACTS, PAGE}
DRAFTS = {form.format(name) for name in FILES for form in (".draft.{}", ".{}.draft")}
"""What a process that was killed can leave of a file that it was writing."""


def choose_folder(out: Path, overwrite: bool, given: Iterable[Path | None]) -> None:
    """Make `out` an empty folder with `masks` and `overlays`.

    Raises `ConfigError` when it holds anything but what a call without a mask leaves, unless
    `overwrite` is given and all of it is of an earlier call; and when one of the `given` files or
    folders, which are read, lies in it.
    """
    home = out.resolve()
    if inside := [each for each in given if each and each.resolve().is_relative_to(home)]:
        raise ConfigError(f"--out {out} holds {inside[0]}, which is read: give another folder")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder")
    there = sorted(each.name for each in out.iterdir()) if out.is_dir() else []
    if there and not overwrite and not _holds_no_mask(out, there):
        raise ConfigError(
            f"--out {out} is not empty ({listed(there)}); give a new folder, or --overwrite to "
            "replace the results of an earlier call"
        )
    if strangers := [name for name in there if name not in FOLDERS | FILES | DRAFTS]:
        raise ConfigError(
            f"--out {out} holds what medsa-predict does not write ({listed(strangers)}); "
            "--overwrite removes earlier results alone: give another folder"
        )
    if there and _cases(out) is None and not _holds_no_mask(out, there):
        raise ConfigError(
            f"--out {out} has no {FACTS} of medsa-predict, which every call writes, so what it "
            f"holds ({listed(there)}) may be somebody else's; --overwrite removes earlier results "
            "alone: give another folder"
        )
    for name in there:
        place = out / name
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    for name in (MASKS, OVERLAYS):
        (out / name).mkdir(parents=True)


def remove_drafts(out: Path) -> None:
    """Remove what an interruption left of a file that was being written."""
    for name in (MASKS, OVERLAYS):
        for draft in (out / name).glob(".draft.*"):
            draft.unlink(missing_ok=True)


def _holds_no_mask(out: Path, there: Iterable[str]) -> bool:
    """Whether `out` holds only what a call leaves in which every case failed: nobody loses anything
    with it. `volumes.csv` comes last: without it another call may be at its first case."""
    names = set(there)
    folders = [out / name for name in names & FOLDERS]
    if any(not each.is_dir() or each.is_symlink() or any(each.iterdir()) for each in folders):
        return False
    files = names - FOLDERS - DRAFTS
    return not files or (files == {FACTS, VOLUMES} and _cases(out) == {})


def _cases(out: Path) -> object:
    """The cases that `prediction.json` has masks of, `None` when there is no such file of ours."""
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return facts.get("cases") if isinstance(facts, dict) and facts.get("about") == ABOUT else None
