"""What the live page shows, as plain data: words and numbers that are ready to be read.

No images, no names of cases, no keys and no paths. Names of sites and reasons come from others:
whoever shows them has to escape them.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from medsa_model.checkpoint import is_complete, latest_round
from medsa_model.config import RunConfig
from medsa_model.report_values import Json
from server.config import Federation
from server.flower_private import SuperLink
from server.page_nodes import Nodes
from server.page_progress import Progress
from server.page_tables import COLUMNS, charts, events, facts, rejected, site_row
from server.page_words import STARTING, Stage, clock, headline, progress_in_words

SILENT = "The SuperLink does not answer: who is connected was so when it last did."
FRESH = 0.5  # seconds that a state is given to further readers


class PageState:
    """What the coordinator is at. Its thread calls `begin`, `end` and `close`, the page's `state`.

    `link` reaches the SuperLink once there is one.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.link: SuperLink | None = None
        self.stage: Stage | None = None
        self.closing = False
        self.asked = float("-inf")
        """When somebody has read it last, of `time.monotonic`."""
        self.lock = Lock()
        self.nodes = Nodes()
        self.progress: Progress | None = None
        self.cached: tuple[float, object, Json] | None = None

    def begin(self, config: RunConfig, run: Path) -> None:
        """A run is begun, or gone on with."""
        now = datetime.now(UTC)
        whole = now.microsecond // 1000 * 1000  # as entries of the audit log have their time
        self.stage = Stage(config, run, now.replace(microsecond=whole))

    def end(self, words: str = "", well: bool = False) -> None:
        """The run has ended; the first word on it counts."""
        if self.stage and not self.stage.end:
            stage = self.stage
            told = words or "The coordinator has ended: its log says why."
            self.stage = Stage(stage.config, stage.run, stage.since, told, well)

    def close(self) -> None:
        """Nothing will change any more."""
        self.closing, self.link = True, None

    def state(self) -> Json:
        """The content of `/state.json`."""
        self.asked = time.monotonic()
        with self.lock:
            key = (self.stage, self.closing)
            if self.cached and self.cached[1] == key and self.cached[0] > time.monotonic() - FRESH:
                return self.cached[2]
            state = self._compute(self.stage)
            self.cached = (time.monotonic(), key, state)
            return state

    def _compute(self, stage: Stage | None) -> Json:
        nodes = self.nodes.latest(self.link)
        progress = self._follow(stage)
        connected = sum(node.status == "online" for node in nodes.values())
        told = STARTING
        if stage and progress and (self.link or progress.started or stage.end):
            told = headline(self.federation, stage, progress, connected, self.closing)
        rounds = stage.config.rounds if stage else 0
        done = (latest_round(stage.run) or 0) if stage else 0
        names = self._names(progress)
        known = progress.sites.values() if progress else ()
        private = any(site.epsilon is not None for site in known)
        complete, over = stage is not None and is_complete(stage.run), self._is_over(stage)
        silent = not (self.nodes.answers or over)  # the SuperLink ends before the page does
        return {
            "federation": self.federation.name,
            "run": stage.config.name if stage else "no run yet",
            "mood": told.mood, "words": told.words, "detail": told.detail,
            "over": over,
            "rounds": rounds, "done": done,
            "progress": progress_in_words(done, rounds, progress) if stage else "",
            "facts": facts(self.federation, stage, progress),
            "problem": SILENT if silent else "",
            "columns": [*COLUMNS, "Epsilon"] if private else [*COLUMNS],
            "sites": [
                site_row(
                    name, place, len(names), nodes.get(name), progress, private, complete, over
                )
                for place, name in enumerate(names)
            ],
            "charts": charts(names, progress, rounds),
            "rejected": rejected(progress), "events": events(progress),
            "time": clock(datetime.now(UTC)), "zone": f"{datetime.now().astimezone():UTC%z}",
        }  # fmt: skip

    def _follow(self, stage: Stage | None) -> Progress | None:
        if stage is None:
            return None
        known = self.progress
        if known is None or (known.run, known.since) != (stage.run, stage.since):
            known = Progress(stage.run, stage.config.prompt.evaluate[0].name, stage.since)
            self.progress = known
        known.read()
        return known

    def _names(self, progress: Progress | None) -> list[str]:
        """The federation's sites, and those that took part and are no members any more."""
        members = [site.name for site in self.federation.sites]
        seen = sorted(progress.sites) if progress else []
        return members + [name for name in seen if name not in members]

    def _is_over(self, stage: Stage | None) -> bool:
        """Whether this state is the last one."""
        ended = stage is not None and bool(stage.end)
        return self.closing or (ended and not self.federation.serve)
