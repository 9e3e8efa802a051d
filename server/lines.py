"""Lines that tell whoever watches a coordinator how its run goes on, and what came of it.

The process of the round loop logs them to the coordinator's terminal; a simulation, which has a
progress bar and several federations at once, does without.
"""

from collections.abc import Collection
from pathlib import Path

from medsa_model.run_rows import final_scores


def round_line(
    number: int, rounds: int, updates: int, missing: Collection[str], seconds: float,
    dice: float | None, prompt: str,
) -> str:  # fmt: skip
    """One round: `updates` sites are in its mean, `missing` are not, and `dice` is the mean
    validation Dice with the main `prompt`, `None` when nothing was validated."""
    sites = f"{updates} of {updates + len(missing)} sites"
    told = f"round {number} of {rounds}: {sites if updates else 'skipped'}, {seconds:.1f} s"
    if dice is not None:
        told += f", validation Dice {dice:.3f} ({prompt})"
    return f"{told}; missing: {', '.join(missing)}" if missing else told


def result_line(run: Path, prompt: str) -> str:
    """The test Dice of the run in `run` with the main `prompt`: the mean over cases, and the site
    whose mean is the lowest."""
    scores = final_scores(run).get(prompt, {})
    if not scores:
        return "no site sent scores of its test cases"
    cases = sum(score["cases"] for score in scores.values())
    mean = sum(score["dice"] * score["cases"] for score in scores.values()) / cases
    worst = min(sorted(scores), key=lambda site: scores[site]["dice"])
    return (
        f"test Dice {mean:.3f} ({prompt}) on {cases} cases of {len(scores)} sites; worst site: "
        f"{worst}, {scores[worst]['dice']:.3f}"
    )
