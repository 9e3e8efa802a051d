"""`report.html`: overlays, sizes and scores on one page, for the site that the images belong to.

The page is one file and may load nothing: overlays are inside it, a content security policy forbids
the rest. It has the look and the script of a run's report.
"""

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from medsa_model.predict.case import Answer
from medsa_model.predict.results import PAGE, Size, picture_bytes, write_whole
from medsa_model.predict.scores import Metrics
from medsa_model.report_tables import Cell, Table
from medsa_model.report_values import MISSING, score
from medsa_model.trained import Trained

TEMPLATES = Path(__file__).parent.parent / "templates"


def write_page(
    out: Path, answers: Sequence[Answer], problems: Mapping[str, str], trained: Trained,
    round_: int | None,
) -> None:  # fmt: skip
    """Write the page beside the overlays, which must be there. Raises `DataError` when it cannot.

    Overlays are in it as JPEG, which takes a tenth of the memory and of the file.
    """
    script = (TEMPLATES / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    task = trained.task
    scored = any(answer.metrics for answer in answers)
    page = environment.get_template("prediction.html.j2").render(
        style=(TEMPLATES / "report.css").read_text("utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        facts=_facts(trained, round_),
        problems=list(problems.values()),
        tables=([_means(answers)] if scored else []) + [sizes_table(answers, scored)],
        scored=scored,
        volumes=task.volumes,
        cases=[
            {"name": a.source.case, "address": _address(out / a.overlay), "words": _words(a)}
            for a in answers
        ],
    )
    write_whole(out / PAGE, page.encode("utf-8", "xmlcharrefreplace"))


def sizes_table(answers: Sequence[Answer], scored: bool) -> Table:
    """A row for each structure of each case."""
    volumes = any(answer.source.is_volume for answer in answers)
    header = ["Case", "Structure"]
    header += ["Volume (ml)", "Largest slice (mm²)", "Its number"] if volumes else ["Pixels"]
    header += ["Dice", "IoU"] if scored else []
    rows = []
    for answer in answers:
        for size, metrics in _with_metrics(answer):
            cells = [Cell(size.case), Cell(size.structure, style="text")]
            if volumes:
                cells += [
                    _cell(size.volume_mm3 and size.volume_mm3 / 1000, "{:,.1f}"),
                    _cell(size.area_mm2, "{:,.0f}"), _cell(size.largest_slice, "{:d}"),
                ]  # fmt: skip
            else:
                cells.append(_cell(size.voxels, "{:,}"))
            if scored:
                cells += [_score(metrics, "Dice"), _score(metrics, "IoU")]
            rows.append([*cells, Cell(size.prompt, style="text")])
    return Table("Sizes" if scored else "", [*header, "Prompt"], rows)


def _means(answers: Sequence[Answer]) -> Table:
    """Mean Dice of each structure over the cases in which it is found or labelled."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        for size, metrics in _with_metrics(answer):
            if metrics and not math.isnan(metrics["Dice"]):
                found.setdefault(size.structure, []).append(metrics["Dice"])
    rows = [
        [Cell(name), Cell(score(fmean(dice)), fmean(dice)), Cell(score(min(dice)), min(dice)),
         Cell(str(len(dice)), len(dice))]
        for name, dice in found.items()
    ]  # fmt: skip
    return Table("Dice against the labels", ["Structure", "Mean", "Lowest", "Cases"], rows)


def _with_metrics(answer: Answer) -> list[tuple[Size, Metrics | None]]:
    """Each size with the metrics of its structure, where there are any."""
    metrics = [*answer.metrics.values()] if answer.metrics else [None] * len(answer.sizes)
    return list(zip(answer.sizes, metrics, strict=True))


def _cell(value: float | None, form: str) -> Cell:
    return Cell(MISSING) if value is None else Cell(form.format(value), value)


def _score(metrics: Metrics | None, name: str) -> Cell:
    value = metrics[name] if metrics else math.nan
    return Cell(MISSING) if math.isnan(value) else Cell(score(value), value)


def _words(answer: Answer) -> str:
    """The caption of a case."""
    parts = []
    for size, metrics in _with_metrics(answer):
        amount = f"{size.voxels:,} pixels"
        if size.volume_mm3 is not None:
            amount = f"{size.volume_mm3 / 1000:,.1f} ml"
        dice = f", Dice {_score(metrics, 'Dice').text}" if metrics else ""
        parts.append(f"{size.structure} {amount if size.voxels else 'nothing found'}{dice}")
    return " · ".join(parts)


def _facts(trained: Trained, round_: int | None) -> dict[str, str]:
    facts = {
        "Adapter": trained.manifest.sha256[:12],
        "Round": "" if round_ is None else str(round_),
        "Backbone": trained.model.backbone,
        "Structures": ", ".join(trained.task.structures),
        "Trained on prompts": ", ".join(trained.task.prompts),
    }
    return {key: value for key, value in facts.items() if value}


def _address(path: Path) -> str:
    """An overlay as a `data:` address."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        content = picture_bytes(picture.convert("RGB"), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
