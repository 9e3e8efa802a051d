"""`sites.csv` beside a data set: where each case comes from.

Columns `image_id,site`, and optionally `patient` (or `lesion_id`): cases of one patient stay on
one side of every split. Rows for images that are not there are ignored with a warning, so that
one file serves a whole collection and its parts. Semicolons or tabs, which spreadsheets write in
much of Europe, may separate the columns as well.
"""

import csv
import multiprocessing
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from medsa_model.data.pairing import first
from medsa_model.errors import DataError
from medsa_model.logs import logger

NAME = "sites.csv"
PLACE = f"{NAME} in data.root"
WITHOUT = f"the sites of cases stand in {PLACE}, columns image_id,site and optionally patient"
NIFTI = ".nii.gz"
SEPARATORS = ",;\t"  # the first of these in the header separates the columns


@dataclass(frozen=True)
class Origin:
    """Site (`None`: not known) and patient of a case."""

    site: str | None
    patient: str


def read_origins(root: Path, cases: Collection[str]) -> dict[str, Origin]:
    """Case id -> origin for all `cases`; without `sites.csv` in `root` each is its own patient.

    Raises `DataError` for a file that cannot be read as above, and for cases without a row.
    """
    path = root / NAME
    if not path.exists():
        return {case: Origin(None, case) for case in cases}
    origins = _read(path)
    unused = origins.keys() - set(cases)
    if missing := set(cases) - origins.keys():
        others = f"the file has {_shown(unused)}; " if unused else ""
        raise DataError(
            f"{PLACE}: {len(missing)} of {len(cases)} images have no row: {first(missing)}; "
            f"expected a row for each image{_hint(missing, unused)}; {others}correct "
            "it, or remove the file to do without sites."
        )
    # the processes of a comparison open the same data again
    if unused and multiprocessing.parent_process() is None:
        _warn(
            f"{PLACE}: {len(unused)} of {len(origins)} rows are for images that are "
            f"not there: {_shown(unused)}; they are ignored"
        )
    return {case: origins[case] for case in cases}


@cache
def _warn(text: str) -> None:
    """Log a warning, once a process: a data set is opened more often."""
    logger.warning("%s", text)


def _hint(missing: Collection[str], unused: Collection[str]) -> str:
    """How ids that are nearly those of images should be written."""
    for row in sorted(unused):
        ended = row.removesuffix(NIFTI) if row.endswith(NIFTI) else row.rpartition(".")[0]
        if ended in missing:
            return f"; write ids without extension ({ended}, not {row})"
    for row in sorted(unused):
        if whole := next((case for case in sorted(missing) if case.endswith(row)), None):
            return f"; write the whole file name without extension ({whole}, not {row})"
    return ""


def _shown(rows: Collection[str]) -> str:
    """Some ids of the file, which may hold anything."""
    return first([f"{row:.40}" if row.isprintable() else f"{row[:40]!a}" for row in rows])


def _read(path: Path) -> dict[str, Origin]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            used = next((mark for mark in SEPARATORS if mark in header), ",")
            reader = csv.DictReader(file, delimiter=used)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        problem = type(error).__name__
    else:
        return _origins(columns, rows)
    raise DataError(f"{PLACE}: it cannot be read ({problem}); expected a CSV text file in UTF-8.")


def _origins(columns: list[str], rows: list[dict[str, str]]) -> dict[str, Origin]:
    if absent := [name for name in ("image_id", "site") if name not in columns]:
        raise DataError(
            f"{PLACE}: no column {' and '.join(absent)}; found {', '.join(columns) or 'nothing'}; "
            "expected the header image_id,site and optionally patient or lesion_id."
        )
    origins: dict[str, Origin] = {}
    twice: set[str] = set()
    for number, row in enumerate(rows, start=2):
        case, site = ((row[name] or "").strip() for name in ("image_id", "site"))
        if not case or not site:
            raise DataError(f"{PLACE}: row {number} has an empty image_id or site; fill it in.")
        patient = row.get("patient") or row.get("lesion_id") or ""
        if case in origins:
            twice.add(case)
        origins[case] = Origin(site, patient.strip() or case)
    if twice:
        raise DataError(
            f"{PLACE}: {len(twice)} image_id(s) appear more than once: {first(twice)}; expected "
            "one row for each image."
        )
    return origins
