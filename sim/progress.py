"""A progress bar for a comparison; silent when the output is not a terminal."""

from types import TracebackType

from rich import progress
from rich.console import Console

VERBS = {"train": "trains", "evaluate": "is scored", "query": "joins"}


class Progress:
    """Counts the answers of sites over all federations; a context manager."""

    def __init__(self, console: Console, total: int) -> None:
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", justify="left"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self, federation: str, message_type: str, site: str) -> None:
        """A site has answered in one of the federations."""
        verb = VERBS.get(message_type, message_type)
        self.bar.update(self.task, advance=1, description=f"{federation}: {site} {verb}")
