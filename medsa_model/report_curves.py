"""What the report draws over the rounds, from the lines of a run's metrics.jsonl."""

from collections.abc import Iterable

from medsa_model.figures import Curves
from medsa_model.report_run import Run, main_prompt
from medsa_model.report_values import Json, number


def validation(run: Run, asked: str | None = None) -> tuple[Curves, dict[int, float]]:
    """Validation Dice with a prompt (`None`: the main one): of each site, and by round the mean
    over all cases."""
    prompt = main_prompt(run) if asked is None else asked
    events = [
        event
        for event in run.of("evaluate")
        if event.get("part") == "val" and event.get("prompt", prompt) == prompt
    ]
    dice, cases = curves(events, "dice"), curves(events, "cases")
    mean = {}
    for turn in sorted({turn for curve in dice.values() for turn in curve}):
        scores = {site: curve[turn] for site, curve in dice.items() if turn in curve}
        weights = {site: cases.get(site, {}).get(turn, 1.0) for site in scores}
        total = sum(weights.values())
        if total:
            mean[turn] = sum(scores[site] * weights[site] for site in scores) / total
    return dice, mean


def curves(events: Iterable[Json], key: str) -> Curves:
    """Site -> round -> value of `key`, sites by name, whoever answered first; a round that was
    repeated after a resume counts once."""
    found: dict[str, dict[int, float]] = {}
    for event in events:
        turn, value = number(event.get("round")), number(event.get(key))
        if turn is not None and value is not None:
            found.setdefault(str(event.get("site", "")), {})[int(turn)] = value
    return dict(sorted(found.items()))
