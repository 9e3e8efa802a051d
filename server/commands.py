"""What the commands of `flower-server` do, with their parsed options (`server/cli.py`)."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

from rich.console import Console

from medsa_model.audit_log import NAME as AUDIT
from medsa_model.audit_log import record
from medsa_model.checkpoint import latest_round, read_facts
from medsa_model.command_line import INTERRUPTED
from medsa_model.config import RunConfig, load_run
from medsa_model.errors import ConfigError
from medsa_model.logs import append_metrics, logger, read_metrics, set_up
from medsa_model.tracking import check_sinks
from server.audit import logs_of, show_log, verify_logs
from server.check import check
from server.cli import QUORUM_MISSED
from server.config import Federation, load_federation
from server.coordinate import Interrupted, QuorumMissed, coordinate
from server.directory import choose_directory
from server.kit import kits_of_another_run
from server.page import read_address
from server.page_serving import check_address
from server.provision import provision
from server.queue_of_runs import submit
from server.revoked import admitted, revoke
from server.roster import strikes_after
from server.rules import check_enough
from server.status import show_status


def execute(command: str, options: argparse.Namespace) -> int:
    """One command; returns the exit code, 3 when the quorum did not come. Raises `MedsaError`."""
    set_up(options.verbose)
    os.environ["NO_PROXY"] = "*"  # the coordinator dials nothing but this machine
    console = Console(markup=False, emoji=False)  # ":AB:" of a fingerprint is no picture
    if command == "audit":
        return audit(options, console)
    if command == "report":
        return report(options.directory)
    federation = load_federation(options.config)
    if command == "provision":
        for line in provision(federation):
            console.print(line, highlight=False, soft_wrap=True)
        return 0
    if command == "revoke":
        console.print(revoke(federation.folder, options.site), highlight=False, soft_wrap=True)
        return 0
    if command == "status":
        return show_status(federation, console)
    config = load_run(options.run or federation.run, options.override)
    if command == "check":
        return check(federation, config, console)
    if command == "submit":
        check_enough(config, len(federation.sites))
        console.print(f"submitted as {submit(federation.folder, config)}", highlight=False)
        return 0
    try:
        return run_study(federation, config, options)
    except QuorumMissed as error:
        print(f"flower-server: {error}", file=sys.stderr)
        return QUORUM_MISSED


def audit(options: argparse.Namespace, console: Console) -> int:
    """Verify audit logs or show one; raises `ConfigError` when it is not said which."""
    if options.what == "show":
        if len(options.file) != 1 or options.hash:
            raise ConfigError("audit show: expected one FILE, the log to show, and no --hash")
        return show_log(options.file[0], console)
    if not options.file and not options.config:
        raise ConfigError("audit verify: expected --config FEDERATION.yaml, or each FILE")
    files = options.file or logs_of(load_federation(options.config))
    return verify_logs(files, options.hash, console)


def report(run: Path) -> int:
    """Write report.html of a run directory and print its path; raises `ConfigError`."""
    from medsa_model.report import write_report  # draws, which no other command does

    if not any((run / name).exists() for name in ("config.yaml", "metrics.jsonl")):
        raise ConfigError(
            f"report: {run} holds no run (found neither config.yaml nor metrics.jsonl), expected "
            "the directory that a start or medsa-sim was given as --out"
        )
    print(write_report(run))
    return 0


def run_study(federation: Federation, config: RunConfig, options: argparse.Namespace) -> int:
    """Run a study to its end; Ctrl-C and SIGTERM leave a run that `--resume` continues."""
    check_sinks(options.track)
    page = read_address(options.page) if options.page else None
    signal.signal(signal.SIGTERM, _end)
    check_enough(config, len(admitted(federation)))
    if changed := kits_of_another_run(federation, config):
        logger.warning(
            "kits were made for a run with other settings: %s. Sites that list that run will "
            "refuse this one: tell them, or set it back", ", ".join(changed),
        )  # fmt: skip
    if page:
        check_address(*page)  # before there is a run directory, which the next try would meet
    run = choose_directory(config, federation.runs, options.out, options.resume)
    readmit(run, options.readmit)
    study = [*options.override, *(["--run", str(options.run)] if options.run else [])]
    code, happened = INTERRUPTED, "Interrupted"
    try:
        code = coordinate(federation, config, run.resolve(), page, options.track)
        happened = "The run ended early"
    except KeyboardInterrupt:
        pass
    except Interrupted as error:
        if error.run != run.resolve():  # a run that was submitted
            run = error.run
            study = ["--run", str(run / "config.yaml")]
    if code:
        words = ["flower-server", "--config", str(options.config), *study]
        words += ["--page", options.page] if options.page else []
        words += [word for sink in options.track for word in ("--track", sink)]
        again = shlex.join([*words, "--resume", "--out", str(run)])
        print(f"\n{happened}. Go on with: {again}", file=sys.stderr)
    return code


def readmit(run: Path, sites: list[str]) -> None:
    """Forget the strikes of sites in quarantine; raises `ConfigError` for a site that has none."""
    number = latest_round(run) or 0
    strikes = strikes_after(number, read_facts(run, number), read_metrics(run))
    if unknown := [site for site in sites if not strikes[site]]:
        raise ConfigError(
            f"--readmit {', '.join(unknown)}: no rejected answer counts against it in {run}; "
            f"found: {', '.join(sorted(strikes)) or 'nobody'}; correct the name, and use --resume"
        )
    for site in sites:
        append_metrics(run, "readmitted", round=number, site=site)
        record(run / AUDIT, "readmitted", site=site)


def _end(*_: object) -> None:
    raise KeyboardInterrupt
