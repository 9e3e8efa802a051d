"""From the run directories of a comparison to summary.json and report.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from medsa_model.logs import read_metrics
from medsa_model.run_rows import Scores, SiteScore


def empty_cases(folder: Path) -> int:
    """Test cases without a structure: neither prompted nor scored."""
    events = (e for e in read_metrics(folder) if e["event"] == "traffic" and e["part"] == "test")
    return sum({e["site"]: int(str(e.get("empty", 0))) for e in events}.values())


def images_seen(folders: Iterable[Path]) -> int:
    """Images that went through training steps, over all sites; the budget of a row."""
    total = 0
    for folder in folders:
        events = [e for e in read_metrics(folder) if e["event"] == "train"]
        total += sum({(e["round"], e["site"]): int(str(e["images"])) for e in events}.values())
    return total


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


def off_site_mean(models: Mapping[str, Scores], prompt: str) -> float:
    """Mean Dice of local models over the cases of all other sites."""
    scores = [
        score
        for model, by_prompt in models.items()
        for site, score in by_prompt[prompt].items()
        if site != model
    ]
    return sum(s["dice"] * s["cases"] for s in scores) / sum(s["cases"] for s in scores)
