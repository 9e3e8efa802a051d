"""From the run directories of a comparison to summary.json and report.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from medsa_model.logs import read_metrics


class SiteScore(TypedDict):
    """Mean scores of one model on one site's test cases."""

    dice: float
    iou: float
    cases: int


Scores = dict[str, dict[str, SiteScore]]
"""By prompt, by site whose cases were scored."""


def final_scores(folder: Path) -> Scores:
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


def empty_cases(folder: Path) -> int:
    """Test cases without a structure: neither prompted nor scored."""
    events = (e for e in read_metrics(folder) if e["event"] == "traffic" and e["part"] == "test")
    return sum({e["site"]: int(str(e.get("empty", 0))) for e in events}.values())


def training_seconds(folders: Iterable[Path]) -> float:
    """Seconds spent in rounds; a round that was repeated after an interruption counts once."""
    total = 0.0
    for folder in folders:
        events = [e for e in read_metrics(folder) if e["event"] == "round"]
        total += sum({e["round"]: float(str(e["seconds"])) for e in events}.values())
    return round(total, 2)


def images_seen(folders: Iterable[Path]) -> int:
    """Images that went through training steps, over all sites; the budget of a row."""
    total = 0
    for folder in folders:
        events = [e for e in read_metrics(folder) if e["event"] == "train"]
        total += sum({(e["round"], e["site"]): int(str(e["images"])) for e in events}.values())
    return total


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


def off_site_mean(models: Mapping[str, Scores], prompt: str) -> float:
    """Mean Dice of local models over the cases of all other sites."""
    scores = [
        score
        for model, by_prompt in models.items()
        for site, score in by_prompt[prompt].items()
        if site != model
    ]
    return sum(s["dice"] * s["cases"] for s in scores) / sum(s["cases"] for s in scores)
