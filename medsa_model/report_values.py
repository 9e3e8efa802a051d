"""How the report reads values that may be missing, and how it writes numbers.

A ROW is one entry of `rows` in summary.json: `{"dice": {"mean", "worst_site", "gap", "per_site"},
"iou": ..., "cases", "seconds"}`, of volumes also `hd95`, `nsd` and `structures`.
"""

import math
from typing import Any

Json = dict[str, Any]

ROW_LABELS = {
    "zero_shot": "Zero-shot",
    "local": "Alone (local)",
    "federated": "Federated",
    "centralized": "Centralized",
}
MARGIN = 0.01
"""Smallest difference of mean Dice that the report calls one. A standard error would need the
scores of single cases, which stay at their sites; a run knows the sites' means alone."""
MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def mapping(value: object) -> Json:
    """`value` if it is a dictionary, else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """`value` if it is a finite number, else None (NaN marks a score that does not exist)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def label(name: str) -> str:
    """A row's or reference's name in words."""
    return ROW_LABELS.get(name) or name.replace("_", " ")


def score(value: float | None) -> str:
    """A Dice or IoU with three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def millimetres(value: float | None) -> str:
    """A distance in mm with one decimal."""
    return MISSING if value is None else f"{value:,.1f}"


def signed(value: float | None) -> str:
    """A difference with three decimals and its sign."""
    if value is None:
        return MISSING
    return f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"


def difference(one: float | None, other: float | None) -> float | None:
    """`one - other` of the numbers as printed, so that a reader who subtracts finds the same."""
    return None if one is None or other is None else round(round(one, 3) - round(other, 3), 3)


def direction(gain: float | None) -> int:
    """1 or -1 for a difference of at least `MARGIN`, else 0."""
    return 0 if gain is None or abs(gain) < MARGIN else 1 if gain > 0 else -1


def human_bytes(count: float) -> str:
    """`635 kB (635,012 bytes)`; 1 kB = 1000 bytes."""
    shown = short_bytes(count)
    return shown if count < 1000 else f"{shown} ({count:,.0f} bytes)"


def short_bytes(count: float) -> str:
    """`635 kB`; 1 kB = 1000 bytes."""
    if count < 1000:
        return f"{count:,.0f} bytes"
    power = 1
    while power < 4 and count / 1000**power >= 999.5:
        power += 1
    return f"{count / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def duration(seconds: float | None) -> str:
    """`3.1 s`, `12 min 5 s`, `2 h 10 min`."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def mean_dice(row: object) -> float | None:
    """Mean Dice of a ROW."""
    return mean_of(row, "dice")


def mean_of(row: object, metric: str) -> float | None:
    """Mean of a metric of a ROW; `hd95` (mm) and `nsd` are of volumes alone."""
    return number(mapping(mapping(row).get(metric)).get("mean"))


def worst_dice(row: object) -> float | None:
    """Dice of the worst site of a ROW."""
    return number(mapping(mapping(row).get("dice")).get("worst_site"))


def site_dice(row: object) -> Json:
    """Dice of each site of a ROW."""
    return mapping(mapping(mapping(row).get("dice")).get("per_site"))


def in_order(rows: Json) -> Json:
    """The rows that are there, zero-shot to centralized, then others."""
    names = [name for name in ROW_LABELS if name in rows]
    return {name: rows[name] for name in names + [name for name in rows if name not in names]}


def site_names(rows: Json) -> list[str]:
    """Every site of any row, in the order of the files."""
    return list(dict.fromkeys(site for row in in_order(rows).values() for site in site_dice(row)))


def case_count(cases: object) -> int:
    """The length of a list of cases; a number stands for itself."""
    return len(cases) if isinstance(cases, list) else int(number(cases) or 0)
