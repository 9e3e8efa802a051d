"""The tables of the report, where rows, sites or scores are missing."""

from typing import Any

from medsa_model.report_structures import structures_table
from medsa_model.report_tables import (
    Table,
    cross_site_table,
    rows_table,
    sites_table,
    split_table,
)

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def row(**per_site: float) -> dict[str, Any]:
    return {"dice": {"mean": 0.5, "per_site": per_site}}


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in cells] for cells in table.rows]


def test_rows_keep_their_order_and_references_follow() -> None:
    rows = {"federated": row(), "zero_shot": row(), "local": row()}
    table = rows_table("click", rows, {"otsu": row()})
    assert [cells[0].text for cells in table.rows] == [
        "Zero-shot",
        "Alone (local)",
        "Federated",
        "otsu",
    ]
    assert table.rows[-1][0].style == "reference"


def test_missing_scores_are_dashes() -> None:
    table = rows_table("", {"federated": {"dice": {"mean": float("nan")}}, "local": None}, {})
    assert texts(table) == [["Alone (local)", *[DASH] * 6], ["Federated", *[DASH] * 6]]


def test_gain_at_each_site_has_a_sign_and_a_direction() -> None:
    rows = {"local": row(a=0.8, b=0.8, c=0.8), "federated": row(a=0.9, b=0.7, c=0.8, d=0.9)}
    gains = [cells[-1] for cells in sites_table("click", rows, {"a": 12}).rows]
    assert [cell.text for cell in gains] == ["+0.100", f"{MINUS}0.100", "0.000", DASH]
    assert [cell.style for cell in gains] == ["gain", "loss", "", ""]


def test_cross_site_shades_by_the_dice_itself_and_marks_own_sites() -> None:
    matrix = {"a": {"a": 0.9, "b": 0.5}, "b": {"a": 0.7}, "federated": {"a": 0.9, "b": 0.9}}
    rows = cross_site_table("click", matrix).rows
    assert [cell.shade for cell in rows[0][1:]] == [0.9, 0.5]
    assert [cell.style for cell in rows[0][1:]] == ["own", ""]
    assert rows[1][1].shade == 0.7
    assert rows[1][2].text == DASH
    assert rows[2][0].text == "Federated model"


def test_a_score_that_does_not_exist_has_no_shade() -> None:
    assert cross_site_table("", {"a": {"a": float("nan")}}).rows[0][1].shade is None


def test_what_does_not_train_has_no_training_time() -> None:
    rows = {"zero_shot": row() | {"seconds": 0.0}, "federated": row() | {"seconds": 75.0}}
    cells = [cells[-1] for cells in rows_table("", rows, {"otsu": row() | {"seconds": 0.0}}).rows]
    assert [cell.text for cell in cells] == [DASH, "1 min 15 s", DASH]
    assert [cell.sort for cell in cells] == [None, 75.0, None]


def test_split_shows_counts() -> None:
    split = {"sites": {"a": {"train": ["x", "y"], "val": [], "test": 1200}, "b": {}}}
    assert texts(split_table(split)) == [["a", "2", "0", "1,200"], ["b", "0", "0", "0"]]


def test_no_classes_no_table() -> None:
    assert structures_table("click", {"federated": row(a=0.5)}) is None


def volume_row(dice: float, hd95: float) -> dict[str, Any]:
    scores = {"dice": dice, "hd95": hd95, "nsd": dice / 2, "cases": 7}
    return row(a=dice) | {
        "hd95": {"mean": hd95, "per_site": {"a": hd95}},
        "nsd": {"mean": dice / 2},
        "per_class": {"liver": dice},
        "structures": {"liver": scores},
    }


def test_surface_distances_have_columns_where_a_row_has_them() -> None:
    rows = {"federated": volume_row(0.8, 1234.56), "local": row(a=0.5)}
    table = rows_table("click", rows, {"ellipse": volume_row(0.6, 9.25)})
    at = table.header.index("HD95 mean (mm)")
    assert table.header[at + 1] == "NSD mean"
    assert [cells[at].text for cells in table.rows] == [DASH, "1,234.6", "9.2"]
    assert [cells[at + 1].text for cells in table.rows] == [DASH, "0.400", "0.300"]
    assert all(len(cells) == len(table.header) for cells in table.rows)
    assert "HD95 mean (mm)" not in rows_table("click", {"local": row(a=0.5)}, {}).header


def test_structures_have_all_of_the_federated_row_and_dice_of_the_others() -> None:
    rows = {"federated": volume_row(0.8, 12.34), "local": volume_row(0.7, 99.0)}
    rows["local"]["structures"]["aorta"] = {"dice": 0.25, "cases": 2}
    table = structures_table("box", rows)
    assert table is not None and table.caption == "Structures, prompt: box"
    assert table.header == [
        "Structure", "Cases", "Federated Dice", "HD95 (mm)", "NSD", "Alone (local) Dice",
    ]  # fmt: skip
    assert texts(table) == [
        ["liver", "7", "0.800", "12.3", "0.400", "0.700"],
        ["aorta", DASH, DASH, DASH, DASH, "0.250"],
    ]


def test_a_gain_below_the_margin_has_no_colour() -> None:
    rows = {"local": row(a=0.8, b=0.8), "federated": row(a=0.809, b=0.81)}
    gains = [cells[-1] for cells in sites_table("click", rows, {}).rows]
    assert [(cell.text, cell.style) for cell in gains] == [("+0.009", ""), ("+0.010", "gain")]
