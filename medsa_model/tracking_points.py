"""From the lines of metrics.jsonl to what TensorBoard and MLflow draw: points and notes.

A round is told when it is over, because one that was interrupted is repeated: only its last
attempt counts, as in report.html. Test scores are told once the run is complete. So no curve has
two values at a round, however often a run was interrupted.

| tag                                             | value at the round                           |
|-------------------------------------------------|----------------------------------------------|
| train/loss/SITE, norm, seconds, waited, memory  | as in metrics.jsonl: seconds, bytes          |
| validation/dice/PROMPT/SITE, iou, hd95, nsd     | scores of the site; hd95 in mm               |
| validation/dice/PROMPT/mean, worst_site         | over all cases; of the worst site            |
| validation/dice/PROMPT/STRUCTURE/...            | the same of a single structure               |
| test/...                                        | the same for test cases, at the last round   |
| round/seconds, sites, missing                   | seconds; sites with and without an update    |
| round/rejected, refused; rejected/SITE          | answers not used; those a site did not give  |
| bytes/up/SITE, bytes/down/SITE                  | bytes of training and validation             |
| privacy/epsilon/SITE, privacy/epsilon_rdp/SITE  | spent by the patients of the site            |
| privacy/site_epsilon                            | spent by every site                          |
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from medsa_model.report_values import Json, mapping, number

PARTS = {"val": "validation", "test": "test"}
MEASURES: dict[str, Callable[[Iterable[float]], float]] = {
    "dice": min, "iou": min, "hd95": max, "nsd": min,
}  # fmt: skip
"""What is measured, and which of the sites' values is the worst."""
TRAINING = ("loss", "norm", "seconds", "waited", "memory")
NOTED = (
    "rejected", "missing", "repeated", "skipped", "discarded", "quarantined", "readmitted",
)  # fmt: skip
RESERVED = {"mean", "worst_site", ".", ".."}
MAIN = "federated"
"""The row that a run directory itself is; the others have its subdirectories of `rows`."""
LONGEST_NAME = 48  # characters; MLflow takes 250 in a whole tag


class Point(NamedTuple):
    """A value of a curve; `time` in seconds since 1970."""

    tag: str
    step: int
    value: float
    time: float


class Note(NamedTuple):
    """A line that is no number: `kind` is the event, `text` its facts, one a line."""

    kind: str
    step: int
    text: str
    time: float


def part_of_tag(name: object) -> str:
    """A name as one level of a tag, different for different names.

    Letters, digits, space, dot, hyphen and underscore stay; a name with others, or one that would
    stand for something else in a tag, gets them replaced and the start of its sha256.
    """
    text = str(name)
    fit = re.sub(r"[^A-Za-z0-9_. -]", "_", text).strip()[:LONGEST_NAME].strip()
    if fit == text and fit and fit not in RESERVED:
        return fit
    return f"{fit}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def note_of(event: Json) -> Note | None:
    """The note for an event that is worth reading, else `None`."""
    kind = str(event.get("event"))
    if kind not in NOTED:
        return None
    facts = {key: value for key, value in event.items() if key not in ("time", "event")}
    told = (
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in facts.items()
    )
    return Note(kind, round_of(event), "\n".join(told), time_of(event))


def round_of(event: Json) -> int:
    """The round that an event belongs to; 0 when it names none."""
    return int(number(event.get("round")) or 0)


def time_of(event: Json) -> float:
    """When an event was written, in seconds since 1970."""
    try:
        return datetime.fromisoformat(str(event.get("time"))).timestamp()
    except ValueError:
        return 0.0


@dataclass
class Lines:
    """The lines of one metrics.jsonl in their order, as far as they are not told yet."""

    over: int = -1
    """The last round that is over."""
    open: dict[int, list[Json]] = field(default_factory=dict)
    """Events of rounds that are not over."""
    tested: list[Json] = field(default_factory=list)
    """Events of evaluations on test cases."""
    told: dict[tuple[str, int], float] = field(default_factory=dict)
    """Test scores by tag and round."""

    def add(self, event: Json) -> list[Point]:
        """Take the next line; returns the points of all rounds that it shows to be over."""
        turn, tests = round_of(event), event.get("part") == "test"
        if tests:
            self.tested.append(event)
        elif turn > self.over:
            self.open.setdefault(turn, []).append(event)
        over = turn if tests or event.get("event") == "round" else turn - 1
        points = []
        for done in sorted(each for each in self.open if each <= over):
            points += points_of(done, self.open.pop(done))
        self.over = max(self.over, over)
        return points

    def test_scores(self) -> list[Point]:
        """The points of test scores that have not been told with these values."""
        turn = max(map(round_of, self.tested), default=0)
        final = [event for event in self.tested if round_of(event) == turn]
        points = [
            point
            for point in scores_of(turn, final, "test")
            if self.told.get(point[:2]) != point.value
        ]
        self.told.update({(point.tag, point.step): point.value for point in points})
        return points


def points_of(step: int, events: Sequence[Json]) -> list[Point]:
    """The points of a round; what a repeated attempt did again counts as it was done last."""
    found: dict[str, Point] = {}

    def put(tag: str, value: object, event: Json) -> None:
        if (known := number(value)) is not None:
            found[tag] = Point(tag, step, known, time_of(event))

    up: dict[str, dict[object, float]] = {}
    down: dict[str, dict[object, float]] = {}
    rejected: dict[str, int] = {}
    for event in events:
        kind, site = event.get("event"), part_of_tag(event.get("site", ""))
        if kind == "train":
            for name in TRAINING:
                put(f"train/{name}/{site}", event.get(name), event)
        if kind == "train" or (kind == "traffic" and event.get("part") == "val"):
            up.setdefault(site, {})[kind] = number(event.get("up_bytes")) or 0.0
            down.setdefault(site, {})[kind] = number(event.get("down_bytes")) or 0.0
            put(f"bytes/up/{site}", sum(up[site].values()), event)
            put(f"bytes/down/{site}", sum(down[site].values()), event)
        elif kind == "privacy":
            put(f"privacy/epsilon/{site}", event.get("epsilon"), event)
            put(f"privacy/epsilon_rdp/{site}", event.get("epsilon_rdp"), event)
        elif kind == "site_privacy":
            put("privacy/site_epsilon", event.get("epsilon"), event)
        elif kind == "rejected":
            rejected[site] = rejected.get(site, 0) + 1
            put(f"rejected/{site}", rejected[site], event)
        elif kind == "round":
            put("round/seconds", event.get("seconds"), event)
            for name in ("sites", "missing"):
                names = event.get(name)
                put(f"round/{name}", len(names) if isinstance(names, list) else None, event)
            put("round/rejected", sum(rejected.values()), event)
            refused = [each for each in events if each.get("event") == "rejected"]
            put("round/refused", sum("refusal" in each for each in refused), event)
    return [*found.values(), *scores_of(step, events, "val")]


def scores_of(step: int, events: Iterable[Json], part: str) -> list[Point]:
    """Scores of every site on its cases of `part`, their mean over cases and the worst site."""
    scores: dict[str, dict[str, Json]] = {}
    time = 0.0
    for event in events:
        if event.get("event") == "evaluate" and event.get("part") == part:
            site, prompt = part_of_tag(event.get("site", "")), part_of_tag(event.get("prompt", ""))
            scores.setdefault(prompt, {})[site] = event
            for name, each in mapping(event.get("structures")).items():
                told = {**mapping(each), "time": event.get("time")}
                scores.setdefault(f"{prompt}/{part_of_tag(name)}", {})[site] = told
            time = max(time, time_of(event))
    points = []
    for of, by_site in scores.items():
        for measure, worst in MEASURES.items():
            start = f"{PARTS[part]}/{measure}/{of}"
            values = {site: number(each.get(measure)) for site, each in by_site.items()}
            known = {site: value for site, value in values.items() if value is not None}
            points += [
                Point(f"{start}/{site}", step, value, time_of(by_site[site]))
                for site, value in known.items()
            ]
            if known:
                points.append(Point(f"{start}/mean", step, mean(known, by_site), time))
                points.append(Point(f"{start}/worst_site", step, worst(known.values()), time))
    return points


def mean(values: Mapping[str, float], by_site: Mapping[str, Json]) -> float:
    """The mean over cases, as in summary.json: each site counts by its number of cases."""
    cases = {site: number(by_site[site].get("cases")) or 1.0 for site in values}
    return sum(values[site] * cases[site] for site in values) / sum(cases.values())
