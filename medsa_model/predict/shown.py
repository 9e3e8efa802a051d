"""What a person sees in the terminal: a progress bar there, plain lines elsewhere, the end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from rich import progress
from rich.console import Console
from rich.table import Table

from medsa_model.predict.case import Answer
from medsa_model.predict.inputs import Input
from medsa_model.predict.results import MASKS, PAGE

MOST_LINES = 30  # of the table; volumes.csv has all


def progress_of(inputs: Sequence[Input], console: Console) -> Iterator[Input]:
    """Each input in turn, with a bar while they are worked on when `console` is a terminal."""
    if not console.is_terminal:
        yield from inputs
        return
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=len(inputs))
        for source in inputs:
            bar.update(task, description=source.case)
            yield source
            bar.advance(task)


def show_end(
    console: Console,
    answers: Sequence[Answer],
    problems: Mapping[str, str],
    out: Path,
    total: int,
    report: bool,
) -> None:
    """On a terminal a table of sizes and scores; then means, problems, and where the masks are."""
    scored = any(answer.metrics for answer in answers)
    if console.is_terminal and answers:
        console.print(_table(answers, scored))
    if scored:
        for name, values in _dice(answers).items():
            mean = f"{fmean(values):.3f}" if values else "undefined"
            of = "1 case" if len(values) == 1 else f"mean of {len(values)} cases"
            console.print(f"Dice of {name}: {mean} ({of})", soft_wrap=True)
    console.print(f"{len(answers)} of {total} cases: {out / MASKS}", soft_wrap=True)
    if report:
        console.print(f"Report, for this site alone: {out / PAGE}", soft_wrap=True)
    errors = Console(stderr=True, markup=False, emoji=False, highlight=False)
    for problem in problems.values():
        errors.print(f"Problem: {problem}", soft_wrap=True)


def _table(answers: Sequence[Answer], scored: bool) -> Table:
    volumes = answers[0].source.is_volume
    table = Table(title="what was found", title_justify="left")
    for heading in ("case", "structure"):
        table.add_column(heading, overflow="fold")
    table.add_column("ml" if volumes else "pixels", justify="right")
    if scored:
        table.add_column("Dice", justify="right")
    lines = [(answer, size) for answer in answers for size in answer.sizes]
    for answer, size in lines[:MOST_LINES]:
        amount = f"{size.volume_mm3 / 1000:,.1f}" if size.volume_mm3 is not None else ""
        cells = [size.case, size.structure, amount if volumes else f"{size.voxels:,}"]
        if scored:
            dice = _dice([answer]).get(size.structure)
            cells.append(f"{dice[0]:.3f}" if dice else "")
        table.add_row(*cells)
    if len(lines) > MOST_LINES:
        table.caption = f"and {len(lines) - MOST_LINES} more lines in volumes.csv"
    return table


def _dice(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Structure -> Dice of the cases where it is found or in the label."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        for size, metrics in zip(answer.sizes, (answer.metrics or {}).values(), strict=False):
            values = found.setdefault(size.structure, [])
            if not math.isnan(metrics["Dice"]):
                values.append(metrics["Dice"])
    return found
