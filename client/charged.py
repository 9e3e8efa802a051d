"""A site's privacy account as records: what it charges for a round, and what it tells of it."""

import math
from collections.abc import Sequence

from flwr.app import ConfigRecord

from client.hospital import Site, planned_steps
from client.privacy import charge_training
from medsa_model.config import RunConfig
from medsa_model.privacy.accounting import epsilon
from medsa_model.privacy.ledger import Entry, read_ledger, spent
from medsa_model.privacy.patients import patients_of
from medsa_model.refusals import Reason, Refused

TOLD = 512  # hashes of a ledger's last entries


def charge(site: Site, config: RunConfig, round_: int) -> dict[str, ConfigRecord]:
    """Charge the noisy steps of `round_` (0 is the first) before they are taken.

    Returns the records `privacy` and `ledger` of the answer. All in them is computed from the
    settings of runs, not from patients. Raises `Refused`, and then nothing was charged.
    """
    assert config.privacy is not None
    if site.ledger is None:
        raise Refused(Reason.LEDGER, "the site has none")
    planned = planned_steps(config)
    patients = patients_of(site.parts["train"])
    entry, bound = charge_training(
        site.ledger,
        site.limits.epsilon,
        config,
        planned,
        round_,
        len(patients),
        patients.unit,
        None,
    )
    entries = read_ledger(site.ledger)
    delta = min(each.charge.delta for each in entries)
    lost = epsilon(spent(entries), delta, "prv")
    facts = ConfigRecord({
        "epsilon": lost, "accountant": "prv", "epsilon_rdp": bound, "delta": delta,
        "unit": entry.charge.unit, "noise_multiplier": planned.noise_multiplier,
        "sampling_rate": planned.sampling_rate, "steps": planned.steps,
        "clip_norm": config.privacy.clip_norm,
    })  # fmt: skip
    assert math.isfinite(bound)
    return {"privacy": facts, "ledger": to_receipt(entries)}


def to_receipt(entries: Sequence[Entry]) -> ConfigRecord:
    """What the coordinator remembers of a ledger, to notice when it goes backwards."""
    hashes = [entry.hash for entry in entries[-TOLD:]]
    return ConfigRecord({"ledger": entries[-1].ledger, "entries": len(entries), "hashes": hashes})
