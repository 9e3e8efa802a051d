"""What every site did in every round of a run, from the lines of its metrics.jsonl.

The last word counts: a site that did not answer at first and delivered in the repeated round has
delivered, and a round that was done again after an interruption is there once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medsa_model.refusals import Reason
from medsa_model.rejections import Code
from medsa_model.report_values import Json, number


class Turn(StrEnum):
    """What came of asking a site in a round; the value is how the report names it."""

    DELIVERED = "delivered"
    UNUSED = "delivered, not used"
    """The round was skipped, or its mean was not finite."""
    LATE = "no answer in time"
    ABSENT = "not connected"
    REFUSED = "refused"
    """By the site's own limits and settings."""
    FAILED = "could not train"
    """The site says that an error ended its training, or its work was lost."""
    REJECTED = "rejected"
    """The coordinator did not accept what came."""
    EXCLUDED = "in quarantine"
    """Not asked: after rejected answers, or because its privacy ledger went backwards."""


@dataclass(frozen=True)
class Timeline:
    """`turns` and `trained` (seconds of training) by site and round; `seconds` of whole rounds.

    A round that is under way has no `seconds`, and no turn of a site that has not answered.
    """

    sites: Sequence[str]
    rounds: Sequence[int]
    turns: dict[str, dict[int, Turn]]
    trained: dict[str, dict[int, float]]
    seconds: dict[int, float]

    def rounds_with(self, site: str, *turns: Turn) -> list[int]:
        """The rounds in which a site had one of these turns."""
        return [n for n, turn in sorted(self.turns.get(site, {}).items()) if turn in turns]

    @property
    def whole(self) -> bool:
        """Whether every site delivered in every round."""
        return all(
            self.turns.get(site, {}).get(n) is Turn.DELIVERED
            for site in self.sites for n in self.rounds
        )  # fmt: skip


def timeline_of(events: Iterable[Json], sites: Iterable[str] = ()) -> Timeline:
    """The time line of a run from its events; `sites` are there even if no event names them."""
    turns: dict[str, dict[int, Turn]] = {site: {} for site in sites}
    trained: dict[str, dict[int, float]] = {}
    seconds: dict[int, float] = {}
    excluded: set[str] = set()
    unused: set[int] = set()
    for event in events:
        found = number(event.get("round"))
        if found is None:
            continue
        turn, site, kind = int(found), str(event.get("site", "")), event.get("event")
        of_site = turns.setdefault(site, {}) if site else {}
        if kind == "train":
            of_site[turn] = Turn.DELIVERED
            if (took := number(event.get("seconds"))) is not None:
                trained.setdefault(site, {})[turn] = took
        elif kind == "missing":
            of_site[turn] = Turn.LATE
        elif kind == "rejected" and event.get("what", "update") == "update":
            of_site[turn] = _turn_of(event)
            if event.get("code") == Code.LEDGER:
                excluded.add(site)
        elif kind == "quarantined":
            excluded.add(site)
        elif kind == "readmitted":
            excluded.discard(site)
        elif kind in ("skipped", "discarded"):
            unused.add(turn)
        elif kind == "round":
            seconds[turn] = number(event.get("seconds")) or 0.0
            if _names(event.get("sites")):  # skipped at first, before an interruption
                unused.discard(turn)
            for name in _names(event.get("sites")):
                turns.setdefault(name, {})[turn] = Turn.DELIVERED
            for name in _names(event.get("missing")):
                before = turns.setdefault(name, {}).get(turn)
                if before is Turn.DELIVERED and turn in unused:
                    turns[name][turn] = Turn.UNUSED
                elif before in (None, Turn.DELIVERED):
                    turns[name][turn] = Turn.EXCLUDED if name in excluded else Turn.ABSENT
    rounds = sorted({*seconds, *(n for each in turns.values() for n in each)})
    return Timeline(sorted(turns), rounds, turns, trained, seconds)


def _turn_of(rejected: Json) -> Turn:
    """Refusals of the site and errors at the site are rejected answers with the code ERROR."""
    if rejected.get("code") != Code.ERROR:
        return Turn.REJECTED
    refusal = rejected.get("refusal")
    return Turn.REFUSED if refusal and refusal != Reason.FAILED.name else Turn.FAILED


def _names(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
