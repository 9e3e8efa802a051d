"""The tables of `report.html` as plain data.

Every function takes dictionaries as they were read from the run directory and leaves out what is
not there: an interrupted run, or one at real hospitals, has fewer rows than a finished simulation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medsa_model.report_values import (
    MINUS,
    MISSING,
    ROW_LABELS,
    Json,
    case_count,
    difference,
    direction,
    duration,
    in_order,
    label,
    mapping,
    mean_of,
    millimetres,
    number,
    score,
    signed,
    site_dice,
    site_names,
)

DIRECTIONS = {1: "gain", -1: "loss", 0: ""}


@dataclass(frozen=True)
class Cell:
    """`text` is shown, `sort` orders the column, `shade` in [0, 1] colours the background.

    `style` is a class of report.css: a column of "text" is wrapped, one of "word" is not.
    """

    text: str
    sort: float | None = None
    shade: float | None = None
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each row being its heading."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def rows_table(prompt: str, rows: Json, references: Json) -> Table:
    """The comparison for one prompt; `references` map a name to its ROW for this prompt."""
    each = [*rows.values(), *references.values()]
    surface = any(mean_of(row, name) is not None for row in each for name in ("hd95", "nsd"))
    header = ["Model", "Dice mean", "Worst site", "Gap", "IoU mean"]
    header += ["HD95 mean (mm)", "NSD mean"] if surface else []
    header += ["Cases", "Training time"]
    body = [_row_cells(name, row, "", surface) for name, row in in_order(rows).items()]
    body += [_row_cells(name, row, "reference", surface) for name, row in references.items()]
    return Table(f"Prompt: {prompt}" if prompt else "", header, body)


def _row_cells(name: str, row: object, style: str, surface: bool) -> list[Cell]:
    dice = mapping(mapping(row).get("dice"))
    scores = [number(dice.get(key)) for key in ("mean", "worst_site", "gap")]
    scores.append(mean_of(row, "iou"))
    cells = [Cell(score(value), value) for value in scores]
    if surface:
        hd95, nsd = mean_of(row, "hd95"), mean_of(row, "nsd")
        cells += [Cell(millimetres(hd95), hd95), Cell(score(nsd), nsd)]
    cases, seconds = (number(mapping(row).get(key)) for key in ("cases", "seconds"))
    return [
        Cell(label(name), style="federated" if name == "federated" else style),
        *cells,
        Cell(MISSING if cases is None else f"{cases:,.0f}", cases),
        Cell(duration(seconds or None), seconds or None),  # of what does not train, it is 0
    ]


def sites_table(prompt: str, rows: Json, test_cases: Mapping[str, int]) -> Table:
    """Dice of every row at every site, and what federation adds to training alone."""
    ordered = in_order(rows)
    compared = "federated" in rows and "local" in rows
    header = ["Site", *(["Test cases"] if test_cases else []), *map(label, ordered)]
    body = []
    for site in site_names(rows):
        values = {name: number(site_dice(row).get(site)) for name, row in ordered.items()}
        cells = [Cell(site)]
        if test_cases:
            count = test_cases.get(site)
            cells.append(Cell(MISSING if count is None else f"{count:,}", count))
        cells += [Cell(score(value), value) for value in values.values()]
        if compared:
            gain = difference(values["federated"], values["local"])
            cells.append(Cell(signed(gain), gain, style=DIRECTIONS[direction(gain)]))
        body.append(cells)
    header += [f"Federated {MINUS} alone"] if compared else []
    return Table(f"Dice, prompt: {prompt}" if prompt else "Dice", header, body)


def cross_site_table(prompt: str, matrix: Json) -> Table:
    """Each model (row) on each site's test cases (column).

    Shaded by the Dice itself: from the lowest to the highest of a table, a hundredth would look
    like much.
    """
    sites = list(dict.fromkeys(site for scores in matrix.values() for site in mapping(scores)))
    body = []
    for model, scores in matrix.items():
        cells = [Cell(f"{label(model)} model" if model in ROW_LABELS else model)]
        for site in sites:
            value = number(mapping(scores).get(site))
            shade = None if value is None else min(max(value, 0.0), 1.0)
            cells.append(Cell(score(value), value, shade, "own" if site == model else ""))
        body.append(cells)
    return Table(f"Dice, prompt: {prompt}" if prompt else "Dice", ["Model of", *sites], body)


def split_table(split: Json) -> Table:
    """How many cases each site has; never which."""
    header = ("Site", "Training", "Validation", "Test")
    body = []
    for site, parts in mapping(split.get("sites")).items():
        counts = [case_count(mapping(parts).get(part)) for part in ("train", "val", "test")]
        body.append([Cell(site), *(Cell(f"{count:,}", count) for count in counts)])
    return Table("Cases", header, body)


def trained_table(trained: Json) -> Table:
    """What each row trains, in parameters and per cent of its model."""
    body = []
    for name, entry in trained.items():
        count = number(mapping(entry).get("trainable_parameters"))
        percent = number(mapping(entry).get("trainable_percent"))
        cells = [Cell(label(name)), Cell(MISSING if count is None else f"{count:,.0f}", count)]
        body.append([*cells, Cell(MISSING if percent is None else f"{percent:.2f} %", percent)])
    return Table("", ("Model", "Trainable parameters", "Share"), body)


def privacy_table(per_site: Json) -> Table:
    """The privacy that each site's patients have spent, and by what steps."""
    columns = {
        "epsilon": ("Epsilon", ".3f"), "epsilon_rdp": ("Upper bound (rdp)", ".3f"),
        "delta": ("Delta", ".2g"), "noise_multiplier": ("Noise", ".3f"),
        "sampling_rate": ("Sampling rate", ".3g"), "clip_norm": ("Clipping norm", ".3g"),
        "steps": ("Steps", ".0f"),
    }  # fmt: skip
    body = []
    for site, facts in per_site.items():
        spent = mapping(facts)
        cells = [Cell(site)]
        for key, (_, form) in columns.items():
            value = number(spent.get(key))
            cells.append(Cell(MISSING if value is None else f"{value:{form}}", value))
        told = str(spent.get("accountant", MISSING))
        body.append([*cells, Cell(told, style="text")])
    headings = [heading for heading, _ in columns.values()]
    return Table("", ("Site", *headings, "Accountant"), body)


def rejected_table(events: Iterable[Json]) -> Table:
    """Answers that were not used, and why; what came more than once for one reason is one line.

    The kind is the reason that the site itself gave, else the coordinator's code.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for event in events:
        kind = str(event.get("refusal") or event.get("code") or "").replace("_", " ").lower()
        key = (str(event.get("site", "")), str(event.get("what", "update")), kind,
               str(event.get("reason", "")))  # fmt: skip
        turn = number(event.get("round"))
        found.setdefault(key, []).extend([] if turn is None else [int(turn)])
    body = []
    for (*words, reason), turns in found.items():
        rounds = Cell(spans(turns) or MISSING, min(turns, default=None), style="word")
        body.append([rounds, *(Cell(text, style="word") for text in words),
                     Cell(reason, style="text")])  # fmt: skip
    return Table("", ("Rounds", "Site", "Answer", "Kind", "Reason"), body)


def spans(numbers: Iterable[int]) -> str:
    """`1-3, 7` for 1, 2, 3 and 7, with a dash for a range."""
    told: list[list[int]] = []
    for each in sorted({*numbers}):
        if told and told[-1][-1] == each - 1:
            told[-1] = [told[-1][0], each]
        else:
            told.append([each])
    return ", ".join(MISSING.join(map(str, span)) for span in told)


def prompts_table(prompts: dict[str, Json]) -> Table:
    """The federated model alone, one line a prompt: for runs that have no other row."""
    each = [rows["federated"] for rows in prompts.values()]
    surface = any(mean_of(row, name) is not None for row in each for name in ("hd95", "nsd"))
    header = ["Prompt", "Dice mean", "Worst site", "Gap", "IoU mean"]
    header += ["HD95 mean (mm)", "NSD mean"] if surface else []
    body = [
        [Cell(prompt), *_row_cells("federated", row, "", surface)[1:-1]]
        for prompt, row in zip(prompts, each, strict=True)
    ]
    return Table("", [*header, "Cases"], body)
