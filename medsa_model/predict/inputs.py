"""The cases of `--input`: pictures, NIfTI files, DICOM series, and what is left out.

The name of a case is the file's without its ending, of a DICOM series the folder's. A folder with
DICOM files and neither pictures nor NIfTI files is one series; otherwise its own files are cases,
and those of its folders that hold DICOM files. Folders are not searched deeper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medsa_model.data.folder import EXTENSIONS
from medsa_model.data.pairing import by_case, list_files
from medsa_model.errors import ConfigError, DataError

NIFTI = (".nii.gz", ".nii")
DICOM = (".dcm", ".dicom", ".ima")
MAGIC, MAGIC_AT = b"DICM", 128  # PS3.10, 7.1
SHOWN = 10  # names in a line

Kind = Literal["picture", "nifti", "series"]
IN_WORDS = {False: "images (PNG, JPEG, BMP, TIFF)", True: "volumes (NIfTI, DICOM series)"}


@dataclass(frozen=True)
class Input:
    """One case: a picture, a NIfTI file, or the folder of a DICOM series."""

    case: str
    path: Path
    kind: Kind

    @property
    def is_volume(self) -> bool:
        """Whether it has slices."""
        return self.kind != "picture"


@dataclass(frozen=True)
class Found:
    """What `--input` holds: the cases by name in order, and the names of what is left out."""

    inputs: tuple[Input, ...]
    left_out: tuple[str, ...]


def find_inputs(path: Path, volumes: bool) -> Found:
    """The cases that an adapter of `volumes`, else of images, can segment.

    Raises `DataError` when there are none, also when all are of the other kind, and for two files
    of one case.
    """
    found, left_out = _in(path)
    fitting = [each for each in found if each.is_volume is volumes]
    others = [each.path.name for each in found if each.is_volume is not volumes]
    if not fitting and others:
        raise DataError(
            f"--input {path}: {len(others)} case(s) of {IN_WORDS[not volumes]}, but the adapter "
            f"was trained on {IN_WORDS[volumes]}; give such files, or an adapter of the other kind"
        )
    if not fitting:
        raise DataError(
            f"--input {path}: nothing that can be segmented is there; expected PNG, JPEG, BMP, "
            "TIFF, .nii, .nii.gz, a folder of such files, or a folder of the DICOM slices of one "
            "series" + (f". Left out: {listed(left_out)}" if left_out else "")
        )
    cases = by_case(((each.case, each.path) for each in fitting), path.name)
    kinds = {each.path: each.kind for each in fitting}
    inputs = (Input(case, file, kinds[file]) for case, file in sorted(cases.items()))
    return Found(tuple(inputs), tuple(sorted([*left_out, *others])))


def case_of(path: Path) -> str:
    """The name of a file without its ending; `.nii.gz` is one ending."""
    ending = next((each for each in NIFTI if path.name.lower().endswith(each)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def find_masks(path: Path, what: str) -> dict[str, Path]:
    """Case -> mask file, of `--labels` or `--rough` (`what`): a folder, or one file.

    Raises `DataError` when there is none, and for two files of one case.
    """
    if path.is_file():
        return {case_of(path): path}
    if not path.is_dir():
        raise DataError(f"{what} {path}: no such file or folder; give masks with the cases' names")
    files = [file for file in list_files(path) if _kind(file) in ("picture", "nifti")]
    if not files:
        raise DataError(
            f"{what} {path}: no mask is there; expected files with the names of the cases, such as "
            "CASE.png or CASE.nii.gz"
        )
    return by_case(((case_of(file), file) for file in files), path.name)


def masks_of_cases(path: Path, what: str, cases: Sequence[str]) -> dict[str, Path]:
    """Case -> mask file, as `find_masks`; one file for a single case may have any name.

    Raises `ConfigError` too, when no mask has the name of one of the `cases`.
    """
    masks = find_masks(path, what)
    if path.is_file() and len(cases) == 1:
        return {cases[0]: path}
    if found := {case: masks[case] for case in cases if case in masks}:
        return found
    raise ConfigError(
        f"{what} {path}: no mask has the name of a case. Masks: {listed(sorted(masks))}. Cases: "
        f"{listed(sorted(cases))}. Expected masks that are named as their cases"
    )


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _in(path: Path) -> tuple[list[Input], list[str]]:
    """All cases at `path` of any kind, and what is none."""
    if path.is_file():
        kind = _kind(path)
        if kind == "dicom":
            raise DataError(
                f"--input {path}: one DICOM file; expected the folder with all slices of its "
                "series. Give that folder"
            )
        return ([Input(case_of(path), path, kind)], []) if kind else ([], [path.name])
    if not path.is_dir():
        raise DataError(f"--input {path}: no such file or folder; check the path")
    kinds = {file: _kind(file) for file in list_files(path)}
    files = [Input(case_of(file), file, kind) for file, kind in kinds.items()
             if kind in ("picture", "nifti")]  # fmt: skip
    if not files and "dicom" in kinds.values():
        place = path.resolve()
        return [Input(place.name, place, "series")], []
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and each.name[0] != "."]
    series = [each for each in folders if any(_kind(f) == "dicom" for f in list_files(each))]
    left_out = [file.name for file, kind in kinds.items() if kind not in ("picture", "nifti")]
    left_out += [f"{each.name}/" for each in folders if each not in series]
    return [*files, *(Input(each.name, each, "series") for each in series)], left_out


def _kind(path: Path) -> Literal["picture", "nifti", "dicom"] | None:
    """What a file is, by its ending; DICOM files, which often have none, by their first bytes."""
    name = path.name.lower()
    if name.endswith(NIFTI):
        return "nifti"
    if path.suffix.lower() in EXTENSIONS:
        return "picture"
    if name.endswith(DICOM):
        return "dicom"
    try:
        with path.open("rb") as file:
            head = file.read(MAGIC_AT + len(MAGIC))
    except OSError:
        return None
    return "dicom" if head[MAGIC_AT:] == MAGIC else None
