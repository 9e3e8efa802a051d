"""From a run directory to a page a person reads: `report.html` and `progress.png`.

The page is one file: figures and examples are inside it, and a content security policy forbids
loading or running anything else. Names, reasons and the configuration come from other sites; the
template escapes them. Case names and images appear only when `report.json` says that the run was
simulated.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medsa_model import report_run as runs
from medsa_model import report_tables as tables
from medsa_model.errors import CheckpointError
from medsa_model.figure_timeline import MOST_ROUNDS, draw_timeline
from medsa_model.figures import NARROW, WIDTH, draw_progress, draw_sites
from medsa_model.report_config import without_places
from medsa_model.report_costs import costs_of
from medsa_model.report_curves import curves, validation
from medsa_model.report_examples import address, examples_of
from medsa_model.report_federation import cases_table, federation_in_words, scores_by_site_table
from medsa_model.report_participation import (
    costs_table,
    incomplete_rounds_table,
    participation_in_words,
    quarantine_in_words,
    turns_table,
)
from medsa_model.report_result import references_in_words, result_in_words
from medsa_model.report_run import Run, read_run
from medsa_model.report_structures import structures_table
from medsa_model.report_timeline import Timeline, timeline_of
from medsa_model.report_values import (
    ROW_LABELS,
    Json,
    in_order,
    mapping,
    mean_of,
    number,
    score,
    site_dice,
    site_names,
)

TEMPLATES = Path(__file__).parent / "templates"
WIDTHS = (WIDTH, NARROW)  # of every figure, for a desk and for a telephone


def write_report(run: Path) -> Path:
    """Write `report.html` and `progress.png` into the run directory `run`, finished or not.

    Any of the directory's files may be missing; damaged ones are named on the page.

    Returns:
        The path of `report.html`.

    Raises:
        CheckpointError: `run` is not a directory.
    """
    if not run.is_dir():
        message = f"{run}: no such run directory; give the one that holds metrics.jsonl"
        raise CheckpointError(message)
    found = read_run(run)
    dice, mean = validation(found)
    loss = curves(found.of("train"), "loss")
    (run / "progress.png").write_bytes(draw_progress(dice, mean, loss, "png"))
    drawn = (
        [address(draw_progress(dice, mean, loss, "svg", wide), "svg+xml") for wide in WIDTHS]
        if dice or loss
        else []
    )
    page = run / "report.html"
    # A lone surrogate in a name cannot be encoded; it becomes a character reference.
    page.write_bytes(_render(found, drawn, mean).encode("utf-8", "xmlcharrefreplace"))
    return page


def _render(run: Run, drawn: list[str], mean: dict[int, float]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rejected = run.of("rejected")
    timeline = timeline_of(run.events, runs.sites_of(run))
    took_part = participation_in_words(timeline)
    return environment.get_template("report.html.j2").render(
        style=(TEMPLATES / "report.css").read_text("utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        curves=drawn,
        validated=bool(mean),
        run=run,
        split=tables.split_table(run.split) if run.split.get("sites") else None,
        cases=cases_table(run.joined) if run.joined and not run.split else None,
        rejected=tables.rejected_table(rejected) if rejected else None,
        quarantine=quarantine_in_words(run.events),
        examples=examples_of(run),
        painted=runs.painted(run),
        volumes=runs.of_volumes(run),
        structures=runs.count_of_structures(run),
        config=without_places(run.config),
        main_prompt=runs.main_prompt(run),
        took_part=took_part,
        **_head(run, mean, took_part),
        **_scores(run),
        **_sites(run, timeline),
        **costs_of(run),
    )


def _head(run: Run, mean: dict[int, float], took_part: str) -> Json:
    """Title, facts in one line, and the result in words."""
    done, prompt = runs.rounds_done(run), runs.main_prompt(run)
    rounds = str(run.summary.get("rounds") or run.configured("rounds"))
    seed = str(run.summary.get("seed", run.configured("seed")))
    facts = {
        "Kind": "simulation" if run.simulated else "federation" if run.joined else "",
        "Sites": str(len(run.joined)) if run.joined else "",
        "Data": runs.data_in_words(run),
        "Backbone": str(mapping(run.summary.get("model")).get("backbone", "")),
        "Rounds": rounds if run.finished else f"{done} of {rounds}" if rounds else str(done),
        "Seed": seed,
        "Date": f"{runs.last_change(run):%Y-%m-%d %H:%M}",
    }
    prompts = runs.rows_by_prompt(run)
    if run.simulated or any("federated" not in rows for rows in prompts.values()):
        references = {each: runs.references(run, each) for each in prompts}
        sentences = result_in_words(prompts, references, seed)
    else:
        sentences = federation_in_words(prompts, runs.sites_of(run), mean, took_part, seed)
    if not run.finished:
        sentences = [f"This run is not finished. Rounds recorded: {facts['Rounds']}."]
        if mean:
            latest = max(mean)
            asked = f" (prompt: {prompt})" if prompt else ""
            scored = f"mean validation Dice {score(mean[latest])}{asked}"
            sentences.append(f"After round {latest}: {scored}.")
        sentences += [took_part] if took_part else []
    folder = run.folder.resolve().name
    return {
        "name": str(run.summary.get("name") or run.configured("name") or folder),
        "facts": {key: text for key, text in facts.items() if text},
        "sentences": sentences,
    }


def _scores(run: Run) -> Json:
    """Tables of Dice and IoU, and the figure of the sites for the main prompt."""
    prompts, cases = runs.rows_by_prompt(run), runs.test_cases(run)
    main: Json = next(iter(prompts.values()), {})
    alone = not run.simulated and all(set(rows) == {"federated"} for rows in prompts.values())
    by_site = [
        scores_by_site_table(
            prompt, mapping(rows["federated"]), runs.sites_of(run), validation(run, prompt)[0]
        )
        if alone
        else tables.sites_table(prompt, rows, cases)
        for prompt, rows in prompts.items()
        if site_names(rows)
    ]
    sites = [row[0].text for row in by_site[0].rows] if by_site else []
    points = {
        name: {
            site: value
            for site, dice in site_dice(row).items()
            if (value := number(dice)) is not None
        }
        for name, row in in_order(main).items()
    }
    return {
        "alone": tables.prompts_table(prompts) if alone and prompts else None,
        "compared": [
            (
                None if alone else tables.rows_table(prompt, rows, runs.references(run, prompt)),
                structures_table(prompt, rows),
            )
            for prompt, rows in prompts.items()
        ],
        "has_surface": any(
            mean_of(row, "hd95") is not None for rows in prompts.values() for row in rows.values()
        ),
        "has_local": "local" in main,
        "has_references": bool(mapping(run.report.get("references"))),
        "references": references_in_words(mapping(run.report.get("references"))),
        "by_site": by_site,
        "sites_figure": [
            address(draw_sites(sites, points, next(iter(prompts)), wide), "svg+xml")
            for wide in (WIDTHS if sites else ())
        ],
        # Models for all sites alone would repeat the table of the sites.
        "cross_site": [
            tables.cross_site_table(prompt, matrix)
            for prompt, matrix in runs.cross_site(run).items()
            if not matrix.keys() <= ROW_LABELS.keys()
        ],
    }


def _sites(run: Run, timeline: Timeline) -> Json:
    """Who took part when, at what cost; the figure where it shows more than full rows."""
    there = bool(timeline.rounds and timeline.sites)
    costs = costs_table(timeline, run.events)
    # where all delivered always, a sentence says it
    by_site = [costs] if timeline.whole else [turns_table(timeline), costs]
    draw = there and not (run.simulated and timeline.whole)
    incomplete = incomplete_rounds_table(timeline)
    return {
        "timeline": [
            address(draw_timeline(timeline, wide), "svg+xml") for wide in (WIDTHS if draw else ())
        ],
        "more_rounds": max(0, len(timeline.rounds) - MOST_ROUNDS),
        "participation": by_site if there else [],
        "incomplete": incomplete if incomplete.rows else None,
    }
