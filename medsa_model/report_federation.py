"""The result of a run at real sites, in words and by site: the worst site first.

There nobody's data can be taken to another place, so that nothing says what a site's own model, or
one that was trained on all data, would have reached.
"""

from collections.abc import Mapping, Sequence

from medsa_model.figures import Curves
from medsa_model.report_tables import Cell, Table
from medsa_model.report_values import (
    MISSING,
    Json,
    mapping,
    mean_dice,
    millimetres,
    number,
    score,
    site_dice,
)

METRICS = {"dice": "Test Dice", "iou": "Test IoU", "hd95": "Test HD95 (mm)", "nsd": "Test NSD"}


def federation_in_words(
    prompts: dict[str, Json], sites: Sequence[str], validation: Mapping[int, float],
    participation: str, seed: str,
) -> list[str]:  # fmt: skip
    """Sentences for the top of the page; the first holds the numbers of the main prompt.

    Args:
        prompts: prompt -> row -> ROW, main prompt first.
        sites: all sites of the federation.
        validation: round -> mean Dice over the validation cases of all sites.
        participation: a sentence about who took part, or "".
        seed: as text, "" when unknown.
    """
    told = [_scores(prompt, rows["federated"]) for prompt, rows in prompts.items()
            if "federated" in rows]  # fmt: skip
    sentences = told or ["No site sent test scores."]
    known = site_dice(mapping(next(iter(prompts.values()), {})).get("federated"))
    if told and (silent := [site for site in sites if number(known.get(site)) is None]):
        sentences.append(f"No test scores came from {', '.join(silent)}.")
    if len(validation) > 1:
        first, last = min(validation), max(validation)
        best = max(validation, key=lambda turn: (validation[turn], -turn))
        sentences.append(
            f"Mean validation Dice: {score(validation[first])} after round {first}, "
            f"{score(validation[last])} after round {last}; the highest is "
            f"{score(validation[best])} after round {best}."
        )
    sentences += [participation] if participation else []
    sentences.append("No site's own model was evaluated: what federation adds is not known.")
    seeds = f"one run with seed {seed}" if seed else "one run"
    sentences.append(f"This is {seeds}; repeat it with other seeds before relying on small gains.")
    return sentences


def _scores(prompt: str, row: object) -> str:
    """Worst site: site_b, Dice 0.612; mean 0.701, best site: site_a, 0.750; 24 cases of 3 sites."""
    by_site = {site: value for site, each in site_dice(row).items()
               if (value := number(each)) is not None}  # fmt: skip
    asked = f"prompt {prompt}" if prompt else ""
    mean = score(mean_dice(row))
    if not by_site:
        return f"Mean test Dice {mean}" + (f" ({asked})." if asked else ".")
    worst, best = (choose(by_site, key=lambda site: by_site[site]) for choose in (min, max))
    cases = number(mapping(row).get("cases"))
    count = f"{len(by_site)} site{'' if len(by_site) == 1 else 's'}"
    of = count if cases is None else f"{cases:,.0f} test cases of {count}"
    return (
        f"Worst site: {worst}, Dice {score(by_site[worst])}; mean {mean}; best site: {best}, "
        f"{score(by_site[best])} ({', '.join(part for part in (of, asked) if part)})."
    )


def scores_by_site_table(
    prompt: str, row: Json, sites: Sequence[str], validation: Curves
) -> Table:  # fmt: skip
    """Dice of the last validation and the test scores of every site, the worst site first.

    Args:
        prompt: of the scores.
        row: the federated ROW.
        sites: all sites; one without scores is last.
        validation: site -> round -> Dice.
    """
    tested = {name: mapping(mapping(row.get(name)).get("per_site")) for name in METRICS}
    shown = [name for name in METRICS if tested[name] or name in ("dice", "iou")]
    last = max((turn for curve in validation.values() for turn in curve), default=None)
    header = ["Site", *(METRICS[name] for name in shown)]
    header += [] if last is None else [f"Validation Dice, round {last}"]
    body = []
    for site in dict.fromkeys([*sites, *tested["dice"], *validation]):
        cells = [Cell(site)]
        for name in shown:
            value = number(tested[name].get(site))
            cells.append(Cell(millimetres(value) if name == "hd95" else score(value), value))
        if last is not None:
            value = validation.get(site, {}).get(last)
            cells.append(Cell(score(value), value))
        body.append(cells)
    body.sort(key=lambda cells: (cells[1].sort is None, cells[1].sort or 0.0))
    return Table(f"Prompt: {prompt}" if prompt else "", header, body)


def cases_table(cases: Mapping[str, Mapping[str, object]]) -> Table:
    """How many cases each site said that it has."""
    body = []
    for site, parts in sorted(cases.items()):
        counts = [number(parts.get(part)) for part in ("train", "val", "test")]
        cells = [Cell(MISSING if n is None else f"{n:,.0f}", n) for n in counts]
        body.append([Cell(site), *cells])
    return Table("", ("Site", "Training", "Validation", "Test"), body)
