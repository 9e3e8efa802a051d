"""What a run wrote about one of its rounds, for the model card: which run, and the sites' scores.

Scores are read from the `evaluate` events of metrics.jsonl, which simulations and real federations
write alike, and which say the round: those of another round are not the adapter's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsa_model.report_run import Run, read_run
from medsa_model.report_values import Json, mapping, number

FEDERATED = "federated"
LOWER_IS_BETTER = ("hd95",)


@dataclass(frozen=True)
class Origin:
    """The round of a run that an adapter is. `row` is "federated", or the row of a comparison in
    which it was trained, for example "centralized" or "local/site_a"."""

    run: Run
    round: int
    row: str = FEDERATED


def find_origin(folder: Path) -> Origin | None:
    """The run around the folder of an adapter, `None` when it is not in one."""
    place = folder.resolve()
    if place.parent.name != "rounds" or not place.name.isdigit():
        return None
    inner, round_ = place.parents[1], int(place.name)
    for above in (inner.parent, inner.parent.parent):
        if above.name == "rows":
            # what the whole comparison says about its data is also that of the row, scores are not
            whole, own = read_run(above.parent), read_run(inner)
            summary = {key: whole.summary.get(key) for key in ("name", "data", "model")}
            report = {"simulated": whole.report.get("simulated")}
            run = replace(whole, folder=inner, events=own.events, summary=summary, report=report)
            return Origin(run, round_, inner.relative_to(above).as_posix())
    run = read_run(inner)
    return Origin(run, round_) if run.events or run.config else None


@dataclass(frozen=True)
class Scores:
    """Scores with one prompt: site -> its event, with `dice`, `iou`, `cases`, and of volumes `hd95`
    (mm) and `nsd`; where there are several structures `structures` has the same by name."""

    prompt: str
    sites: dict[str, Json]

    @property
    def cases(self) -> int:
        """All sites' cases."""
        return sum(int(number(each.get("cases")) or 0) for each in self.sites.values())

    def value(self, site: str, metric: str) -> float | None:
        """The mean over a site's cases."""
        return number(self.sites[site].get(metric))

    def mean(self, metric: str) -> float | None:
        """The mean over all cases; None unless every site has a value."""
        return _mean(list(self.sites.values()), metric)

    def worst(self, metric: str) -> tuple[str, float] | None:
        """The site with the worst mean, and that mean."""
        found = {site: self.value(site, metric) for site in self.sites}
        known = {site: value for site, value in found.items() if value is not None}
        if not known:
            return None
        site = (max if metric in LOWER_IS_BETTER else min)(known, key=lambda each: known[each])
        return site, known[site]

    @property
    def structures(self) -> dict[str, Json]:
        """Structure -> metric -> mean over the cases that show it; empty for a single one."""
        names = dict.fromkeys(n for e in self.sites.values() for n in mapping(e.get("structures")))
        found = {}
        for name in names:
            events = [mapping(mapping(e.get("structures")).get(name)) for e in self.sites.values()]
            there = [each for each in events if number(each.get("cases"))]
            cases = sum(int(number(each["cases"]) or 0) for each in there)
            found[name] = {"cases": cases} | {
                metric: _mean(there, metric) for metric in ("dice", "iou", "hd95", "nsd")
            }
        return found


def _mean(events: Sequence[Json], metric: str) -> float | None:
    """The mean over cases of sites' means."""
    values = [(number(each.get(metric)), number(each.get("cases"))) for each in events]
    known = [(value, cases) for value, cases in values if value is not None and cases]
    if not known or len(known) < len(values):
        return None
    return sum(value * cases for value, cases in known) / sum(cases for _, cases in known)


def scores_of(origin: Origin, part: str) -> list[Scores]:
    """The scores of the adapter on the sites' cases of `part`, "test" or "val", by prompt."""
    found: dict[str, dict[str, Json]] = {}
    for event in origin.run.of("evaluate"):
        if event.get("part") == part and number(event.get("round")) == origin.round:
            # repeated after an interruption: the last one counts
            found.setdefault(str(event.get("prompt")), {})[str(event.get("site"))] = event
    return [Scores(prompt, dict(sorted(sites.items()))) for prompt, sites in found.items()]
