"""Residues of error feedback on the site's disk: those of the last two rounds that it trained in.

`<round>-<digest>.safetensors`, the digest over run, site and round: a file of another run, site or
round is never taken for this one. A round that is repeated, also after a kill, begins from the
same residue and so gives the same bits; one after rounds that the site missed, from the last one
before them. A run that begins removes what earlier ones left, and nothing is left when it is over.
Files are for their owner alone, written beside their place and renamed.
"""

import hashlib
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from medsa_model.error_feedback import zeros
from medsa_model.errors import CheckpointError, ManifestError
from medsa_model.logs import logger
from medsa_model.state import AdapterState, check_state
from medsa_model.stored_state import keep


def load_residue(
    folder: Path, run_sha256: str, site: str, round_: int, shapes: dict[str, tuple[int, ...]]
) -> AdapterState:
    """The residue with which round `round_` (0 is the first) begins: the one that the last round
    before it left, zeros when there is none, with a line in the log.
    """
    if round_ == 0:
        return zeros(shapes)
    path = _last_before(folder, run_sha256, site, round_)
    try:
        if path is None:
            raise FileNotFoundError("there is none")
        residue = load_file(path)
        check_state(residue, shapes)
    except (OSError, SafetensorError, ManifestError) as error:
        why = "there is none" if path is None else f"{type(error).__name__}: {error}"
        logger.warning(
            "round %d: the residue of the rounds before cannot be used (%s): what was rounded off "
            "so far is lost, and the site goes on without it", round_ + 1, why,
        )  # fmt: skip
        return zeros(shapes)
    return {name: residue[name] for name in shapes}


def keep_residue(
    folder: Path, run_sha256: str, site: str, round_: int, residue: AdapterState
) -> None:
    """Keep what round `round_` left, beside that with which it began, and remove all others.

    Raises `CheckpointError` when it cannot be written.
    """
    needed = [_last_before(folder, run_sha256, site, round_),
              _path(folder, run_sha256, site, round_)]  # fmt: skip
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():  # drafts of a write that was killed too
            if path not in needed:
                path.unlink(missing_ok=True)
        keep(_path(folder, run_sha256, site, round_), residue)
    except (OSError, CheckpointError) as error:
        cause = error.__cause__ or error
        size = sum(tensor.nbytes for tensor in residue.values()) / 1e6
        raise CheckpointError(
            f"the residue of round {round_ + 1} cannot be kept in {folder} ({cause}): it needs "
            f"about {size:,.1f} MB; make space or correct what is said there"
        ) from error


def forget_residues(folder: Path) -> None:
    """Remove all of them: they are computed from patients' images, and of use to this run alone."""
    shutil.rmtree(folder, ignore_errors=True)


def _last_before(folder: Path, run_sha256: str, site: str, round_: int) -> Path | None:
    """The residue of the last round before `round_` that is kept."""
    numbers = {int(path.name[:6]) for path in folder.glob(f"{6 * '[0-9]'}-*.safetensors")}
    for number in sorted(numbers, reverse=True):
        path = _path(folder, run_sha256, site, number)
        if number < round_ and path.exists():
            return path
    return None


def _path(folder: Path, run_sha256: str, site: str, round_: int) -> Path:
    digest = hashlib.sha256(f"{run_sha256}\n{site}\n{round_}".encode()).hexdigest()
    return folder / f"{round_:06d}-{digest[:32]}.safetensors"
