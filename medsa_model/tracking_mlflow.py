"""MLflow: an experiment named like the run, in it a run, and one inside it for every other row.

The store is the one of MLFLOW_TRACKING_URI; without it a SQLite file `mlflow.db` beside the run
directory, so that runs of one folder are compared. Look with (the full package `mlflow`):

mlflow ui --backend-store-uri sqlite:///runs/NAME/mlflow.db

RUN/mlflow.json has the identifiers: a run that is resumed is continued there. Which rounds the
store has is in its tag `rounds`; these are not written again. MLflow would report how it is used
to its makers: medsa_model/__init__.py turns that off, because MONAI imports MLflow wherever it is
installed, asked or not. No file is handed to it, and no path.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig, load_run
from medsa_model.logs import logger
from medsa_model.tracking_points import MAIN, Note, Point, part_of_tag

NAME = "mlflow.json"
STORE = "mlflow.db"
LOCK = ".mlflow.lock"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For a server that does not answer; MLflow's own are minutes."""
METRICS, PARAMS, LONGEST = 1000, 100, 6000
"""MLflow's limits: metrics and parameters in a request, characters of a parameter's value."""
ROUNDS = "rounds"
"""Tag of a run: the last round that the store has."""


@dataclass(frozen=True)
class Known:
    """What the store had of a row when it was opened."""

    run_id: str
    rounds: int
    metrics: Mapping[str, float]


class Mlflow:
    """A run of MLflow for every row; a `Sink`, see tracking.py."""

    def __init__(self, run: Path) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.run = run.resolve()
        self.config = load_run(run / "config.yaml")
        self.known: dict[str, Known] = {}
        place = self.run.parent
        uri = os.environ.get("MLFLOW_TRACKING_URI") or address_of(place / STORE)
        if host := urlsplit(uri).hostname:
            logger.info("--track mlflow: scores and names of sites go to %s", host)
        server = uri.startswith(("http:", "https:"))
        with nullcontext() if server else alone(place):
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment = self._experiment(uri, place)

    def write(self, row: str, points: Sequence[Point], notes: Sequence[Note]) -> None:
        """Write the points that the store does not have; notes are not for MLflow."""
        from mlflow.entities import Metric, RunTag

        known = self._open(row)
        new = [point for point in points if is_new(point, known)]
        metrics = [Metric(tag, value, int(time * 1000), step) for tag, step, value, time in new]
        rounds = max((point.step for point in new), default=known.rounds)
        for start in range(0, len(metrics), METRICS):
            last = start + METRICS >= len(metrics)
            self.client.log_batch(
                known.run_id, metrics=metrics[start : start + METRICS],
                tags=[RunTag(ROUNDS, str(rounds))] if last else (), synchronous=True,
            )  # fmt: skip

    def close(self, complete: Sequence[str]) -> None:
        """Say which rows came to their end."""
        for row, known in self.known.items():
            self.client.set_terminated(known.run_id, "FINISHED" if row in complete else "KILLED")

    def _experiment(self, uri: str, place: Path) -> str:
        """The identifier of the experiment, which is made when there is none."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.config.name
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        own = uri.startswith("sqlite:")
        try:
            return str(self.client.create_experiment(
                name, artifact_location=(place / "mlartifacts").as_uri() if own else None
            ))  # fmt: skip
        except MlflowException:  # another run was faster
            if found := self.client.get_experiment_by_name(name):
                return str(found.experiment_id)
            raise

    def _open(self, row: str) -> Known:
        """Continue the row's run, or make one; that of a row is inside the main one."""
        if row in self.known:
            return self.known[row]
        parent = {} if row == MAIN else {"mlflow.parentRunId": self._open(MAIN).run_id}
        ids = read_ids(self.run)
        found = self._find(ids.get(row))
        if found is None:
            tags = {"name": self.config.name, "sha256": self.config.sha256, "row": row, **parent}
            name = self.run.name if row == MAIN else row
            made = self.client.create_run(self.experiment, tags=tags, run_name=name)
            found = Known(made.info.run_id, -1, {})
            write_json(self.run / NAME, {**ids, row: found.run_id})
            if row == MAIN:
                self._describe(found.run_id)
        self.known[row] = found
        return found

    def _find(self, run_id: str | None) -> Known | None:
        """What the store has of a run; `None` when it does not know it, as another store does."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if found.info.lifecycle_stage != "active":
            return None
        self.client.update_run(run_id, status="RUNNING")
        return Known(run_id, int(found.data.tags.get(ROUNDS, -1)), found.data.metrics)

    def _describe(self, run_id: str) -> None:
        """The settings as parameters, without paths of this machine."""
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in settings(self.config).items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(run_id, params=params[start : start + PARAMS], synchronous=True)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """One process at a time: two that make the tables of the same new store break each other.

    The lock is on a file in `place` that is open for writing, since NFS locks no folder.
    """
    with ExitStack() as opened:
        try:
            file = opened.enter_context((place / LOCK).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning(
                "--track mlflow: %s cannot be locked (%s): start runs of one folder one after "
                "another", LOCK, error.strerror or error,
            )  # fmt: skip
        yield


def address_of(file: Path) -> str:
    """The address of a SQLite file; only what would end or change the path in it is quoted."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def is_new(point: Point, known: Known) -> bool:
    """Whether the store lacks a point; test scores are compared: a row can be scored again."""
    if point.tag.startswith("test/"):
        return known.metrics.get(point.tag) != point.value
    return point.step > known.rounds


def read_ids(run: Path) -> dict[str, str]:
    """mlflow.json of a run directory: row -> identifier; empty when there is none."""
    try:
        ids = json.loads((run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(row): str(run_id) for row, run_id in ids.items()} if isinstance(ids, dict) else {}


def settings(config: RunConfig) -> dict[str, str]:
    """The settings that travel to sites: dotted key -> value, lists as JSON."""
    return dict(_flat(json.loads(config.for_sites()), ()))


def _flat(value: object, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(each, (*keys, part_of_tag(key)))
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        yield ".".join(keys), text[:LONGEST]
