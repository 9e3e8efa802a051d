"""The model card of an adapter: what it is, for what, how well it does where, what is not known.

Numbers come from the files of the run around the adapter; what is in none of them is said to be
missing. Names and reasons come from other sites and are escaped for Markdown. Paths never appear.
"""

from collections.abc import Sequence

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medsa_model import __version__
from medsa_model.adapters import Lora
from medsa_model.backbone import base_parameters
from medsa_model.export.example_commands import commands_of
from medsa_model.export.markdown_text import escaped, table, table_of
from medsa_model.export.run_scores import FEDERATED, Origin, Scores, scores_of
from medsa_model.export.site_names import without_names
from medsa_model.privacy.summary import privacy_summary
from medsa_model.report import TEMPLATES
from medsa_model.report_run import Run, data_in_words
from medsa_model.report_tables import privacy_table, rejected_table
from medsa_model.report_values import (
    MISSING,
    Json,
    human_bytes,
    mapping,
    millimetres,
    number,
    score,
)
from medsa_model.sam import ARCHITECTURES
from medsa_model.trained import Trained

ON_THE_HUB = {
    "vit_b": "facebook/sam-vit-base", "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}  # fmt: skip
"""The official backbones under their names at Hugging Face, for the card's `base_model`."""
KINDS = {
    "msa": "Medical SAM Adapter (bottlenecks in a frozen backbone)",
    "lora": "LoRA (low-rank changes of a frozen backbone's attention)",
    "full": "none: every parameter was trained",
}
LISTED = 10
"""Most refused updates that a card lists one by one."""
IMAGES, VOLUMES = {"dice": score, "iou": score}, {"hd95": millimetres, "nsd": score}
HEADINGS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 (mm)", "nsd": "NSD"}


def model_card(
    trained: Trained, origin: Origin | None, remarks: Sequence[str] = (), names: bool = True
) -> str:
    """The text of README.md, Markdown with Hugging Face's YAML head.

    `origin` is what `find_origin` finds. `remarks` are paragraphs, already Markdown, on an adapter
    that comes from elsewhere. Without `names` sites are numbered.
    """
    if origin and not names:
        origin = without_names(origin)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False,  # the filter `text` escapes
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"text": escaped, "score": score}
    commands = commands_of(trained.task, trained.model)
    return environment.get_template("model_card.md.j2").render(
        version=__version__, remarks=remarks, task=trained.task, origin=origin, named_sites=names,
        manifest=trained.manifest, model=_model(trained, origin), commands=commands,
        training=_training(origin) if origin else None, scores=_scores(origin),
    )  # fmt: skip


def _model(trained: Trained, origin: Origin | None) -> Json:
    """Backbone, adapter and sizes."""
    section, adapter = trained.model, trained.adapter
    architecture = ARCHITECTURES[section.backbone]
    parameters = sum(tensor.numel() for tensor in trained.state.values())
    base = base_parameters(section.backbone, section.frame)
    whole = base if adapter.kind == "full" else base + parameters
    settings = adapter.model_dump(mode="json", exclude={"kind"}).items()
    versions = origin.run.versions if origin else {}
    rows = [
        ("Adapter", KINDS.get(adapter.kind, adapter.kind)),  # somebody's own kind has its name
        *((f"adapter.{key}", str(value).lower()) for key, value in settings),
        ("Parameters", f"{parameters:,}, {100 * parameters / whole:.2f} % of all"),
        ("Versions in training", ", ".join(f"{n} {v}" for n, v in versions.items()) or "not known"),
    ]
    return {
        "backbone": section.backbone,
        "random": section.weights == "random",
        "official": architecture.official_file,
        "base_model": ON_THE_HUB.get(section.backbone),
        "frame": section.frame,
        "full": adapter.kind == "full",
        "lora": isinstance(adapter, Lora),
        "table": table(["", ""], rows, 2),
    }


def _scores(origin: Origin | None) -> Json:
    """Test scores in words and tables, and where there are none validation scores in words."""
    tests = scores_of(origin, "test") if origin else []
    metrics = {**IMAGES, **VOLUMES} if _surface(tests) else IMAGES
    heading = [HEADINGS[metric] for metric in metrics]
    structures = [
        [each.prompt, name, values["cases"], *(form(values[key]) for key, form in metrics.items())]
        for each in tests
        for name, values in each.structures.items()
    ]
    federated = origin.run.of("train") if origin and origin.row == FEDERATED else []
    return {
        "tests": [_sentence(each, "test") for each in tests],
        "sites": table(
            ["prompt", "site", "cases", *heading],
            [row for each in tests for row in _site_rows(each, metrics)], 2,
        ),
        "structures": structures
        and table(["prompt", "structure", "cases with it", *heading], structures, 2),
        "surface": "hd95" in metrics,
        "silent": sorted(
            {str(event.get("site")) for event in federated}
            - {site for each in tests for site in each.sites}
        ),
        "validation": [_sentence(each, "validation") for each in scores_of(origin, "val")]
        if origin and not tests
        else [],
        "others": sorted(_tested_rounds(origin.run) - {origin.round}) if origin else [],
    }  # fmt: skip


def _surface(tests: Sequence[Scores]) -> bool:
    """Whether any score is of volumes."""
    return any(each.mean(metric) is not None for each in tests for metric in VOLUMES)


def _sentence(scores: Scores, part: str) -> str:
    """Mean and worst site with one prompt."""
    worst, sites = scores.worst("dice"), len(scores.sites)
    of_worst = f", worst site **{score(worst[1])}** ({escaped(worst[0])})" if worst else ""
    return (
        f"Prompt {escaped(scores.prompt)}: mean Dice **{score(scores.mean('dice'))}**{of_worst}, "
        f"{scores.cases:,} {part} cases of {sites} site{'' if sites == 1 else 's'}."
    )


def _site_rows(scores: Scores, metrics: Json) -> list[list[object]]:
    """Mean and worst site first, then every site."""
    worst = {metric: found[1] for metric in metrics if (found := scores.worst(metric))}
    rows: list[list[object]] = [
        ["mean", scores.cases, *(form(scores.mean(name)) for name, form in metrics.items())],
        ["worst site", "", *(form(worst.get(name)) for name, form in metrics.items())],
    ]
    for site, event in scores.sites.items():
        values = [form(scores.value(site, metric)) for metric, form in metrics.items()]
        rows.append([site, event.get("cases", MISSING), *values])
    return [[scores.prompt, *row] for row in rows]


def _training(origin: Origin) -> Json:
    """What the run says about itself."""
    run, config = origin.run, _config(origin.run)
    rounds = number(config.get("rounds"))
    sites = sorted({str(event.get("site")) for event in run.of("train")})
    simulated, federated = run.simulated or "sim" in config, origin.row == FEDERATED
    split, data, rejected = run.split.get("sha256"), data_in_words(run), run.of("rejected")
    how = "simulation on one machine" if simulated else "federation: images stayed at the sites"
    rows = [
        ("Run", run.summary.get("name") or config.get("name") or "not known"),
        ("How", how if federated else f"{how}; not federated, but row {origin.row} of it"),
        ("Data", data or "not known"),
        ("Sites", f"{len(sites)}: {', '.join(sites)}" if sites else "not known"),
        ("Round", f"{origin.round} of {rounds:.0f}" if rounds and federated else origin.round),
        ("Seed", config.get("seed", "not known")),
        ("Split, sha256", split or "not known" + ("" if simulated else ": each site has its own")),
        ("Answers refused", len(rejected) or "none"),
        *((f"Bytes, {what}", human_bytes(count)) for what, count in _bytes(run).items()
          if count and federated),
    ]  # fmt: skip
    return {
        "simulated": simulated,
        "painted": "painted" in data,
        "sites": sites,
        "table": table(["", ""], rows, 2),
        "rejected": rejected and table_of(rejected_table(rejected[:LISTED]), of_words=True),
        "unlisted": max(0, len(rejected) - LISTED),
        "problems": run.problems,
        **_privacy(run, config),
    }


def _config(run: Run) -> Json:
    """The run's configuration; empty when it cannot be read."""
    try:
        return mapping(yaml.safe_load(run.config))
    except yaml.YAMLError:
        return {}


def _tested_rounds(run: Run) -> set[int]:
    """The rounds whose adapters were scored on test cases."""
    events = [event for event in run.of("evaluate") if event.get("part") == "test"]
    return {int(turn) for each in events if (turn := number(each.get("round"))) is not None}


def _privacy(run: Run, config: Json) -> Json:
    """What was spent, as in summary.json; `private` says whether there was any: None is unknown."""
    try:
        spent = privacy_summary([*run.of("privacy"), *run.of("site_privacy")]) or {}
    except (LookupError, ValueError):  # lines that are damaged
        return {
            "private": None, "spent": {}, "privacy_table": "", "without": [], "site_level": "",
        }  # fmt: skip
    strategy = mapping(config.get("strategy")).get("kind")
    asked = bool(config.get("privacy")) or strategy == "private_fedavg"
    per_site, of_sites = mapping(spent.get("per_site")), mapping(spent.get("site_level"))
    epsilon, delta = number(of_sites.get("epsilon")), number(of_sites.get("delta"))
    return {
        "private": True if spent or asked else False if config else None,
        "spent": spent,
        "privacy_table": per_site and table_of(privacy_table(per_site)),
        "without": sorted({str(e.get("site")) for e in run.of("train")} - per_site.keys()),
        "site_level": f"epsilon {epsilon:.3f} at delta {delta:.2g}" if epsilon and delta else "",
    }


def _bytes(run: Run) -> dict[str, float]:
    """Bytes of messages, of what the events say."""
    found = {}
    for way, where in (("up", "from the sites"), ("down", "to the sites")):
        training = [number(event.get(f"{way}_bytes")) or 0 for event in run.of("train")]
        scoring = [number(event.get(f"{way}_bytes")) or 0 for event in run.of("traffic")]
        found[f"largest training message {where}"] = max(training, default=0)
        found[f"all messages {where}"] = sum(training) + sum(scoring)
    return found
