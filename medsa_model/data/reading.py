"""Reading every case once, before anything is computed: what is wrong with any is told together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medsa_model.data.duplicates import Duplicates, Fingerprint, fingerprint, shown
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


@dataclass(frozen=True)
class Look:
    """What is seen of a case: whether it has no structure, has nothing else, is implausible, and
    its fingerprint, which is `None` for an image of one colour.
    """

    case: str
    empty: bool
    full: bool
    odd: bool
    fingerprint: Fingerprint | None


def look(sample: Sample) -> Look:
    """Look at a case once it is read; warns of what is implausible in it."""
    empty = is_empty(sample)
    if sample.blank:
        logger.warning(
            "case %s: every pixel of the image has the same colour, so that nothing can be seen: "
            "its export may have failed", sample.case,
        )  # fmt: skip
    odd = bool(sample.remarks) or sample.blank
    full = bool(sample.mask.all())
    return Look(sample.case, empty, full, odd, fingerprint(sample.image))


def judge(found: Duplicates, site: str, faults: list[str]) -> None:
    """Exact copies in two parts join `faults`; warns of those within a part, and of likeness."""
    if found.across:
        faults.append(
            f"site {site}: {len(found.across)} pair(s) of cases in two of the parts train, val and "
            f"test have the same image: {shown(found.across)}; expected each image in one part, "
            "or what was trained on is tested. Put both under one patient in sites.csv, or remove "
            "one of them; parts that were dealt already are kept in split.json of the state "
            "folder: move it away to deal anew"
        )
    if found.within:
        logger.warning(
            "site %s: %d case(s) have the image of another case of their part, and count twice: %s",
            site, len(found.within), shown(found.within),
        )  # fmt: skip
    if found.alike:
        logger.warning(
            "site %s: %d pair(s) of cases in two parts have nearly the same image, such as a copy "
            "at another size: %s; if they are, put both under one patient in sites.csv",
            site, len(found.alike), shown(found.alike),
        )  # fmt: skip


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


def is_empty(sample: Sample) -> bool:
    """Whether it has no structure; warns of what is implausible in it."""
    if sample.remarks:
        logger.warning("case %s: %s", sample.case, "; ".join(sample.remarks))
    return not bool(sample.mask.any())
