"""summary.json of a run at real sites, in the form that a simulation's has.

It holds what the sites told: a site without test scores is in `sites` and in no row, and there is
no row that would need anybody's images in another place (alone, centralized).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from medsa_model.backbone import base_parameters
from medsa_model.build import Built
from medsa_model.checkpoint import write_json
from medsa_model.config import RunConfig
from medsa_model.data import GENERATED, VOLUMES
from medsa_model.logs import read_metrics
from medsa_model.privacy.summary import privacy_summary
from medsa_model.run_rows import (
    communication,
    foreground_mean,
    row,
    scores_on_test_cases,
    training_seconds,
)

FLOAT32 = 4  # bytes


def write_summary(run: Path, config: RunConfig, built: Built, sites: Sequence[str]) -> None:
    """Write `run`/summary.json from the metrics of its rounds and of its last evaluation.

    Args:
        run: its directory.
        config: its settings.
        built: its model, for the numbers of parameters.
        sites: all sites of the federation; those that sent test scores are added.
    """
    events = read_metrics(run)
    main = config.prompt.evaluate[0].name
    scores = dict(sorted(scores_on_test_cases(events).get(main, {}).items()))
    rows = {"federated": row(scores, training_seconds([run]))} if scores else {}
    full = FLOAT32 * base_parameters(config.model.backbone, config.model.frame)
    summary = {
        "name": config.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "sites": sorted({*sites, *scores}),
        "data": data_facts(config),
        "model": model_facts(config, built),
        "rows": rows,
        "foreground_mean": foreground_mean(rows["federated"]) if rows else None,
        "communication": communication(run, full),
        "privacy": privacy_summary(events),
    }
    write_json(run / "summary.json", summary)


def data_facts(config: RunConfig) -> dict[str, object]:
    """What the images of a run are; `generated` tells that they show no patients."""
    return {
        "kind": config.data.kind,
        "generated": config.data.kind in GENERATED,
        "structures": list(config.data.classes),
        "volumes": config.data.kind in VOLUMES,
    }


def model_facts(config: RunConfig, built: Built) -> dict[str, object]:
    """The backbone of a run, and how many parameters the model has and how many of them train."""
    return {
        "backbone": config.model.backbone,
        "base_sha256": built.manifest.base_sha256,
        "total_parameters": sum(p.numel() for p in built.model.parameters()),
        **trained_facts(built),
    }


def trained_facts(built: Built) -> dict[str, float | int]:
    """How many parameters train, and per cent of all."""
    total = sum(p.numel() for p in built.model.parameters())
    trained = sum(math.prod(shape) for shape in built.manifest.shapes.values())
    return {"trainable_parameters": trained, "trainable_percent": 100 * trained / total}
