"""A run directory as the report reads it: whatever is there, nothing that is damaged.

A run that died while writing leaves half a line or half a file. Those are left out, and files
that could not be read are named on the page.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from medsa_model.audit_log import NAME as AUDIT
from medsa_model.audit_log import read
from medsa_model.data import GENERATED, VOLUMES
from medsa_model.errors import AuditError
from medsa_model.report_values import Json, case_count, mapping, number
from medsa_model.run_rows import row, scores_on_test_cases

# by line, as in `Run.configured`: `kind` is indented by less than what lies in a section of `data`
DATA_KIND = re.compile(
    r"^data:[ \t]*(?:#.*)?\r?\n(?:[ \t]+.*\n)*?  kind:[ \t]*([\w-]+)", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """The content of a run directory; what is not there is empty.

    `report` is report.json, `examples` is examples/examples.json, `joined` has of each site that
    introduced itself the numbers of its cases, `problems` names damaged files.
    """

    folder: Path
    config: str
    versions: Json
    split: Json
    summary: Json
    report: Json
    events: list[Json]
    examples: list[Json]
    joined: dict[str, Json]
    problems: list[str]

    @property
    def finished(self) -> bool:
        """Whether the run got as far as its summary."""
        return isinstance(self.summary.get("rows"), dict)

    @property
    def simulated(self) -> bool:
        """Whether the run says that it is a simulation; only then may the page show cases."""
        return self.report.get("simulated") is True

    def of(self, kind: str) -> list[Json]:
        """The events of one kind, in the order they were written."""
        return [event for event in self.events if event.get("event") == kind]

    def configured(self, key: str) -> str:
        """A top-level value of the configuration, as text.

        Read by line: the page must also be made when the configuration is not valid any more.
        """
        found = re.search(rf"^{key}:[ \t]*([^#\r\n]+)", self.config, re.MULTILINE)
        return found[1].strip().strip("\"'") if found else ""


def read_run(folder: Path) -> Run:
    """Read every file of a run directory that the report knows."""
    problems: list[str] = []
    examples = _read_json(folder / "examples" / "examples.json", problems)
    return Run(
        folder,
        _read_text(folder / "config.yaml"),
        mapping(_read_json(folder / "versions.json", problems)),
        mapping(_read_json(folder / "split.json", problems)),
        mapping(_read_json(folder / "summary.json", problems)),
        mapping(_read_json(folder / "report.json", problems)),
        list(_events(_read_text(folder / "metrics.jsonl"))),
        [mapping(entry) for entry in examples] if isinstance(examples, list) else [],
        _joined(folder / AUDIT),
        problems,
    )


def _joined(log: Path) -> dict[str, Json]:
    """Site -> numbers of its cases by part, as it said when it came last; only real runs have it.

    Nothing here checks that the log is whole: `flower-server audit` does.
    """
    try:
        entries = [entry for entry in read(log) if entry.event == "joined"]
    except AuditError:
        return {}
    return {str(entry.facts.get("site")): mapping(entry.facts.get("cases")) for entry in entries}


def _read_text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _read_json(path: Path, problems: list[str]) -> object:
    if not path.is_file():
        return None
    try:
        return json.loads(_read_text(path))
    except ValueError:
        problems.append(path.name)
        return None


def _events(text: str) -> Iterator[Json]:
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def last_change(run: Run) -> datetime:
    """When the run last wrote something: by its last event, else by its files, in local time."""
    for event in reversed(run.events):
        try:
            return datetime.fromisoformat(event["time"]).astimezone()
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    names = ("summary.json", "metrics.jsonl", "config.yaml")
    there = [path for name in names if (path := run.folder / name).is_file()]
    return datetime.fromtimestamp((there or [run.folder])[0].stat().st_mtime)


def data_in_words(run: Run) -> str:
    """What the run's data are, "" when unknown; whoever reads numbers has to know if patients."""
    kind = _kind_of_data(run)
    if painted(run):
        return f"{kind} (painted, no patients)"
    what = "CT volumes" if of_volumes(run) else "images"
    count = count_of_structures(run)
    told = f", {count} structure{'' if count == 1 else 's'}" if count else ""
    return f"{kind}: {what}{told}" if kind else ""


def painted(run: Run) -> bool:
    """Whether the data are known to be painted, so that no patient is in them."""
    data = mapping(run.summary.get("data"))
    return data.get("generated", _kind_of_data(run) in GENERATED) is True


def of_volumes(run: Run) -> bool:
    """Whether the data are known to be volumes."""
    return mapping(run.summary.get("data")).get("volumes", _kind_of_data(run) in VOLUMES) is True


def count_of_structures(run: Run) -> int:
    """How many structures are segmented, 0 when unknown."""
    names = mapping(run.summary.get("data")).get("structures")
    return len(names) if isinstance(names, list) else 0


def _kind_of_data(run: Run) -> str:
    found = DATA_KIND.search(run.config)
    return str(mapping(run.summary.get("data")).get("kind") or (found[1] if found else ""))


def main_prompt(run: Run) -> str:
    """The prompt that comes first in report.json, else in the evaluations; "" when unknown."""
    named = list(mapping(run.report.get("prompts")))
    named += [str(event["prompt"]) for event in run.of("evaluate") if event.get("prompt")]
    return named[0] if named else ""


def rows_by_prompt(run: Run) -> dict[str, Json]:
    """Prompt -> row -> ROW, main prompt first; its rows are those of summary.json.

    Those of other prompts are in report.json, which a simulation has, else in the events.
    """
    prompts = mapping(run.report.get("prompts"))
    found = {name: mapping(mapping(entry).get("rows")) for name, entry in prompts.items()}
    if run.finished and not run.simulated and not found:
        found = _rows_of_events(run)
    if run.finished:
        found = {main_prompt(run): {}} | found
        found[main_prompt(run)] = mapping(run.summary["rows"])
    return {name: rows for name, rows in found.items() if rows}


def _rows_of_events(run: Run) -> dict[str, Json]:
    try:
        scores, seconds = scores_on_test_cases(run.events), seconds_of_rounds(run)
        return {prompt: {"federated": row(each, seconds)} for prompt, each in scores.items()}
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # not as the coordinator writes
        return {}


def seconds_of_rounds(run: Run) -> float:
    """How long all rounds took; one that was repeated after an interruption counts once."""
    return sum({e.get("round"): number(e.get("seconds")) or 0.0 for e in run.of("round")}.values())


def sites_of(run: Run) -> list[str]:
    """All sites that the run knows of: by its summary, its split, and who introduced itself."""
    named = run.summary.get("sites")
    told = [str(site) for site in named] if isinstance(named, list) else []
    return list(dict.fromkeys([*told, *mapping(run.split.get("sites")), *run.joined]))


def references(run: Run, prompt: str) -> Json:
    """Reference -> ROW for one prompt."""
    named = mapping(run.report.get("references"))
    return {name: mapping(each)[prompt] for name, each in named.items() if prompt in mapping(each)}


def cross_site(run: Run) -> dict[str, Json]:
    """Prompt -> model -> site of the cases -> Dice."""
    found = mapping(run.report.get("cross_site"))
    found = found or {main_prompt(run): mapping(run.summary.get("cross_site"))}
    return {prompt: mapping(matrix) for prompt, matrix in found.items() if mapping(matrix)}


def test_cases(run: Run) -> dict[str, int]:
    """Site -> number of test cases."""
    sites = mapping(run.split.get("sites"))
    return {site: case_count(mapping(parts).get("test")) for site, parts in sites.items()}


def rounds_done(run: Run) -> int:
    """The last round that is complete, or was at least begun when none says that it is."""
    events = run.of("round") or run.events
    return max((int(number(event.get("round")) or 0) for event in events), default=0)
