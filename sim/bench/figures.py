"""Which figures there are, and a run through some of them, written down after each."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from medsa_model import __version__
from medsa_model.checkpoint import write_json
from medsa_model.errors import MedsaError
from sim.bench.against import against
from sim.bench.ceiling import ceiling
from sim.bench.child import give_back
from sim.bench.inference import inference
from sim.bench.messages import message_bytes
from sim.bench.models import Settings
from sim.bench.names import AGAINST, WHAT
from sim.bench.plot import draw_ratios
from sim.bench.prefix import prefix
from sim.bench.results import Row, machine
from sim.bench.server import server_memory
from sim.bench.sites import round_overhead, sites_memory
from sim.bench.step_memory import memory_1024
from sim.bench.steps import step_2d, step_3d, step_1024
from sim.bench.table import show

Measure = Callable[[Settings], Sequence[Row]]
MEASURES: dict[str, Measure] = {
    "step_2d": step_2d,
    "step_3d": step_3d,
    "step_1024": step_1024,
    "memory_1024": memory_1024,
    "prefix": prefix,
    "ceiling": ceiling,
    "message_bytes": message_bytes,
    "sites_memory": sites_memory,
    "round_overhead": round_overhead,
    "server_memory": server_memory,
    "inference": inference,
    AGAINST: against,
}
WITH_AGAINST = {name: (what, MEASURES[name]) for name, what in WHAT.items()}
"""What each is, and its measurement; the last one is made when it is asked for."""
FIGURES = {name: each for name, each in WITH_AGAINST.items() if name != AGAINST}


def measure(
    names: Sequence[str], settings: Settings, console: Console,
    figures: Mapping[str, tuple[str, Measure]] = WITH_AGAINST,
) -> list[str]:  # fmt: skip
    """Measure and write down one figure after the other; the names of those that failed."""
    result: dict[str, Any] = {
        "version": __version__, "started": now(), "finished": None,
        "machine": machine(settings.device), "seed": settings.seed, "repeats": settings.repeats,
        "figures": [],
    }  # fmt: skip
    rows: list[Row] = []
    failed = []
    for name in names:
        what, work = figures[name]
        console.print(f"{name}: {what}", highlight=False, soft_wrap=True)
        started, error, found = time.monotonic(), None, []
        try:
            found = [*work(settings)]
        except MedsaError as problem:  # the others are measured all the same
            error = str(problem)
            print(f"medsa-bench: {name}: {error}", file=sys.stderr)
            failed.append(name)
        give_back()  # what a figure leaves is not missing in the next one
        rows += found
        result["figures"].append({
            "name": name, "what": what, "seconds": time.monotonic() - started, "error": error,
            "rows": [row.as_json() for row in found],
        })  # fmt: skip
        write_json(settings.out / "bench.json", result | {"finished": now()})
    show(rows, console)
    places = [settings.out / "bench.json", *draw_ratios(rows, settings.out)]
    console.print(f"Written: {', '.join(map(str, places))}", highlight=False, soft_wrap=True)
    return failed


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
