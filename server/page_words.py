"""The state of the coordinator in words, as the live page tells it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from medsa_model.checkpoint import is_complete
from medsa_model.config import RunConfig
from medsa_model.report_values import duration, score
from server.config import Federation
from server.page_progress import Progress

INTERRUPTED = "The run was interrupted; it can go on with --resume."


@dataclass(frozen=True)
class Stage:
    """A run since it was begun; `end` tells how it ended, empty while it goes on."""

    config: RunConfig
    run: Path
    since: datetime
    end: str = ""
    well: bool = True


@dataclass(frozen=True)
class Headline:
    """The state in words; `mood` is "good", "open" (somebody has to wait) or "bad"."""

    mood: str
    words: str
    detail: str = ""


STARTING = Headline("open", "The coordinator is starting")


def headline(
    federation: Federation, stage: Stage, progress: Progress, connected: int, closing: bool
) -> Headline:
    """What goes on in `stage`, of a coordinator with `connected` sites that may be `closing`."""
    further = ""
    if federation.serve and not closing and stage.end:
        further = "Waiting for the next run: flower-server submit."
    if is_complete(stage.run) and (stage.well or not stage.end):
        told = (result(federation, progress), report(stage.run), further)
        words = f"The run {stage.config.name} is complete"
        return Headline("good", words, " ".join(part for part in told if part))
    if stage.end:
        return Headline("bad", stage.end, further)
    return working(stage, progress) if progress.started else waiting(federation, stage, connected)


def result(federation: Federation, progress: Progress) -> str:
    """`Mean Dice 0.588 (click; 60 test cases of 3 of 4 sites), worst site site_b 0.510.`

    The mean is over all test cases; empty before they are scored.
    """
    scores = progress.test_scores()
    cases = sum(count for _, count in scores.values())
    if not cases:
        return ""
    mean = sum(dice * count for dice, count in scores.values()) / cases
    all_sites = len({*scores, *(site.name for site in federation.sites)})
    sites = "1 site" if all_sites == 1 else f"{all_sites} sites"
    of = sites if len(scores) == all_sites else f"{len(scores)} of {sites}"
    told = f"Mean Dice {score(mean)} ({progress.prompt}; {cases:,.0f} test cases of {of})"
    if len(scores) > 1:
        worst = min(scores, key=lambda name: scores[name])
        told += f", worst site {worst} {score(scores[worst][0])}"
    return f"{told}."


def report(run: Path) -> str:
    """Where the report is, once it is written."""
    there = (run / "report.html").is_file()
    return "The report is report.html in the run directory." if there else ""


def waiting(federation: Federation, stage: Stage, connected: int) -> Headline:
    """The state while the sites gather."""
    wanted = len(federation.sites)
    quorum = max(federation.quorum, stage.config.strategy.least_updates)
    if connected >= wanted:
        return Headline("good", "All sites are connected: the rounds are about to begin")
    enough = f"{quorum} sites are enough"
    if quorum >= wanted:
        enough = "the run ends unless all are here"
    return Headline(
        "open", f"Waiting for sites: {connected} of {wanted} are connected",
        f"For {elapsed(stage.since)}; after {roughly(federation.join_seconds)}, {enough}.",
    )  # fmt: skip


def working(stage: Stage, progress: Progress) -> Headline:
    """The state while the worker is at its rounds."""
    rounds, asked = stage.config.rounds, progress.asked
    if asked is None:
        if progress.done:
            return Headline("good", f"Round {progress.done} of {rounds} is complete")
        return Headline("good", "The sites introduce themselves")
    since, came = clock(asked.since), len(progress.answered & asked.sites)
    mood, turn = "good", f"Round {asked.round} of {rounds}"
    what = "updates" if asked.what == "train" else "scores"
    detail = f"For {elapsed(asked.since)}; {what} of {came} of {len(asked.sites)} sites are here."
    if asked.what == "test":
        return Headline(mood, f"The final adapters are scored on test cases since {since}", detail)
    if asked.what == "val":
        return Headline(mood, f"{turn} is scored on validation cases since {since}", detail)
    if progress.repeated == asked.round:
        return Headline("open", f"{turn} is repeated since {since}",
                        f"There were too few usable updates. {detail}")  # fmt: skip
    return Headline(mood, f"{turn} is running since {since}", detail)


def progress_in_words(done: int, rounds: int, progress: Progress | None) -> str:
    """`3 of 10 rounds are complete; about 12 min for the rest`."""
    told = f"{done} of {rounds} rounds are complete"
    if progress and progress.seconds and 0 < done < rounds:
        rest = (rounds - done) * median(progress.seconds)
        told += f"; about {roughly(rest)} for the others"
    return told


def clock(when: datetime) -> str:
    """A time of day as the coordinator's clock shows it, with the date when it is another day."""
    local = when.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"


def elapsed(since: datetime) -> str:
    """The time that has passed, in whole seconds."""
    seconds = max(0.0, (datetime.now(UTC) - since).total_seconds())
    return f"{seconds:.0f} s" if seconds < 59.5 else duration(seconds)


def roughly(seconds: float) -> str:
    """A duration that is only estimated."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
