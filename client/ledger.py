"""`client/run.py ledger`: what a hospital's patients have paid for, by run and in all."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medsa_model.privacy.accounting import epsilon, tightest
from medsa_model.privacy.ledger import Entry, read_ledger, spent

HEADINGS = ("run", "rounds", "steps", "noise", "rate", "clipping", "unit", "last charge")

NOTHING_CHARGED = (
    "No differentially private training was charged. Training without differential privacy is not "
    "counted here and has no bound: see `client/run.py audit`."
)


def show_ledger(path: Path, limit: float | None, held_at: float | None, console: Console) -> None:
    """Print the ledger at `path`, its epsilon, and how much is left of the site's `limit`.

    `held_at` is the site's own delta; without one it is the smallest that was charged.

    Raises `LedgerError` when the ledger is damaged.
    """
    entries = read_ledger(path)
    if not entries:
        console.print(f"There is no ledger yet at {path}.", soft_wrap=True, highlight=False)
        lost, told = 0.0, NOTHING_CHARGED
    else:
        console.print(_table(entries))
        smallest = min(entry.charge.delta for entry in entries)
        delta, whose = (held_at, "limits.delta") if held_at else (smallest, "the smallest charged")
        lost = epsilon(spent(entries), delta)
        tighter, accountant = tightest(spent(entries), delta)
        told = (
            f"epsilon lost so far at delta {delta:g}, {whose}: "
            f"{lost:.3f} (rdp, which the limits are held against)"
        )
        told += f", {tighter:.3f} (prv, tighter)" if accountant == "prv" else ""
    console.print(told, soft_wrap=True, highlight=False)
    if limit is None:
        told = "the site's own limit (limits.epsilon): none, so runs alone set one"
    else:
        told = f"the site's own limit (limits.epsilon): {limit:g}, left {max(limit - lost, 0):.3f}"
    console.print(told, soft_wrap=True, highlight=False)


def _table(entries: Sequence[Entry]) -> Table:
    """A row for each run and way to train; equal rounds charged again are told apart."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        c = entry.charge
        key = (c.run, c.sha256, c.noise_multiplier, c.sampling_rate, c.clip_norm, c.unit)
        groups.setdefault(key, []).append(entry)
    table = Table(title="privacy ledger", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for charged in groups.values():
        rounds, last = len({entry.charge.round for entry in charged}), charged[-1]
        again = f", charged {len(charged)} times" if len(charged) > rounds else ""
        c = last.charge
        table.add_row(
            c.run, f"{rounds}{again}", str(sum(entry.charge.steps for entry in charged)),
            f"{c.noise_multiplier:.4g}", f"{c.sampling_rate:.4g}", f"{c.clip_norm:.4g}", c.unit,
            last.time,
        )  # fmt: skip
    return table
