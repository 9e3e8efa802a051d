"""A run directory as the coordinator of a real federation leaves it, with everything that happens.

Four rounds of four sites: `vienna` always delivers, `lyon` is silent in round 2 and away in round
3, `oslo` is rejected three times and put in quarantine, `rome` refuses and later trains.
"""

import json
from pathlib import Path
from typing import Any

from medsa_model.audit_log import NAME, record
from medsa_model.logs import append_metrics

SITES = ("lyon", "oslo", "rome", "vienna")
SECONDS = {1: 10.0, 2: 40.0, 3: 9.0, 4: 12.5}
REASON = "num-examples is 10<sup>9</sup>, expected 1 to 8"
TEST_DICE = {"vienna": 0.81254, "lyon": 0.7125, "rome": 0.9}
CASES = {"train": 8, "val": 2, "test": 3}


def write_real_run(folder: Path) -> Path:
    """Fill `folder`; the summary is written by hand, so that it tests no code."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("name: moles\nseed: 7\nrounds: 4\n")
    for site in SITES:
        record(folder / NAME, "joined", site=site, node="1", cases=CASES)
    for turn in range(1, 5):
        _round(folder, turn)
    for site, dice in TEST_DICE.items():
        _score(folder, 4, site, "test", dice)
    (folder / "summary.json").write_text(json.dumps(real_summary()))
    return folder


def real_summary() -> dict[str, Any]:
    """As `run_summary` writes it."""
    scores = {"mean": 0.80835, "worst_site": 0.7125, "gap": 0.1875, "per_site": TEST_DICE}
    row = {"dice": scores, "iou": scores, "cases": 9, "seconds": sum(SECONDS.values())}
    model = {
        "backbone": "vit_tiny", "base_sha256": "ab" * 32, "total_parameters": 2_800_000,
        "trainable_parameters": 158_753, "trainable_percent": 5.67,
    }  # fmt: skip
    sent = {"up_bytes_per_site_round": 1500, "down_bytes_per_site_round": 2500,
            "full_model_bytes": 11_200_000}  # fmt: skip
    data = {"kind": "isic", "generated": False, "structures": ["lesion"], "volumes": False}
    return {
        "name": "moles", "seed": 7, "rounds": 4, "sites": list(SITES), "data": data,
        "model": model, "rows": {"federated": row},
        "foreground_mean": {"Dice": 0.80835, "IoU": 0.80835}, "communication": sent,
        "privacy": None,
    }  # fmt: skip


def _round(folder: Path, turn: int) -> None:
    delivered = ["vienna"]
    if turn in (1, 4):
        delivered.append("lyon")
    if turn >= 3:
        delivered.append("rome")
    else:
        append_metrics(folder, "rejected", round=turn, site="rome", code="ERROR", what="update",
                       reason="the run asks for more than the site allows", refusal="OVER_LIMIT",
                       )  # fmt: skip
    for site in delivered:
        append_metrics(folder, "train", round=turn, site=site, loss=1 / turn, seconds=2.0 * turn,
                       waited=0.5 * turn, memory=10**9 + turn, up_bytes=1500, down_bytes=2500,
                       )  # fmt: skip
    if turn <= 3:
        append_metrics(folder, "rejected", round=turn, site="oslo", code="WEIGHT", what="update",
                       reason=REASON)  # fmt: skip
    if turn == 3:
        append_metrics(folder, "quarantined", round=turn, site="oslo")
    if turn == 2:
        append_metrics(folder, "missing", round=turn, site="lyon")
    _score(folder, turn, "vienna", "val", 0.2 * turn)
    append_metrics(folder, "round", round=turn, sites=sorted(delivered),
                   missing=sorted({*SITES} - {*delivered}), seconds=SECONDS[turn])  # fmt: skip


def _score(folder: Path, turn: int, site: str, part: str, dice: float) -> None:
    append_metrics(folder, "traffic", round=turn, site=site, part=part, empty=0, up_bytes=100,
                   down_bytes=2500)  # fmt: skip
    append_metrics(folder, "evaluate", round=turn, site=site, part=part, prompt="click", dice=dice,
                   iou=dice, cases=3, hd95=None, nsd=None, structures={})  # fmt: skip
