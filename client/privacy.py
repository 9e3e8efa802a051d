"""What a site's patients may lose: checked and charged before any of them is trained on."""

import math
from collections.abc import Sequence
from pathlib import Path

from client.config import Limits
from medsa_model.config import RunConfig
from medsa_model.errors import LedgerError
from medsa_model.logs import logger
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.ledger import Charge, Entry, Receipt, Unit, charge, holds, spent
from medsa_model.refusals import Reason, Refused


def require_privacy(config: RunConfig, limits: Limits) -> None:
    """Refuse a run without differential privacy where the site has a limit of epsilon."""
    if limits.epsilon is not None and config.privacy is None:
        raise Refused(
            Reason.NO_PRIVACY,
            f"run {config.name!r} has no section privacy, but the site's limits.epsilon is "
            f"{limits.epsilon:g}",
        )


def charge_training(
    ledger: Path,
    limit: float | None,
    config: RunConfig,
    planned: NoisySteps,
    round_: int,
    patients: int,
    unit: Unit,
    receipt: Receipt | None,
) -> tuple[Entry, float]:
    """Charge the `planned` steps of `round_` (0 is the first) to the ledger; with its new epsilon.

    `limit` is the site's own, over all runs; the run's counts too, the smaller one is held. Epsilon
    is the upper bound "rdp" of the whole ledger at the smallest delta charged. `receipt` is what
    the coordinator remembers of the ledger; `patients`, those that are trained on.
    Raises `Refused`, and then nothing is charged; what may not cross the wire is in the log.
    """
    privacy = config.privacy
    if privacy is None:
        raise ValueError("a run without a section privacy has nothing to charge")
    _check_delta(privacy.delta, patients)
    limits = [each for each in (privacy.epsilon, limit) if each is not None]
    allowed, total = min(limits, default=math.inf), math.nan

    def allow(entries: Sequence[Entry]) -> None:
        """Under the lock: two runs at once must not both take what is left for one."""
        nonlocal total
        _check_receipt(entries, receipt)
        delta = min([privacy.delta, *(entry.charge.delta for entry in entries)])
        total = epsilon([*spent(entries), planned], delta)
        if not total <= allowed:
            logger.error(
                "run %s, round %d: the ledger's epsilon would be %.4f at delta %g, %g is allowed",
                config.name, round_ + 1, total, delta, allowed,
            )  # fmt: skip
            raise Refused(
                Reason.EPSILON,
                f"with round {round_ + 1} of run {config.name!r} their epsilon would be over "
                f"{allowed:g}, the smallest of privacy.epsilon and the site's limits.epsilon; "
                "earlier runs and repeated rounds count too; nothing was trained",
            )

    what = Charge(
        config.name, config.sha256, round_, planned.noise_multiplier, planned.sampling_rate,
        planned.steps, privacy.clip_norm, privacy.delta, unit,
    )  # fmt: skip
    try:
        return charge(ledger, what, allow), total
    except LedgerError as error:
        logger.error("%s", error)
        raise Refused(
            Reason.LEDGER, "it cannot be read or written, so nothing was trained; the site's log "
            "says why and what its engineer has to do",
        ) from error  # fmt: skip


def _check_delta(delta: float, patients: int) -> None:
    """With a delta of one over their number, giving a whole patient away would be allowed."""
    if patients < 1 or delta >= 1 / patients:
        logger.error("privacy.delta is %g, expected less than 1/%d: there are as many training "
                     "patients", delta, patients)  # fmt: skip
        raise Refused(
            Reason.OVER_LIMIT,
            f"privacy.delta is {delta:g}, expected less than one over the number of the site's "
            "training patients; choose a smaller one",
        )


def _check_receipt(entries: Sequence[Entry], receipt: Receipt | None) -> None:
    if receipt is None or holds(entries, receipt):
        return
    logger.error(
        "the privacy ledger went backwards: it has %d entries and not the one that the coordinator "
        "remembers, number %d of ledger %s with hash %s; was an old backup restored, or is another "
        "file named? Restore the latest one",
        len(entries), receipt.entries, receipt.ledger, receipt.hash,
    )  # fmt: skip
    raise Refused(
        Reason.LEDGER, f"it went backwards: entry {receipt.entries}, which the coordinator "
        "remembers, is not in it; the site's engineer has to restore the latest backup",
    )  # fmt: skip
