"""What a site's patients may lose: checked and charged before any of them is trained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.config import Limits
from medsa_model.config import RunConfig
from medsa_model.errors import LedgerError
from medsa_model.logs import logger
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.ledger import Charge, Entry, Unit, charge, spent
from medsa_model.privacy.section import rounded_up
from medsa_model.refusals import Reason, Refused


@dataclass(frozen=True)
class Account:
    """A ledger after a charge: all its entries, and its epsilon by "rdp" at `delta`."""

    entries: tuple[Entry, ...]
    epsilon: float
    delta: float


def require_privacy(config: RunConfig, limits: Limits) -> None:
    """Refuse a run without differential privacy where the site has a limit of epsilon."""
    if limits.epsilon is not None and config.privacy is None:
        raise Refused(
            Reason.NO_PRIVACY,
            f"run {config.name!r} has no section privacy, but the site's limits.epsilon is "
            f"{limits.epsilon:g}",
        )


def charge_training(
    ledger: Path, limits: Limits, config: RunConfig, planned: NoisySteps, round_: int,
    patients: int, unit: Unit,
) -> Account:  # fmt: skip
    """Charge the `planned` steps of `round_` (0 is the first) to the ledger.

    Held are the smaller of the run's epsilon and the site's, over all runs of the ledger, by the
    upper bound "rdp" at the site's delta or, when it sets none, the smallest delta charged.
    `patients` are those that are trained on. Raises `Refused`, and then nothing is charged; what
    may not cross the wire is in the log.
    """
    privacy = config.privacy
    if privacy is None:
        raise ValueError("a run without a section privacy has nothing to charge")
    _check_delta(privacy.delta, limits.delta, patients)
    allowed = min(each for each in (privacy.epsilon, limits.epsilon, math.inf) if each is not None)
    account = Account((), math.nan, math.nan)

    def allow(entries: Sequence[Entry]) -> None:
        """Under the lock: two runs at once must not both take what is left for one."""
        nonlocal account
        if not entries:
            logger.warning(
                "the privacy ledger %s is begun: no earlier run counts. If these patients were "
                "trained on before, stop, and give ledger in the site YAML that run's file", ledger,
            )  # fmt: skip
        delta = limits.delta or min([privacy.delta, *(e.charge.delta for e in entries)])
        total = epsilon([*spent(entries), planned], delta)
        if not total <= allowed or math.isinf(total):
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
        account = Account(tuple(entries), total, delta)

    what = Charge(
        config.name, config.sha256, round_, planned.noise_multiplier, planned.sampling_rate,
        planned.steps, privacy.clip_norm, privacy.delta, unit,
    )  # fmt: skip
    try:
        entry = charge(ledger, what, allow)
    except LedgerError as error:
        logger.error("%s", error)
        raise Refused(
            Reason.LEDGER, "it cannot be read or written, so nothing was trained; the site's log "
            "says why and what its engineer has to do",
        ) from error  # fmt: skip
    return Account((*account.entries, entry), account.epsilon, account.delta)


def _check_delta(delta: float, limit: float | None, patients: int) -> None:
    """With a delta of one over their number, giving a whole patient away would be allowed."""
    # in tens, as the number is told anyway: the refusal must not tell more
    if patients < 1 or delta * rounded_up(patients) >= 1:
        logger.error("privacy.delta is %g, expected less than 1/%d: there are as many training "
                     "patients", delta, rounded_up(patients))  # fmt: skip
        raise Refused(
            Reason.OVER_LIMIT,
            f"privacy.delta is {delta:g}, expected less than one over the number of the site's "
            "training patients; choose a smaller one",
        )
    if limit is not None and delta > limit:
        raise Refused(
            Reason.OVER_LIMIT, f"privacy.delta is {delta:g}, the site's limits.delta {limit:g}"
        )
