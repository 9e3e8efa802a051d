"""From the metrics of one run to a ROW of summary.json, and to what the run cost."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from medsa_model.logs import read_metrics


class SiteScore(TypedDict):
    """Mean scores of one model on one site's test cases; `structures` has the same by name.

    `hd95` (mm) and `nsd` are there for volumes, `structures` where there are several.
    """

    dice: float
    iou: float
    cases: int
    hd95: NotRequired[float]
    nsd: NotRequired[float]
    structures: NotRequired[dict[str, dict[str, float]]]


Scores = dict[str, dict[str, SiteScore]]
"""By prompt, by site whose cases were scored."""


def final_scores(folder: Path) -> Scores:
    """The final scores in a run directory."""
    return scores_on_test_cases(read_metrics(folder))


def scores_on_test_cases(events: Iterable[Mapping[str, object]]) -> Scores:
    """The final scores among the lines of a metrics.jsonl; of several of a site the last ones."""
    scores: Scores = {}
    for event in events:
        if event["event"] == "evaluate" and event["part"] == "test":
            names = SiteScore.__annotations__
            site_score = {name: event[name] for name in names if event.get(name) not in (None, {})}
            by_site = scores.setdefault(str(event["prompt"]), {})
            by_site[str(event["site"])] = SiteScore(**site_score)  # type: ignore[typeddict-item]
    return scores


def row(scores: Mapping[str, SiteScore], seconds: float) -> dict[str, object]:
    """A ROW of summary.json: the mean is over cases, the worst site is the lowest site mean."""
    cases = sum(score["cases"] for score in scores.values())

    def metric(name: str) -> dict[str, object]:
        per_site = {site: float(score[name]) for site, score in scores.items()}  # type: ignore[literal-required]
        total = sum(per_site[site] * score["cases"] for site, score in scores.items())
        return {
            "mean": total / cases,
            "worst_site": (max if name == "hd95" else min)(per_site.values()),
            "gap": max(per_site.values()) - min(per_site.values()),
            "per_site": per_site,
        }

    result = {"dice": metric("dice"), "iou": metric("iou"), "cases": cases, "seconds": seconds}
    if all("hd95" in score and "nsd" in score for score in scores.values()):  # of volumes
        result |= {name: metric(name) for name in ("hd95", "nsd")}
    if structures := by_structure(scores.values()):
        result["per_class"] = {name: values["dice"] for name, values in structures.items()}
        result["structures"] = structures
    return result


def by_structure(scores: Iterable[SiteScore]) -> dict[str, dict[str, float]]:
    """Means over all sites' cases by structure, and how many cases have it."""
    found: dict[str, list[dict[str, float]]] = {}
    for score in scores:
        for name, values in score.get("structures", {}).items():
            found.setdefault(name, []).append(values)
    result = {}
    for name, each in found.items():
        cases = sum(values["cases"] for values in each)
        result[name] = {"cases": cases} | {
            metric: sum(values[metric] * values["cases"] for values in each) / cases
            for metric in ("dice", "iou", "hd95", "nsd")
            if all(values.get(metric) is not None for values in each)
        }
    return result


def foreground_mean(row: Mapping[str, object]) -> dict[str, float]:
    """Mean Dice and IoU of a ROW under the names that nnU-Net's summary.json gives them."""
    means = {}
    for name, metric in (("Dice", "dice"), ("IoU", "iou")):
        scores = row[metric]
        assert isinstance(scores, dict)
        means[name] = float(scores["mean"])
    return means


def training_seconds(folders: Iterable[Path]) -> float:
    """Seconds spent in rounds; a round that was repeated after an interruption counts once."""
    total = 0.0
    for folder in folders:
        events = [e for e in read_metrics(folder) if e["event"] == "round"]
        total += sum({e["round"]: float(str(e["seconds"])) for e in events}.values())
    return round(total, 2)


def communication(folder: Path, full_model_bytes: int) -> dict[str, int]:
    """What a run sent, in bytes as serialised for the wire.

    Largest training message up and down per site and round; the sums of all messages with tensors
    or scores; the most memory that a site's process had in use. `full_model_bytes` is what the
    float32 parameters of the whole base model would take.
    """
    events = read_metrics(folder)
    train = {(e["round"], e["site"]): e for e in events if e["event"] == "train"}
    scoring = {(e["round"], e["site"], e["part"]): e for e in events if e["event"] == "traffic"}
    last, every = train.values(), [*train.values(), *scoring.values()]
    up = [int(str(e["up_bytes"])) for e in last] or [0]
    down = [int(str(e["down_bytes"])) for e in last] or [0]
    return {
        "up_bytes_per_site_round": max(up),
        "down_bytes_per_site_round": max(down),
        "full_model_bytes": full_model_bytes,
        "total_up_bytes": sum(int(str(e["up_bytes"])) for e in every),
        "total_down_bytes": sum(int(str(e["down_bytes"])) for e in every),
        "peak_memory_bytes": max((int(str(e["memory"])) for e in last), default=0),
    }
