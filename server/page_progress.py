"""How far a run is, from what its worker appends to metrics.jsonl and audit.jsonl.

Each line is read once. Numbers are of metrics.jsonl, who does what is of the audit log.
"""

import json
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from medsa_model.audit_lines import parse_entry
from medsa_model.audit_log import NAME as AUDIT
from medsa_model.audit_log import Entry
from medsa_model.hash_chain import Unexpected
from medsa_model.report_values import Json, number
from server.page_lines import GrowingLines

EVENTS = 50  # newest entries of the audit log that are kept
REJECTED = 20  # newest rejected answers
ROUNDS = 5  # last rounds whose duration tells that of the next
MESSAGES = frozenset({"joined", "train", "traffic"})
"""Entries of the audit log that a message of a site leads to, whenever it comes."""
TAIL = 2**20  # bytes of the audit log that are read of one that is there already
WORK = {
    "train": "training, round {}", "val": "scoring validation cases, round {}",
    "test": "scoring test cases",
}  # fmt: skip
DONE = {
    "train": "update of round {} delivered", "val": "scores of round {} delivered",
    "test": "test scores delivered",
}  # fmt: skip


@dataclass
class SiteProgress:
    """Of one site: bytes of all its messages, numbers by round, and what it does in words."""

    up: float = 0.0
    down: float = 0.0
    loss: dict[int, float] = field(default_factory=dict)
    dice: dict[int, float] = field(default_factory=dict)
    """On validation cases with the main prompt; `cases` counts them."""
    cases: dict[int, float] = field(default_factory=dict)
    test_dice: float | None = None
    test_cases: float = 0.0
    epsilon: float | None = None
    doing: str = ""
    trouble: bool = False
    """Whether `doing` says that an answer was not used or did not come."""
    quarantined: bool = False
    heard: datetime | None = None
    """When its newest message was taken up."""

    @property
    def took_part(self) -> bool:
        """Whether anything of it is known of this run."""
        return bool(self.doing or self.heard or self.loss or self.up or self.down)


@dataclass(frozen=True)
class Asked:
    """The newest question to the sites: what for ("train", "val", "test"), and since when."""

    what: str
    round: int
    since: datetime
    sites: frozenset[str]


class Progress:
    """Of the run in the directory `run`, whose main prompt has the name `prompt`.

    Who does what counts from `since`: what an earlier process asked for is over.
    """

    def __init__(self, run: Path, prompt: str, since: datetime) -> None:
        self.run, self.prompt, self.since = run, prompt, since
        self.metrics = GrowingLines(run / "metrics.jsonl")
        self.audit = GrowingLines(run / AUDIT, TAIL)
        self.sites: dict[str, SiteProgress] = {}
        self.done = 0
        self.seconds: deque[float] = deque(maxlen=ROUNDS)
        self.site_privacy: Json = {}
        self.rejected: deque[Json] = deque(maxlen=REJECTED)
        self.entries: deque[Entry] = deque(maxlen=EVENTS)
        self.started = False
        self.asked: Asked | None = None
        self.answered: set[str] = set()
        self.repeated: int | None = None

    def read(self) -> None:
        """Take up what was appended; lines that cannot be read are left out."""
        for line in self.metrics.read():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._count(event)
        for line in self.audit.read():
            try:
                entry = parse_entry(line)
            except Unexpected:  # the first line of the log is none, either
                continue
            self.entries.append(entry)
            self._follow(entry)

    def site(self, name: object) -> SiteProgress:
        """What is known of a site."""
        return self.sites.setdefault(str(name), SiteProgress())

    def mean_dice(self) -> dict[int, float]:
        """By round the mean validation Dice over the cases of all sites."""
        sums: dict[int, tuple[float, float]] = {}
        for site in self.sites.values():
            for turn, dice in site.dice.items():
                cases = site.cases.get(turn, 1.0)
                total, weight = sums.get(turn, (0.0, 0.0))
                sums[turn] = total + cases * dice, weight + cases
        return {turn: total / weight for turn, (total, weight) in sorted(sums.items()) if weight}

    def test_scores(self) -> dict[str, tuple[float, float]]:
        """Dice and number of test cases of each site that has scored them."""
        return {
            name: (site.test_dice, site.test_cases)
            for name, site in self.sites.items() if site.test_dice is not None
        }  # fmt: skip

    def _count(self, event: Json) -> None:
        """Take up an event of metrics.jsonl."""
        kind, turn = event.get("event"), int(number(event.get("round")) or 0)
        if kind == "round":
            self.done = turn
            if (seconds := number(event.get("seconds"))) is not None:
                self.seconds.append(seconds)
        if kind == "site_privacy":
            self.site_privacy = event
        if kind == "rejected":
            self.rejected.append(event)
        if "site" not in event:
            return
        site = self.site(event["site"])
        site.up += number(event.get("up_bytes")) or 0.0
        site.down += number(event.get("down_bytes")) or 0.0
        loss, dice = number(event.get("loss")), number(event.get("dice"))
        if kind == "train" and loss is not None:
            site.loss[turn] = loss
        if kind == "evaluate" and event.get("prompt") == self.prompt and dice is not None:
            if event.get("part") == "test":
                site.test_dice, site.test_cases = dice, number(event.get("cases")) or 1.0
            else:
                site.dice[turn] = dice
                site.cases[turn] = number(event.get("cases")) or 1.0
        if kind == "privacy":
            site.epsilon = number(event.get("epsilon"))
        if kind in ("quarantined", "readmitted"):
            site.quarantined = kind == "quarantined"

    def _follow(self, entry: Entry) -> None:
        """Take up an entry of the audit log: who does what."""
        when, facts, kind = datetime.fromisoformat(entry.time), entry.facts, entry.event
        if kind in MESSAGES and "site" in facts:
            self.site(facts["site"]).heard = when.astimezone(UTC)
        if when < self.since:
            return
        turn, what = int(number(facts.get("round")) or 0), str(facts.get("what", ""))
        if kind == "started":
            self.started, self.asked, self.repeated = True, None, None
            for site in self.sites.values():
                site.doing, site.trouble = "", False
        if kind == "asked":
            self._ask(turn, what, when, facts.get("sites"))
        if kind == "repeated":
            self.repeated = turn
        if kind == "saved":
            self.asked = None
        if "site" not in facts:
            return
        name, site = str(facts["site"]), self.site(facts["site"])
        reason, refused = str(facts.get("reason", "")), bool(facts.get("refusal"))
        told = {
            "joined": "introduced itself",
            "left-out": f"left out: {reason}",
            "train": DONE["train"].format(turn),
            "traffic": DONE.get(str(facts.get("part")), "scores delivered").format(turn),
            "missing": f"no answer in time, round {turn}",
            "rejected": f"{'refused' if refused else 'not used'}, round {turn}: {reason}",
        }.get(kind)
        if told is not None:
            site.doing, site.trouble = told, kind in ("left-out", "missing", "rejected")
        if kind in ("train", "traffic"):
            self.answered.add(name)

    def _ask(self, turn: int, what: str, when: datetime, sites: object) -> None:
        names = frozenset(str(site) for site in sites) if isinstance(sites, list) else frozenset()
        if self.asked and (self.asked.what, self.asked.round) == (what, turn):
            names |= self.asked.sites  # a repeated round asks those alone that are missing
        else:
            self.answered.clear()
        self.asked = Asked(what, turn, when.astimezone(UTC), names)
        for name in names - self.answered:
            site = self.site(name)
            site.doing, site.trouble = WORK.get(what, what).format(turn), False
            site.quarantined = False  # it would not be asked
