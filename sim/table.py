"""One table from several runs of the same comparison, with mean and deviation over seeds.

    python -m sim.table runs/isic-0 runs/isic-1 runs/isic-2

Prints Markdown. The runs differ in their seed, and in nothing that changes a row. References may
be missing in some of the runs: the table then says of how many it is.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from medsa_model.audit_log import NAME as AUDIT
from medsa_model.config import read_yaml
from medsa_model.differences import differences
from medsa_model.errors import CheckpointError, ConfigError, MedsaError

COLUMNS = ("mean", "worst_site", "gap")
MAY_DIFFER = {
    "seed", "data.root", "data.seed", "sim.references", "sim.examples", "sim.processes",
    "sim.device", "sim.workers", "sim.cache_megabytes", "sim.memory_gigabytes",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.table", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    options = parser.parse_args(arguments)
    try:
        reports = [read_report(run) for run in options.runs]
        check_comparable(options.runs)
        check_sites(reports, options.runs)
    except MedsaError as error:
        print(f"sim.table: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(tables(reports)))
    return 0


def read_report(run: Path) -> dict[str, Any]:
    """report.json of a finished run; raises `CheckpointError`."""
    try:
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{run} {_without_report(run)}") from error
    except NotADirectoryError as error:
        raise CheckpointError(f"{run} is a file; give directories of runs") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run}/report.json cannot be read: {error}") from error
    if not isinstance(report, dict):
        raise CheckpointError(f"{run}/report.json: expected keys and values, found something else")
    return report


def _without_report(run: Path) -> str:
    """What a path without a report.json is, in words."""
    if not run.exists():
        return "does not exist: no such folder; check the path"
    if (run / AUDIT).exists():
        return (
            "is a run at hospitals; sim.table takes runs of medsa-sim. Its scores are in "
            "report.html and summary.json"
        )
    if not (run / "config.yaml").exists():
        return "holds no run; give directories of runs of medsa-sim"
    return "has no report.json: the run is not finished; go on with it by --resume"


def check_sites(reports: Sequence[dict[str, Any]], runs: Sequence[Path]) -> None:
    """Raise `ConfigError` unless all runs have the same sites."""
    names = [
        sorted(dice_rows(r, next(iter(r["prompts"])))["federated"]["per_site"]) for r in reports
    ]
    for run, found in zip(runs, names, strict=True):
        if found != names[0]:
            raise ConfigError(
                f"{runs[0]} has the sites {', '.join(names[0])}, {run} has {', '.join(found)}; "
                "give runs on the same data"
            )


def check_comparable(runs: Sequence[Path]) -> None:
    """Raise `ConfigError` unless the runs are one configuration with different seeds."""
    first, *others = [read_yaml(run / "config.yaml") for run in runs]
    for run, config in zip(runs[1:], others, strict=True):
        if differing := sorted(differences(first, config).keys() - MAY_DIFFER):
            raise ConfigError(
                f"{runs[0]} and {run} are not the same comparison, they differ in "
                f"{', '.join(differing)}; give runs that differ in their seed alone"
            )
    seeds: dict[object, Path] = {}
    for run, config in zip(runs, [first, *others], strict=True):
        seed = config.get("seed")
        if seed in seeds:
            raise ConfigError(
                f"{seeds[seed]} and {run} have the same seed, {seed}; give each seed once"
            )
        seeds[seed] = run


def tables(reports: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table for each kind of prompt, and of several structures one more."""
    found = []
    for prompt in reports[0]["prompts"]:
        found.append(table(reports, prompt))
        if "structures" in reports[0]["prompts"][prompt]["rows"]["federated"]:
            found.append(structures_table(reports, prompt))
    return found


def structures_table(reports: Sequence[dict[str, Any]], prompt: str) -> str:
    """Dice of every row by structure, of volumes also HD95 and NSD of the federated one; means over
    the runs.
    """
    blocks = [report["prompts"][prompt]["rows"] for report in reports]
    rows = [name for name in blocks[0] if all(name in block for block in blocks)]
    volumes = all("hd95" in block[row] for block in blocks for row in rows)
    surface = {"hd95": "HD95 (mm), federated", "nsd": "NSD, federated"} if volumes else {}
    lines = [
        f"| {' | '.join(['structure', *rows, *surface.values()])} |",
        "|---" * (len(rows) + 1 + len(surface)) + "|",
    ]

    def mean(structure: str, row: str, metric: str) -> float:
        return fmean(block[row]["structures"][structure][metric] for block in blocks)

    everywhere = [
        structure for structure in blocks[0]["federated"]["structures"]
        if all(structure in block[row].get("structures", {}) for block in blocks for row in rows)
    ]  # fmt: skip
    for structure in everywhere:
        cells = [f"{mean(structure, row, 'dice'):.3f}" for row in rows]
        for metric, form in (("hd95", ".1f"), ("nsd", ".3f")) if volumes else ():
            cells.append(f"{mean(structure, 'federated', metric):{form}}")
        lines.append(f"| {structure} | {' | '.join(cells)} |")
    for metric, unit in (("hd95", " mm"), ("nsd", "")) if volumes else ():
        means = (f"{row} {fmean(b[row][metric]['mean'] for b in blocks):.3g}{unit}" for row in rows)
        lines.append(f"\nmean {metric.upper()}: {', '.join(means)}")
    return "\n".join(lines)


def table(reports: Sequence[dict[str, Any]], prompt: str) -> str:
    """Dice by row, mean ± standard deviation over the runs, and the paired margins."""
    rows = [dice_rows(report, prompt) for report in reports]
    sites = list(rows[0]["federated"]["per_site"])
    heading = ["row", "mean Dice", "worst site", "gap", *sites]
    lines = [
        f"**Prompt: {prompt}** ({len(reports)} seeds)",
        "",
        f"| {' | '.join(heading)} |",
        "|---" * len(heading) + "|",
    ]
    for name in dict.fromkeys(name for row in rows for name in row):
        found = [row[name] for row in rows if name in row]
        cells = [spread([values[column] for values in found]) for column in COLUMNS]
        cells += [f"{fmean(values['per_site'][site] for values in found):.3f}" for site in sites]
        of = "" if len(found) == len(rows) else f" ({len(found)} of {len(rows)} seeds)"
        lines.append(f"| {name}{of} | {' | '.join(cells)} |")
    if "local" in rows[0]:
        others = [report["local_on_other_sites"].get(prompt) for report in reports]
        if None not in others:
            lines.append(
                f"| local, on the other sites' cases | {spread(others)} {'| ' * len(heading[2:])}|"
            )
        for column, what in (("mean", "mean"), ("worst_site", "worst site")):
            margins = [row["federated"][column] - row["local"][column] for row in rows]
            listed = ", ".join(f"{margin:+.3f}" for margin in margins)
            lines.append(f"\nfederated - local, {what}, by seed: {listed}")
    return "\n".join(lines)


def dice_rows(report: dict[str, Any], prompt: str) -> dict[str, dict[str, Any]]:
    """The Dice block of every row and reference of a report."""
    rows = {n: row["dice"] for n, row in report["prompts"][prompt]["rows"].items()}
    references = report["references"].items()
    return rows | {n: by[prompt]["dice"] for n, by in references if prompt in by}


def spread(values: Sequence[float]) -> str:
    """`mean ± deviation`; the deviation needs two values."""
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
