"""What a site refuses: the rules of its own YAML against what the coordinator asks for.

Everything is checked before any image is read or any tensor reaches the model.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from client.config import Limits
from medsa_model import __version__
from medsa_model.build import Built
from medsa_model.config import RunConfig
from medsa_model.refusals import Reason, Refused

MEGABYTE = 10**6


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
    config: RunConfig, limits: Limits, classes: Sequence[str] | None, round_: int
) -> None:
    """Whether the site takes part in the run at all; `classes` are the site's structures.

    `round_` counts from 0. Raises `Refused`.
    """
    if limits.runs is not None and config.sha256 not in limits.runs:
        raise Refused(
            Reason.RUN_NOT_ALLOWED,
            f"run {config.name!r} has sha256 {config.sha256}; if the site agrees to it, its "
            "engineer adds that to limits.runs",
        )
    if classes is not None and tuple(classes) != tuple(config.data.classes):
        raise Refused(
            Reason.OTHER_CLASSES,
            f"the run asks for {', '.join(config.data.classes)}; this site's data has "
            f"{', '.join(classes)}, in this order",
        )
    if limits.rounds is not None and config.rounds > limits.rounds:
        raise Refused(Reason.OVER_LIMIT, f"{config.rounds} rounds, limit {limits.rounds}")
    if not 0 <= round_ <= config.rounds:
        raise Refused(Reason.OVER_LIMIT, f"round {round_} of a run of {config.rounds} rounds")


def check_training(config: RunConfig, limits: Limits, cases: int) -> None:
    """Whether the site trains in this round with its number of training `cases`."""
    if cases < limits.least_training_cases:
        raise Refused(
            Reason.TOO_FEW_CASES,
            f"fewer training cases than its limit {limits.least_training_cases}",
        )
    steps = config.train.steps_for(cases)
    if limits.steps is not None and steps > limits.steps:
        raise Refused(Reason.OVER_LIMIT, f"{steps} steps in a round, limit {limits.steps}")


def check_size(size_in_bytes: int, limits: Limits) -> None:
    """Whether an adapter state may be unpacked."""
    if limits.megabytes is not None and size_in_bytes > limits.megabytes * MEGABYTE:
        raise Refused(
            Reason.OVER_LIMIT,
            f"an adapter state of {size_in_bytes / MEGABYTE:.1f} MB, limit {limits.megabytes} MB",
        )


def check_model(built: Built, base_sha256: str, manifest_sha256: str) -> None:
    """Refuse to work with another backbone or other adapters than the coordinator's."""
    if built.manifest.base_sha256 != base_sha256:
        raise Refused(
            Reason.OTHER_BACKBONE,
            f"the coordinator's has sha256 {base_sha256[:16]}, this site's "
            f"{built.manifest.base_sha256[:16]}; both need the same file",
        )
    if built.manifest.sha256 != manifest_sha256:
        raise Refused(
            Reason.OTHER_ADAPTERS,
            f"the coordinator's manifest is {manifest_sha256[:16]}, this site's "
            f"{built.manifest.sha256[:16]}; both need the same version of fed-medsa",
        )
