"""What a site tells of its privacy account: the cost of a round, and a receipt of the ledger."""

from collections.abc import Sequence

from flwr.app import ConfigRecord

from client.hospital import Site, planned_steps
from client.privacy import Account, charge_training
from medsa_model.config import RunConfig
from medsa_model.privacy.accounting import tightest
from medsa_model.privacy.ledger import Entry, spent
from medsa_model.privacy.patients import patients_of
from medsa_model.refusals import Reason, Refused

TOLD = 512  # hashes of a ledger's last entries


def charge_round(site: Site, config: RunConfig, round_: int) -> Account:
    """Charge the noisy steps of `round_` (0 is the first); raises `Refused`, nothing is charged."""
    if site.ledger is None:
        raise Refused(Reason.LEDGER, "the site has none")
    patients = patients_of(site.parts["train"])
    return charge_training(
        site.ledger, site.limits, config, planned_steps(config), round_, len(patients),
        patients.unit,
    )  # fmt: skip


def told_of(account: Account, config: RunConfig, round_: int) -> dict[str, ConfigRecord]:
    """The records `privacy` and `ledger` of an answer, computed from the settings of runs alone.

    After the last round the tighter accountant is asked too.
    """
    charged = account.entries[-1].charge
    lost, accountant = account.epsilon, "rdp"
    if round_ + 1 == config.rounds:
        lost, accountant = tightest(spent(account.entries), account.delta)
    facts = ConfigRecord({
        "epsilon": lost, "accountant": accountant, "epsilon_rdp": account.epsilon,
        "delta": account.delta, "unit": charged.unit,
        "noise_multiplier": charged.noise_multiplier, "sampling_rate": charged.sampling_rate,
        "steps": charged.steps, "clip_norm": charged.clip_norm,
    })  # fmt: skip
    return {"privacy": facts, "ledger": to_receipt(account.entries)}


def to_receipt(entries: Sequence[Entry]) -> ConfigRecord:
    """What the coordinator remembers of a ledger, to notice when it goes backwards."""
    hashes = [entry.hash for entry in entries[-TOLD:]]
    return ConfigRecord({"ledger": entries[-1].ledger, "entries": len(entries), "hashes": hashes})
