"""A recorded run, event by event, as the worker writes it: what the live page is shown of."""

from pathlib import Path

import yaml

from medsa_model.audit_log import NAME, record
from medsa_model.config import RunConfig, load_run
from medsa_model.logs import append_metrics
from server.config import Federation
from server.page_state import PageState

SITES = ("north", "south", "west")
HASH = "0f" * 32


class RecordedRun:
    """A federation of `sites`, its run directory, and the page's state; nothing runs."""

    def __init__(self, place: Path, sites: tuple[str, ...] = SITES, **more: object) -> None:
        run = {"name": "polyps", "rounds": 4, "data": {"kind": "synthetic"}}
        (place / "run.yaml").write_text(yaml.safe_dump(run))
        self.federation = Federation.model_validate(
            {"name": "clinics", "folder": place, "run": place / "run.yaml", "quorum": 2,
             "address": {"host": "coordinator.example"}, "sites": [{"name": n} for n in sites]}
            | more
        )  # fmt: skip
        self.config: RunConfig = load_run(place / "run.yaml")
        self.place = place / "run"
        self.place.mkdir()
        self.sites = sites
        self.state = PageState(self.federation)

    def note(self, event: str, **facts: object) -> None:
        """Both logs, as `Study.note`."""
        append_metrics(self.place, event, **facts)
        self.audit(event, **facts)

    def audit(self, event: str, **facts: object) -> None:
        record(self.place / NAME, event, **facts)

    def start(self, after: int = 0) -> None:
        """The worker begins and the sites introduce themselves."""
        self.audit("started", run="polyps", sha256=HASH, base=HASH, manifest=HASH,
                   after_round=after)  # fmt: skip
        for place, site in enumerate(self.sites):
            self.audit("joined", site=site, node=str(9 * 10**17 + place),
                       cases={"train": 80, "val": 10, "test": 10})  # fmt: skip

    def ask(self, number: int, what: str, *sites: str) -> None:
        self.audit("asked", round=number, sites=[*(sites or self.sites)], what=what, state=HASH)

    def train(self, number: int, site: str, loss: float) -> None:
        self.note("train", round=number, site=site, loss=loss, examples=80, images=80,
                  seconds=12.5, waited=0.0, memory=10**9, norm=0.2, up_bytes=7_600_000,
                  down_bytes=7_700_000, state=HASH)  # fmt: skip

    def score(self, number: int, site: str, dice: float, part: str = "val") -> None:
        self.note("traffic", round=number, site=site, part=part, empty=0, up_bytes=600,
                  down_bytes=7_700_000)  # fmt: skip
        facts = {"round": number, "site": site, "part": part, "cases": 10, "iou": dice}
        append_metrics(self.place, "evaluate", prompt="click", dice=dice, **facts)
        append_metrics(self.place, "evaluate", prompt="box", dice=1.0, **facts)

    def save(self, number: int, *sites: str) -> None:
        (self.place / "rounds" / f"{number:04d}").mkdir(parents=True, exist_ok=True)
        append_metrics(self.place, "round", round=number, sites=[*sites], missing=[], seconds=90.0)
        self.audit("saved", round=number, sites=[*sites], sha256=HASH)

    def whole_round(self, number: int) -> None:
        self.ask(number, "train")
        for place, site in enumerate(self.sites):
            self.train(number, site, 0.9 / number + 0.05 * place)
        self.ask(number, "val")
        for place, site in enumerate(self.sites):
            self.score(number, site, 0.9 - 0.5 / number - 0.06 * place)
        self.save(number, *self.sites)

    def finish(self, number: int) -> None:
        self.ask(number, "test")
        for site in self.sites:
            self.score(number, site, 0.875, "test")
        (self.place / "final").mkdir()
        self.audit("finished", round=number)
