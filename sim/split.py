"""Splits: which case belongs to which site, and to its training, validation or test part.

A partition deals the patients of one opened data set to sites; afterwards every site's patients
are dealt to its parts. A patient is never divided: all cases of one patient are in one part of
one site. Everything drawn is a function of (cases, seed), whatever the order of the list, and
what one site draws does not depend on the other sites.

A split is kept as `split.json`::

    {"kind": str, "seed": int, "sha256": str,
     "sites": {site: {"train": [case], "val": [case], "test": [case]}}}

where `sha256` is over the JSON of the rest with sorted keys and no spaces.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from medsa_model.data.pairing import first
from medsa_model.data.sample import Case
from medsa_model.errors import CheckpointError, DataError
from medsa_model.section import Section
from sim.partition import LEAST_TEST, LEAST_TRAIN, PartitionSection, Patient, generator, group

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Site -> part ("train", "val", "test") -> case ids; sites and ids in alphabetical order."""

    kind: str
    seed: int
    sites: dict[str, dict[str, tuple[str, ...]]]

    def sha256(self) -> str:
        """Fingerprint of everything in this split, 64 hexadecimal digits."""
        content = {"kind": self.kind, "seed": self.seed, "sites": self.sites}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class SplitOptions(Section):
    """How the cases of every site are dealt to training, validation and test."""

    test: float = Field(0.25, gt=0, lt=1)
    """Share of a site's patients for testing. Ignored when there is an official test part."""
    val: float = Field(0.1, ge=0, lt=1)
    """Share of a site's patients for validation. Ignored when there is an official part."""
    labelled: int | None = Field(None, ge=LEAST_TRAIN)
    """Most training cases a site may use, drawn at random; the others are left out. Empty: all."""

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.test + self.val >= 1:
            raise ValueError(f"test {self.test} and val {self.val} leave nothing for training")
        return self


def split(
    cases: Sequence[Case], partition: PartitionSection, options: SplitOptions, seed: int
) -> Split:
    """Deal `cases` to sites by `partition`, and at every site to parts by `options`.

    Official parts are kept: an official "test" (or "val") part is the only source of test (or
    validation) cases. When a patient has cases in two official parts, those in the lesser one
    (train below val below test) are left out, with a warning: nobody is tested on patients of the
    training part. Raises `DataError` for a case id that is there twice, and for sites that end
    with fewer than 2 training cases or no test case, naming all of them.
    """
    if not cases:
        raise DataError("the data set holds no case; expected at least 3 patients for each site.")
    if twice := [name for name, count in Counter(case.case for case in cases).items() if count > 1]:
        raise DataError(
            f"{len(twice)} case id(s) are there twice: {first(twice)}; expected one each."
        )
    patients = group(cases)
    official = {patient.pool for patient in patients}
    placed = partition.assign(patients, seed)
    sites = {
        site: _parts(
            members,
            0.0 if "test" in official else options.test,
            0.0 if "val" in official else options.val,
            options.labelled,
            generator(seed, "parts", site),
        )
        for site, members in sorted(placed.items())
    }
    _check(sites, "test" in official)
    return Split(partition.kind, seed, sites)


def _parts(
    patients: Sequence[Patient], test: float, val: float, labelled: int | None,
    random: np.random.Generator,
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Case ids of each part at one site.

    A part that is asked for gets at least one patient, but validation none if fewer than two
    would be left for training.
    """
    free = [patient for patient in patients if patient.pool == "any"]
    random.shuffle(free)
    tested = max(1, round(test * len(free))) if test else 0
    validated = max(1, round(val * len(free))) if val else 0
    validated = min(validated, max(0, len(free) - tested - 2))
    pools = {
        "test": [*free[:tested], *(p for p in patients if p.pool == "test")],
        "val": [*free[tested : tested + validated], *(p for p in patients if p.pool == "val")],
        "train": free[tested + validated :],
    }
    parts = {name: sorted(c.case for p in pools[name] for c in p.cases) for name in PARTS}
    if labelled is not None:  # the first of a shuffled list: a lower cap takes a subset
        random.shuffle(parts["train"])
        parts["train"] = sorted(parts["train"][:labelled])
    return {name: tuple(names) for name, names in parts.items()}


def _check(sites: Mapping[str, Mapping[str, Sequence[str]]], official: bool) -> None:
    """Raise `DataError` naming every site that cannot be trained or tested."""
    short = [
        f"{site}: {len(parts['train'])} training, {len(parts['test'])} test"
        for site, parts in sites.items()
        if len(parts["train"]) < LEAST_TRAIN or len(parts["test"]) < LEAST_TEST
    ]
    if short:
        source = "the official test part" if official else "sim.split.test"
        raise DataError(
            f"{len(short)} site(s) have less than {LEAST_TRAIN} training and {LEAST_TEST} test "
            f"cases: {'; '.join(short)}. Test cases come from "
            f"{source}; choose fewer sites or another sim.partition, or add patients."
        )


def write_split(split: Split, path: Path) -> None:
    """Write `split` with its sha256 as JSON."""
    content = {
        "kind": split.kind, "seed": split.seed, "sha256": split.sha256(), "sites": split.sites,
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class _Parts(Section):
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


class _File(Section):
    kind: str
    seed: int
    sha256: str
    sites: dict[str, _Parts]


def read_split(path: Path) -> Split:
    """Read what `write_split` wrote.

    Raises `CheckpointError` for a file that is missing, is no split, or was altered.
    """
    try:
        file = _File.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such split.") from None
    except (OSError, UnicodeError, ValidationError) as error:
        raise CheckpointError(f"{path} is no split ({type(error).__name__}).") from error
    found = Split(file.kind, file.seed, {n: dict(p) for n, p in sorted(file.sites.items())})
    if found.sha256() != file.sha256:
        raise CheckpointError(
            f"{path} was altered: its content has sha256 {found.sha256()}, expected {file.sha256}. "
            "Restore it; to split anew start another run."
        )
    return found
