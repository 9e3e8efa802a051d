"""Reading every case once, before anything is computed: what is wrong with any is told together."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from medsa_model.data.sample import Case, Sample
from medsa_model.errors import DataError
from medsa_model.logs import logger

SHOWN = 20  # faults in a message
T = TypeVar("T")


def read_each(cases: Iterable[Case], look: Callable[[Sample], T], faults: list[str]) -> list[T]:
    """What `look` finds in every case that can be read; the faults of others join `faults`."""
    found = []
    for case in cases:
        try:
            found.append(look(case.load()))
        except DataError as error:
            faults.append(str(error))
    return found


def count_empty(cases: Iterable[Case], faults: list[str]) -> int:
    """How many of `cases` have no structure; warns of what is implausible in a case.

    The faults of cases that cannot be read join `faults`.
    """
    return read_each(cases, _is_empty, faults).count(True)


def refuse(faults: Sequence[str]) -> None:
    """Raise one `DataError` with all of `faults`, if there are any."""
    if not faults:
        return
    if len(faults) == 1:
        raise DataError(faults[0])
    lines = [*faults[:SHOWN]]
    if more := len(faults) - SHOWN:
        lines += [f"and {more} more"] if more > 0 else []
    raise DataError("\n  ".join([f"{len(faults)} problems in the data:", *lines]))


def _is_empty(sample: Sample) -> bool:
    if sample.remarks:
        logger.warning("case %s: %s", sample.case, "; ".join(sample.remarks))
    return not bool(sample.mask.any())
