"""`--prompts FILE`: prompts for many cases, as CSV or JSON. All problems are told together.

CSV, with this header, in any order of columns; of a click x1 and y1 stay empty, of images z:

    case,structure,kind,x0,y0,x1,y1,z
    IMG_0001,lesion,click,120,85,,,
    IMG_0001,lesion,not,10,12,,,
    scan7,liver,box,60,40,180,150,33

Columns may be separated by semicolons, as spreadsheets write them where the comma is the decimal
sign; numbers may have that then.

JSON, any of the keys click, not and box in an entry; in a volume clicks have three numbers and
boxes five:

    {"IMG_0001": [{"structure": "lesion", "click": [120, 85], "not": [10, 12]}],
     "scan7": [{"structure": "liver", "box": [60, 40, 180, 150, 33]}]}

`structure` may be left empty where the adapter has only one. All entries of one structure and case
make one prompt. What a mark needs has to be there, and nothing may stand twice: a number in another
column than it was meant for, or an entry that hides another, would make a wrong mask.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from medsa_model.errors import ConfigError
from medsa_model.predict.asked import Given, Mark, problem_of, together
from medsa_model.predict.inputs import SHOWN
from medsa_model.shown import short
from medsa_model.task import Task

COLUMNS = ("case", "structure", "kind", "x0", "y0", "x1", "y1", "z")
MARKS: tuple[Mark, ...] = get_args(Mark)
NEEDED = {"click": ("x0", "y0"), "not": ("x0", "y0"), "box": ("x0", "y0", "x1", "y1")}
MOST_BYTES = 50_000_000
Prompts = dict[str, list[Given]]
Add = Callable[[str, str, object, str, object], None]


def read_prompts(path: Path, task: Task, cases: Collection[str]) -> Prompts:
    """Case -> what is asked there; raises `ConfigError` with all problems of the file.

    `cases` are those of the input: another name is a problem, too.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"--prompts {path}: over {MOST_BYTES / 1e6:g} MB; split the file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--prompts {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompts {path}: no UTF-8 text; save it as UTF-8") from error
    problems: list[str] = []
    found: Prompts = {}

    def add(where: str, case: str, structure: object, mark: str, numbers: object) -> None:
        said = _problem(case, structure, mark, numbers, task, cases)
        if said or not isinstance(numbers, list):
            problems.append(f"{where}: {said}")
            return
        number = task.structures.index(str(structure)) if structure else 0
        given = Given(number, _mark(mark), tuple(float(value) for value in numbers), case)
        found.setdefault(case, []).append(given)

    read_csv = partial(_read_csv, volumes=task.volumes)
    reader = _read_json if path.suffix.lower() == ".json" else read_csv
    reader(text, add, problems)
    for case, marks in found.items():
        if said := together(marks, task.structures, task.volumes):
            problems.append(f"case {case}: {said}")
    if problems:
        more = len(problems) - 2 * SHOWN
        lines = problems[: 2 * SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigError(
            "\n  ".join([f"--prompts {path.name}: {len(problems)} problem(s):", *lines])
        )
    return found


def _problem(
    case: str, structure: object, mark: str, numbers: object, task: Task, cases: Collection[str]
) -> str:
    """What is wrong with one entry; empty: nothing."""
    if case not in cases:
        return f"case {short(case)} is not in the input"
    if not structure and len(task.structures) > 1:
        return f"no structure; expected one of [{', '.join(task.structures)}]"
    if structure and structure not in task.structures:
        names = ", ".join(task.structures)
        return f"structure {short(structure)} is not known; expected one of [{names}]"
    if mark not in MARKS:
        return f"kind {short(mark)}; expected one of {', '.join(MARKS)}"
    plain = isinstance(numbers, list) and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers
    )
    if not plain or not isinstance(numbers, list):
        return f"{mark} is {short(numbers)}; expected numbers"
    return problem_of(_mark(mark), numbers, task.volumes)


def _mark(text: str) -> Mark:
    return next(mark for mark in MARKS if mark == text)


def _read_csv(text: str, add: Add, problems: list[str], volumes: bool) -> None:
    first = text.partition("\n")[0]
    between = ";" if ";" in first and "," not in first else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=between)
    header = tuple((name or "").strip() for name in reader.fieldnames or ())
    if (missing := [name for name in COLUMNS if name not in header]) and missing != ["z"]:
        problems.append(
            f"line 1: no column {', '.join(missing)}; expected the header {','.join(COLUMNS)}"
        )
        return
    reader.fieldnames = list(header)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                problems.append(f"{where}: more fields than the header has")
                continue
            values = {name: (row.get(name) or "").strip() for name in COLUMNS}
            if not any(values.values()):
                continue  # as spreadsheets leave them
            kind = values["kind"].lower()
            needed = [*NEEDED.get(kind, ()), *(["z"] if volumes and kind in NEEDED else [])]
            if empty := [name for name in needed if not values[name]]:
                problems.append(
                    f"{where}: {kind} without {', '.join(empty)}; expected numbers in "
                    f"{', '.join(needed)}"
                )
                continue
            cells = (values[name] for name in COLUMNS[3:] if values[name])
            numbers: list[object] = [
                _number(cell.replace(",", ".") if between == ";" else cell) for cell in cells
            ]
            if kind in ("click", "not") and (values["x1"] or values["y1"]):
                problems.append(f"{where}: {kind} with x1 or y1; expected x0, y0 (and z)")
                continue
            add(where, values["case"], values["structure"], kind, numbers)
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")


def _number(text: str) -> object:
    """The number that `text` is, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def _read_json(text: str, add: Add, problems: list[str]) -> None:
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        twice.extend(key for key, count in counts.items() if count > 1)
        return dict(pairs)

    try:
        content: Any = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        problems.append(f"line {line}: no JSON ({getattr(error, 'msg', type(error).__name__)})")
        return
    for key in dict.fromkeys(twice):
        lines = ", ".join(map(str, _lines_with(text, key)))
        problems.append(
            f"{f'line {lines}: ' if lines else ''}the key {short(key)} stands twice, which hides "
            "the first; expected one list with all entries of a case, and several entries for "
            "several marks"
        )
    if not isinstance(content, Mapping):
        problems.append('line 1: expected {"CASE": [{"structure": ..., "click": [x, y]}]}')
        return
    for case, entries in content.items():
        if not isinstance(entries, list):
            problems.append(f"case {short(case)}: expected a list of entries")
            continue
        for number, entry in enumerate(entries, 1):
            where = f"{_line_of(text, case)}case {short(case)}, entry {number}"
            if not isinstance(entry, dict) or not entry.keys() & set(MARKS):
                problems.append(f"{where}: expected some of the keys {', '.join(MARKS)}")
            elif unknown := sorted(entry.keys() - {"structure", *MARKS}):
                problems.append(f"{where}: unknown key {', '.join(map(short, unknown))}")
            else:
                for mark in MARKS:
                    if mark in entry:
                        add(where, case, entry.get("structure"), mark, entry[mark])


def _line_of(text: str, case: str) -> str:
    """The line on which the entries of a case begin, when the file has the name once as a key."""
    found = _lines_with(text, case)
    return f"line {found[0]}, " if len(found) == 1 else ""


def _lines_with(text: str, key: str) -> list[int]:
    written = json.dumps(key, ensure_ascii=False)
    return [n for n, line in enumerate(text.splitlines(), 1) if written in line]
