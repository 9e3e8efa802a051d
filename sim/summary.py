"""From the run directories of a comparison to summary.json and report.json."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from medsa_model.logs import read_metrics


class SiteScore(TypedDict):
    """Mean scores of one model on one site's test cases."""

    dice: float
    iou: float
    cases: int


Scores = dict[str, dict[str, SiteScore]]
"""By prompt, by site whose cases were scored."""


def test_scores(folder: Path) -> Scores:
    """The final scores in a run directory."""
    scores: Scores = {}
    for event in read_metrics(folder):
        if event["event"] == "evaluate" and event["part"] == "test":
            site_score = SiteScore(
                dice=float(str(event["dice"])),
                iou=float(str(event["iou"])),
                cases=int(str(event["cases"])),
            )
            scores.setdefault(str(event["prompt"]), {})[str(event["site"])] = site_score
    return scores


def training_seconds(folders: Iterable[Path]) -> float:
    """Seconds spent in rounds; a round that was repeated after an interruption counts once."""
    total = 0.0
    for folder in folders:
        events = [e for e in read_metrics(folder) if e["event"] == "round"]
        total += sum({e["round"]: float(str(e["seconds"])) for e in events}.values())
    return round(total, 2)


def row(scores: Mapping[str, SiteScore], seconds: float) -> dict[str, object]:
    """A ROW of summary.json: the mean is over cases, the worst site is the lowest site mean."""
    cases = sum(score["cases"] for score in scores.values())

    def metric(name: str) -> dict[str, object]:
        per_site = {site: float(score[name]) for site, score in scores.items()}  # type: ignore[literal-required]
        total = sum(per_site[site] * score["cases"] for site, score in scores.items())
        return {
            "mean": total / cases,
            "worst_site": min(per_site.values()),
            "gap": max(per_site.values()) - min(per_site.values()),
            "per_site": per_site,
        }

    return {"dice": metric("dice"), "iou": metric("iou"), "cases": cases, "seconds": seconds}


def local_row(models: Mapping[str, Scores], prompt: str) -> dict[str, SiteScore]:
    """Each site's own model on its own cases."""
    return {site: scores[prompt][site] for site, scores in models.items()}


def cross_site(
    models: Mapping[str, Scores], others: Mapping[str, Scores], prompt: str
) -> dict[str, dict[str, float]]:
    """Dice of every local model on every site's cases, then of the `others`."""
    return {
        name: {site: score["dice"] for site, score in scores[prompt].items()}
        for name, scores in {**models, **others}.items()
    }


def communication(folder: Path, full_model_bytes: int) -> dict[str, int]:
    """Largest message up and down per site and round, the sums over the run, and the
    most memory that a site's process had in use, in bytes."""
    events = [e for e in read_metrics(folder) if e["event"] == "train"]
    last = {(e["round"], e["site"]): e for e in events}.values()
    up = [int(str(e["up_bytes"])) for e in last] or [0]
    down = [int(str(e["down_bytes"])) for e in last] or [0]
    return {
        "up_bytes_per_site_round": max(up),
        "down_bytes_per_site_round": max(down),
        "full_model_bytes": full_model_bytes,
        "total_up_bytes": sum(up),
        "total_down_bytes": sum(down),
        "peak_memory_bytes": max((int(str(e["memory"])) for e in last), default=0),
    }


def off_site_mean(matrix: Mapping[str, Mapping[str, float]], sites: Iterable[str]) -> float:
    """Mean Dice of local models on the cases of the other sites, each pair with equal weight."""
    names = list(sites)
    return fmean(matrix[model][site] for model in names for site in names if model != site)


def write_json(path: Path, content: object) -> None:
    """Write a file that other programs read, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
