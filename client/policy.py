"""What a site refuses: the rules of its own YAML against what the coordinator asks for.

Everything is checked before any image is read or any tensor reaches the model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from client.config import Limits
from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.data import VOLUMES
from medsa_model.differences import differences
from medsa_model.logs import logger
from medsa_model.refusals import Reason, Refused
from medsa_model.shown import short
from medsa_model.state import Manifest

MEGABYTE = 10**6
SHOWN = 6  # settings in a message
SCORED = ("val", "test")
"""Parts whose cases may be scored: the training cases are not."""


def read_run(text: str, version: str) -> RunConfig:
    """The run as it travels; `version` is the coordinator's. Raises `Refused`."""
    try:
        return RunConfig.model_validate_json(text)
    except ValidationError as error:
        keys = sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()})
        raise Refused(
            Reason.OTHER_SETTINGS,
            f"{', '.join(keys[:5])}; the coordinator runs fed-medsa {version}, this site "
            f"{__version__}; use the same version",
        ) from error


def check_run(
    config: RunConfig, limits: Limits, classes: Sequence[str] | None, volumes: bool = False,
    agreed: Path | None = None,
) -> None:  # fmt: skip
    """Whether the site takes part in the run at all.

    `classes` are the site's structures; `volumes`, whether its cases have slices; `agreed` is the
    file of the settings that it agreed to, from its kit. Raises `Refused`.
    """
    if limits.runs is not None and config.sha256 not in limits.runs:
        raise Refused(
            Reason.RUN_NOT_ALLOWED,
            f"run {config.name!r} has sha256 {config.sha256}{_changed(config, agreed)}; if the "
            "site agrees to it, its engineer adds that sha256 to limits.runs of site.yaml and "
            "starts again",
        )
    if volumes != (config.data.kind in VOLUMES):
        ours, theirs = ("volumes", "2D images") if volumes else ("2D images", "volumes")
        raise Refused(
            Reason.OTHER_DATA,
            f"run {config.name!r} is for {theirs} (data.kind {config.data.kind}), the site's cases "
            f"are {ours}",
        )
    if classes is not None and tuple(classes) != tuple(config.data.classes):
        logger.error("the structures of this site's data are, in this order: %s",
                     ", ".join(classes))  # fmt: skip
        raise Refused(Reason.OTHER_CLASSES, _which_differ(config.data.classes, classes))
    if limits.rounds is not None and config.rounds > limits.rounds:
        raise Refused(Reason.OVER_LIMIT, f"{config.rounds} rounds, limit {limits.rounds}")


def _changed(config: RunConfig, agreed: Path | None) -> str:
    """Which settings are others than those agreed to, in words; empty when that is not known."""
    try:
        before = json.loads(agreed.read_text(encoding="utf-8")) if agreed else None
        found = differences(before, json.loads(config.for_sites())) if before else {}
    except (OSError, ValueError, AttributeError):
        return ""
    pairs = [f"{key} {short(old)}, now {short(new)}" for key, (old, new) in found.items()]
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return f"; changed since the kit was made: {'; '.join(pairs[:SHOWN])}{more}" if pairs else ""


def _which_differ(asked: Sequence[str], classes: Sequence[str]) -> str:
    """Which of the run's structures do not fit, by position; the site's own are not named."""
    known = [*classes[: len(asked)], *[None] * (len(asked) - len(classes))]
    pairs = enumerate(zip(asked, known, strict=True), start=1)
    differing = [f"{number} ({name})" for number, (name, ours) in pairs if name != ours]
    said = [f"the run asks for {', '.join(asked)}"]
    if differing:
        said.append(f"the site's data has others at {', '.join(differing)}")
    if len(classes) != len(asked):
        said.append(f"the site's data has {'more' if len(classes) > len(asked) else 'fewer'}")
    return "; ".join([*said, "their order matters, the site's log lists its own"])


def read_round(text: str) -> int:
    """The round that is asked for, 0 is the first; raises `Refused`."""
    if not text.isdecimal() or len(text) > 9:
        raise Refused(Reason.MESSAGE, f"round {short(text)}, expected a whole number")
    return int(text)


def check_part(part: str) -> None:
    """Whether cases of `part` may be scored; raises `Refused`."""
    if part not in SCORED:
        raise Refused(
            Reason.OVER_LIMIT, f"scores of part {short(part)}, expected {' or '.join(SCORED)}"
        )


def check_training(
    config: RunConfig, limits: Limits, cases: int, round_: int, volumes: bool = False
) -> None:
    """Whether the site trains in this round with its number of training `cases`, which may be
    `volumes`.

    `round_` counts from 0. Raises `Refused`.
    """
    if not 0 <= round_ < config.rounds:
        raise Refused(
            Reason.OVER_LIMIT, f"round {round_}, counted from 0, of a run of {config.rounds} rounds"
        )
    if cases < limits.least_training_cases:
        raise Refused(
            Reason.TOO_FEW_CASES,
            f"fewer training cases than its limit {limits.least_training_cases}",
        )
    steps = config.steps_for(cases)
    if limits.steps is not None and steps > limits.steps:
        raise Refused(Reason.OVER_LIMIT, f"{steps} steps in a round, limit {limits.steps}")
    images = config.images_for(cases, volumes)
    if limits.images is not None and images > limits.images:
        raise Refused(
            Reason.OVER_LIMIT,
            f"{images} images or slices in a round ({steps} steps), limit {limits.images}",
        )


def check_size(size_in_bytes: int, limits: Limits) -> None:
    """Whether an adapter state may be unpacked."""
    if limits.megabytes is not None and size_in_bytes > limits.megabytes * MEGABYTE:
        raise Refused(
            Reason.OVER_LIMIT,
            f"an adapter state of {size_in_bytes / MEGABYTE:.1f} MB, limit {limits.megabytes} MB",
        )


def check_model(manifest: Manifest, base_sha256: str, manifest_sha256: str) -> None:
    """Refuse to work with another backbone or other adapters than the coordinator's."""
    if manifest.base_sha256 != base_sha256:
        raise Refused(
            Reason.OTHER_BACKBONE,
            f"the coordinator's has sha256 {base_sha256[:16]}, this site's "
            f"{manifest.base_sha256[:16]}; both need the same file",
        )
    if manifest.sha256 != manifest_sha256:
        raise Refused(
            Reason.OTHER_ADAPTERS,
            f"the coordinator's manifest is {manifest_sha256[:16]}, this site's "
            f"{manifest.sha256[:16]}; both need the same version of fed-medsa",
        )
