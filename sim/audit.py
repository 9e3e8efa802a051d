"""What `medsa-audit` does with its parsed options (`sim/audit_cli.py`).

Canaries take the way of patients through `private_steps`, with the noise, the sampling rate and
the clipping norm that the run has at a site, for all rounds together. `--membership` attacks small
models trained by `fit` and by `fit_privately`, which takes minutes (`sim/membership.py`): vit_tiny
in place of the run's backbone, with its adapters in all blocks and without depth.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from client.hospital import planned_steps
from medsa_model.checkpoint import write_json
from medsa_model.command_line import INTERRUPTED
from medsa_model.config import RunConfig, load_run
from medsa_model.data import VOLUMES
from medsa_model.errors import ConfigError
from medsa_model.logs import set_up
from medsa_model.privacy.accounting import NoisySteps, epsilon
from medsa_model.privacy.audit import Audit, audit
from sim.membership import attack, show_attack

LARGEST = {True: 40_000, False: 20_000}
"""Gradients of canaries in a run, by hooks or not: more would take longer than 20 seconds."""
SHOWS = (
    "An audit can refute a claim of privacy and cannot prove one: it gives lower bounds, of the "
    "attacks that it tries on the machine where it runs."
)


def audit_run(options: argparse.Namespace) -> int:
    """Do what `sim/audit_cli.py` understood; the exit code: 0 when all agrees with the claim."""
    try:
        set_up(False)
        config = load_run(options.config, options.override)
        check(config, options.config)
        console = Console(markup=False, emoji=False)
        planned, taken = audited_steps(config, options.canaries)
        result = run_audit(config, planned, taken, options.canaries, options.seeds)
        show(result, console)
        if options.membership:
            result["membership"] = attack(config)
            show_attack(result["membership"], console)
        console.print(f"Verdict: {result['verdict']}", highlight=False, soft_wrap=True)
        console.print(SHOWS, highlight=False, soft_wrap=True)
        if options.out:
            write_json(options.out, result)
    except KeyboardInterrupt:
        words = ["medsa-audit", "--config", str(options.config), *options.override]
        print(f"\nInterrupted. Begin again with: {shlex.join(words)}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if not error.filename:  # a full disk names no file
            error.filename = str(options.out or Path())
        raise
    return 1 if result["problems"] else 0


def check(config: RunConfig, path: Path) -> None:
    """Raise `ConfigError` for a run that promises nothing which could be audited."""
    if config.privacy is None:
        raise ConfigError(
            f"{path.name} has no section privacy, so it promises nothing that could be audited: "
            'add "privacy: {epsilon: 8}" to it, or privacy.epsilon=8 to the command'
        )
    if not config.rounds:
        raise ConfigError(f"{path.name}: rounds is 0, so nobody is trained on; expected 1 or more")


def audited_steps(config: RunConfig, canaries: int) -> tuple[NoisySteps, list[int]]:
    """What a round is charged, and the steps of every round that are audited.

    All rounds, but no more steps than `LARGEST` gradients of half of the canaries take.
    """
    planned = planned_steps(config)
    each = planned.sampling_rate * canaries / 2
    left = max(1, int(LARGEST[by_hooks(config)] / each))
    taken = []
    for _ in range(config.rounds):
        taken.append(min(planned.steps, left))
        left -= taken[-1]
        if not left:
            break
    return planned, taken


def by_hooks(config: RunConfig) -> bool:
    """Whether patients of this run are computed together, as `fit.uses_hooks` decides it."""
    assert config.privacy is not None
    return config.privacy.method != "loop" and config.data.kind not in VOLUMES


def run_audit(
    config: RunConfig, planned: NoisySteps, taken: Sequence[int], canaries: int, seeds: int
) -> dict[str, Any]:
    """The audit as JSON: settings, claims, what was found, the verdict."""
    privacy = config.privacy
    assert privacy is not None
    steps = sum(taken)
    spent = [NoisySteps(planned.noise_multiplier, planned.sampling_rate, steps)]
    rdp, prv = (epsilon(spent, privacy.delta, by) for by in ("rdp", "prv"))
    found: Audit = audit(
        planned.noise_multiplier, planned.sampling_rate, privacy.clip_norm, taken, privacy.delta,
        prv, config.train.batch_size if by_hooks(config) else None, canaries, seeds,
    )  # fmt: skip
    verdict = "NOT consistent: " + "; ".join(found.problems)
    return {
        "name": config.name, "noise_multiplier": planned.noise_multiplier,
        "sampling_rate": planned.sampling_rate, "clip_norm": privacy.clip_norm,
        "method": "hooks" if by_hooks(config) else "loop",
        "steps": steps, "steps_of_run": config.rounds * planned.steps, "delta": privacy.delta,
        "claimed": {"rdp": rdp, "prv": prv}, "canaries": canaries, "seeds": seeds,
        **asdict(found),
        "verdict": verdict if found.problems else "consistent with the claim", "shows": SHOWS,
    }  # fmt: skip


def show(result: dict[str, Any], console: Console) -> None:
    """Print the figures of the audit."""
    table = Table(title=f"audit of {result['name']}", title_justify="left", show_header=False)
    low, high = result["limits"]
    sure = f"{100 * result['confidence']:g} % confidence"
    steps, whole = result["steps"], result["steps_of_run"]
    cut = f" of {whole}, the first ones, since more would take longer than 20 seconds"
    claimed = result["claimed"]
    rows = {
        "steps": f"{steps}" + (cut if steps < whole else ", all of the run"),
        "noise": f"{result['noise_multiplier']:.4g} clipping norms of {result['clip_norm']:g}",
        "sampling rate": f"{result['sampling_rate']:g}",
        "canaries": f"{result['canaries']}, by {result['method']}, {result['seeds']} run(s)",
        f"claimed epsilon, delta {result['delta']:g}":
            f"{claimed['rdp']:.3f} (rdp), {claimed['prv']:.3f} (prv)",
        "Gaussian lower bound": f"{result['gaussian']:.3f} at {sure}",
        "one-run lower bound": f"{result['one_run']:.3f} at {sure}",
        "separation / expected": f"{result['ratio']:.3f}, expected {low:.2f} to {high:.2f}",
    }  # fmt: skip
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table, highlight=False)
    if low < 0.75 or high > 1.3:
        console.print(
            "The noise is large for so few canaries: --seeds or --canaries narrow what the "
            "separation may be, down to 0.75 to 1.30.", highlight=False, soft_wrap=True,
        )  # fmt: skip
