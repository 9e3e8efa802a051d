"""A progress bar for a comparison; silent when the output is not a terminal.

It reads the run directories, so it works the same whatever process runs a federation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

from rich import progress
from rich.console import Console

from medsa_model.checkpoint import latest_round
from sim.compare import Plan

PAUSE = 0.5  # seconds between two looks


@contextmanager
def progress_of(plans: Sequence[Plan], console: Console) -> Iterator[None]:
    """Show how many rounds of all federations are done while the body runs."""
    if not console.is_terminal:
        yield
        return
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
    )
    ended = Event()
    with bar:
        task = bar.add_task("", total=sum(plan.config.rounds + 1 for plan in plans))

        def show() -> None:
            done, finished = count(plans)
            words = f"{finished} of {len(plans)} federations"
            bar.update(task, completed=done, description=words)

        def watch() -> None:
            while not ended.wait(PAUSE):
                show()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            show()


def count(plans: Sequence[Plan]) -> tuple[int, int]:
    """Rounds done in all federations, where a finished one has one more; federations finished."""
    finished = sum((plan.folder / "final").exists() for plan in plans)
    return sum(latest_round(plan.folder) or 0 for plan in plans) + finished, finished
