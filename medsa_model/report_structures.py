"""The report's table of structures: which is found, and of volumes how far off its surface is."""

from medsa_model.report_tables import Cell, Table
from medsa_model.report_values import (
    MISSING,
    Json,
    in_order,
    label,
    mapping,
    millimetres,
    number,
    score,
)


def structures_table(prompt: str, rows: Json) -> Table | None:
    """Dice, of volumes HD95 and NSD, of the federated model by structure; Dice of the other rows.

    From `structures` of the rows, else from `per_class`, which has Dice alone; None without any.
    """
    found = {name: _by_structure(row) for name, row in in_order(rows).items()}
    names = dict.fromkeys(name for values in found.values() for name in values)
    if not names:
        return None
    first = "federated" if "federated" in found else next(iter(found))
    others = [name for name in found if name != first]
    surface = any("hd95" in scores for scores in found[first].values())
    header = ["Structure", "Cases", f"{label(first)} Dice"]
    header += ["HD95 (mm)", "NSD"] if surface else []
    body = []
    for name in names:
        scores = found[first].get(name, {})
        cases, dice, hd95, nsd = (
            number(scores.get(key)) for key in ("cases", "dice", "hd95", "nsd")
        )
        cells = [
            Cell(name),
            Cell(MISSING if cases is None else f"{cases:,.0f}", cases),
            Cell(score(dice), dice),
        ]
        if surface:
            cells += [Cell(millimetres(hd95), hd95), Cell(score(nsd), nsd)]
        values = [number(found[other].get(name, {}).get("dice")) for other in others]
        body.append([*cells, *(Cell(score(value), value) for value in values)])
    caption = f"Structures, prompt: {prompt}" if prompt else "Structures"
    return Table(caption, [*header, *(f"{label(other)} Dice" for other in others)], body)


def _by_structure(row: object) -> dict[str, Json]:
    structures = mapping(mapping(row).get("structures"))
    dice = mapping(mapping(row).get("per_class"))
    return {name: {"dice": value} for name, value in dice.items()} | {
        name: mapping(scores) for name, scores in structures.items()
    }
