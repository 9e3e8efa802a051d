"""Splits: which cases of a site are for training, which for validation and which for testing.

In: cases, options and a seed. Out: the case ids of every part, and the file that keeps them. A
patient is never divided. What a site draws is a function of (its cases, its name, seed), whatever
the order of the list and whoever else takes part: a site that divides its own cases and a
simulation that divides those of all sites end with the same parts.

A split is kept as `split.json`::

    {"kind": str, "seed": int, "sha256": str,
     "sites": {site: {"train": [case], "val": [case], "test": [case]}}}

where `sha256` is over the JSON of the rest with sorted keys and no spaces.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from medsa_model.data.patients import Patient, generator, group
from medsa_model.data.sample import Case
from medsa_model.errors import CheckpointError, DataError
from medsa_model.section import Section

PARTS = ("train", "val", "test")
LEAST_TRAIN, LEAST_TEST = 2, 1  # cases that every site must end with


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
    """How the cases of a site are dealt to training, validation and test."""

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

    def share(self, part: Literal["test", "val"], official: Collection[str]) -> float:
        """Share of the patients to draw for `part`: 0 when it is one of the `official` parts."""
        return 0.0 if part in official else float(getattr(self, part))


def split_site(
    cases: Sequence[Case], site: str, options: SplitOptions, seed: int
) -> dict[str, tuple[str, ...]]:
    """Case ids of each part of `site`, whose cases are `cases`; where they say they are from does
    not matter.

    Official parts are kept: an official "test" (or "val") part is the only source of test (or
    validation) cases. Raises `DataError` when there is no case, for a case id that is there twice,
    and when fewer than 2 training cases or no test case would be left.
    """
    if not cases:
        raise DataError(f"site {site}: the data set holds no case; expected at least 3 patients.")
    patients = group(cases)
    official = {patient.pool for patient in patients}
    parts = deal_parts(
        patients, options.share("test", official), options.share("val", official),
        options.labelled, generator(seed, "parts", site),
    )  # fmt: skip
    if not is_usable(parts):
        drawn = f"the share {options.test} of its patients that is drawn for testing"
        source = "the official test part of its data set" if "test" in official else drawn
        raise DataError(
            f"site {site}: {len(cases)} cases of {len(patients)} patients give "
            f"{len(parts['train'])} training and {len(parts['test'])} test cases; expected at "
            f"least {LEAST_TRAIN} and {LEAST_TEST}. Test cases come from {source}; add patients "
            "to the site's data."
        )
    return parts


def deal_parts(
    patients: Sequence[Patient], test: float, val: float, labelled: int | None,
    random: np.random.Generator,
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Case ids of each part at one site; `test` and `val` are shares of its patients.

    A part that is asked for gets at least one patient, but validation none if fewer than two
    would be left for training. `labelled` is the most training cases, `None` for all.
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


def is_usable(parts: Mapping[str, Sequence[str]]) -> bool:
    """Whether a site with these parts can be trained and tested."""
    return len(parts["train"]) >= LEAST_TRAIN and len(parts["test"]) >= LEAST_TEST


def write_split(split: Split, path: Path) -> None:
    """Write `split` with its sha256 as JSON, whole or not at all."""
    content = {
        "kind": split.kind, "seed": split.seed, "sha256": split.sha256(), "sites": split.sites,
    }  # fmt: skip
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


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
