"""How often a site did what it was asked for: one JSON file in its state folder.

    {run sha256: {"train 0": 1, "train 1": 2, "val": 2}}

A coordinator asks again when a site was restarted or a round is repeated, and is answered again.
One that asks on and on is refused: else no number of rounds would bound a site's work for a run.
How many runs there are is bounded by the site's list of runs, `limits.runs`, alone.
"""

import json
from pathlib import Path

from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig
from medsa_model.errors import CheckpointError
from medsa_model.refusals import Reason, Refused

REPEATS = 16  # most trainings of one round of a run
EVALUATIONS = 4  # most evaluations of one part, for every round of a run and the state before


def count_training(place: Path | None, config: RunConfig, round_: int) -> None:
    """Count a training of `round_`; raises `Refused` when there were `REPEATS` of them."""
    _count(place, config, f"train {round_}", REPEATS, "the round was trained")


def count_evaluation(place: Path | None, config: RunConfig, part: str) -> None:
    """Count an evaluation of `part`; raises `Refused` when there were too many for the run."""
    most = EVALUATIONS * (config.rounds + 1)
    _count(place, config, part, most, f"its {part} cases were evaluated")


def _count(place: Path | None, config: RunConfig, what: str, most: int, done: str) -> None:
    if place is None:
        return
    counts = _read(place)
    of_run = counts.setdefault(config.sha256, {})
    times = of_run.get(what, 0)
    if times >= most:
        raise Refused(
            Reason.OVER_LIMIT,
            f"{done} {times} times already; if more is wanted, the site's engineer moves "
            f"{place.name} out of its state folder",
        )
    of_run[what] = times + 1
    write_json(place, counts)


def _read(place: Path) -> dict[str, dict[str, int]]:
    """The counts so far; raises `CheckpointError` for a file that holds something else."""
    try:
        counts = json.loads(place.read_text(encoding="utf-8"))
        return {run: {key: int(n) for key, n in each.items()} for run, each in counts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{place} holds no counts ({type(error).__name__}): restore it, or move it away to "
            "count from the beginning"
        ) from error
