"""Whose privacy is protected: the patients of a site's training cases."""

from collections.abc import Sequence
from dataclasses import dataclass

from medsa_model.data.sample import Case
from medsa_model.privacy.ledger import Unit


@dataclass(frozen=True)
class Patients:
    """`cases[i]` are the numbers of the i-th patient's training cases.

    `unit` says what that is: a "patient" where the data set says which cases are of one; else an
    "image" or a "volume", of which one patient may have several, protected each by itself. It is
    never a slice.
    """

    cases: tuple[tuple[int, ...], ...]
    unit: Unit

    def __len__(self) -> int:
        return len(self.cases)


def patients_of(cases: Sequence[Case]) -> Patients:
    """The patients of `cases`, in the order of their first case.

    A data set that does not know patients calls every case a patient of its own.
    """
    grouped: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        grouped.setdefault(case.patient, []).append(number)
    known = any(case.patient != case.case for case in cases)
    alone: Unit = "volume" if any(case.volume for case in cases) else "image"
    return Patients(tuple(map(tuple, grouped.values())), "patient" if known else alone)
