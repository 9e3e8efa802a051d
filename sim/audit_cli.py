"""`medsa-audit`: does the trainer keep the differential privacy that a run YAML promises?

medsa-audit --config run.yaml
medsa-audit --config run.yaml privacy.epsilon=4 --seeds 5 --out audit.json
medsa-audit --config run.yaml --membership

Here are the words it understands; what it does is in `sim/audit.py`.
"""

import argparse
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    EXIT_CODES,
    INTERRUPTED,
    make_parser,
    positive,
    run_command,
    takes_file,
)

CANARIES = 2000  # as in medsa_model.privacy.canaries, which is not needed for a help text
EXAMPLES = (
    "medsa-audit --config configs/isic_dp.yaml",
    "medsa-audit --config configs/isic_dp.yaml privacy.epsilon=4 --seeds 5 --out audit.json",
    "medsa-audit --config configs/isic_dp.yaml --membership",
)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0 when all agrees with the claim, else 1."""
    return run_command("medsa-audit", partial(parse_and_audit, arguments))


def parse_and_audit(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    parser = audit_parser()
    options = parser.parse_intermixed_args(arguments)
    if options.canaries < 100:
        parser.error(f"--canaries is {options.canaries}, expected at least 100")
    from sim.audit import audit_run  # takes seconds

    return audit_run(options)


def audit_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "medsa-audit", "Audit the differential privacy that the training of a run promises.",
        EXAMPLES,
        EXIT_CODES | {
            0: "all that was measured agrees with the claim",
            1: "something does not, or an error, told in a message",
            INTERRUPTED: "Ctrl-C; nothing was written",
        },
    )  # fmt: skip
    run = parser.add_argument_group("what to audit")
    takes_file(
        run.add_argument("--config", type=Path, required=True, metavar="RUN.yaml", help="run YAML")
    )
    how = parser.add_argument_group("how to audit it")
    how.add_argument(
        "--seeds", type=positive, default=1, metavar="N",
        help="how often canaries are run, each time with other randomness (default 1)",
    )  # fmt: skip
    how.add_argument(
        "--canaries", type=positive, default=CANARIES, metavar="N",
        help=f"in each run, at least 100 (default {CANARIES})",
    )  # fmt: skip
    how.add_argument(
        "--membership", action="store_true",
        help="also attack small models, which takes minutes: vit_tiny in place of the run's "
        "backbone, adapters in all of its blocks and without depth, generated images",
    )  # fmt: skip
    takes_file(
        parser.add_argument(
            "--out", type=Path, metavar="FILE.json", help="write the result here too"
        )
    )
    parser.add_argument(
        "override", nargs="*", metavar="KEY=VALUE",
        help="replaces a key of the YAML, such as privacy.epsilon=4",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
