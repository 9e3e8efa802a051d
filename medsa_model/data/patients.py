"""Patients: cases that stay together, and the random numbers with which they are dealt.

In: the cases of an opened data set. Out: its patients, each with the official part that its cases
belong to. A patient is never divided, whatever is dealt: sites, or the parts of a site.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medsa_model.data.pairing import first
from medsa_model.data.sample import Case
from medsa_model.errors import DataError
from medsa_model.logs import logger


@dataclass(frozen=True)
class Patient:
    """Cases that stay together. `pool` is their official part, "any" when there is none."""

    name: str
    cases: tuple[Case, ...]
    pool: str


def group(cases: Iterable[Case]) -> list[Patient]:
    """The patients of `cases`, sorted by name, each with its cases sorted by id.

    When a patient has cases in two official parts, those in the lesser one (train below val below
    test) are left out, with a warning. Raises `DataError` for a case id that is there twice.
    """
    ordered = sorted(cases, key=lambda case: case.case)
    counts = Counter(case.case for case in ordered)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(
            f"{len(twice)} case id(s) are there twice: {first(twice)}; expected one each."
        )
    together: dict[str, list[Case]] = {}
    for case in ordered:
        together.setdefault(case.patient, []).append(case)
    patients, left_out = [], []
    for name, members in sorted(together.items()):
        # An official "train" part says nothing about where validation and test come from.
        pools = {
            case.case: case.part if case.part in ("val", "test") else "any" for case in members
        }
        pool = max(pools.values(), key=("any", "val", "test").index)
        kept = tuple(case for case in members if pools[case.case] == pool)
        left_out += [case.case for case in members if pools[case.case] != pool]
        patients.append(Patient(name, kept, pool))
    if left_out:
        logger.warning(
            "%d case(s) are left out: another case of the same patient is in the official "
            "validation or test part: %s", len(left_out), first(left_out),
        )  # fmt: skip
    return patients


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """Random numbers for one purpose, unrelated to those for any other."""
    digest = hashlib.sha256("\0".join(purpose).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])
