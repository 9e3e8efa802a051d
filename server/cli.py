"""`flower-server`: the command of the coordinating site.

flower-server provision --config configs/federation.yaml
flower-server --config configs/federation.yaml
flower-server status --config configs/federation.yaml
flower-server audit verify --config configs/federation.yaml
"""

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
from medsa_model.config import RunConfig, load_run
from medsa_model.errors import ConfigError, MedsaError
from medsa_model.logs import append_metrics, logger, read_metrics, set_up
from server.audit import logs_of, show_log, verify_logs
from server.check import check
from server.config import Federation, load_federation
from server.coordinate import Interrupted, QuorumMissed, coordinate
from server.directory import choose_directory
from server.kit import kits_of_another_run
from server.provision import provision
from server.queue_of_runs import submit
from server.revoked import admitted, revoke
from server.roster import strikes_after
from server.rules import check_enough
from server.status import show_status

QUORUM_MISSED, INTERRUPTED = 3, 130
COMMANDS = {
    "start": "run the study of the federation YAML (the default)",
    "provision": "make certificates, keys and one start-up kit for each hospital",
    "check": "look for problems before a start; prints the run's sha256",
    "status": "sites, round, last contact, scores and bytes of a running federation",
    "revoke": "lock a site's key out, at once and for good",
    "submit": "give a further run to a coordinator with serve: true",
    "audit": "verify: are the audit logs as they were written; show FILE: what one says",
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit codes: 0, 1 for an error, 3 when the quorum did not come, 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words.pop(0) if words and words[0] in COMMANDS else "start"
    parser = argparse.ArgumentParser(
        prog=f"flower-server {command}", description=COMMANDS[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {n:10} {text}" for n, text in COMMANDS.items()),
    )  # fmt: skip
    needed = command != "audit"
    parser.add_argument("--config", type=Path, required=needed, help="federation YAML")
    parser.add_argument("--verbose", action="store_true", help="log more")
    if command in ("start", "submit", "check"):
        parser.add_argument("--run", type=Path, help="run YAML in place of the federation's")
        parser.add_argument("override", nargs="*", help="key.sub=value, replaces a key of the run")
    if command == "start":
        parser.add_argument("--out", type=Path, help="run directory; default RUNS/NAME/TIME")
        parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
        parser.add_argument(
            "--readmit", action="append", default=[], metavar="SITE",
            help="with --resume: ask a site again that is in quarantine after rejected answers",
        )  # fmt: skip
    if command == "revoke":
        parser.add_argument("site", help="name of the site")
    if command == "audit":
        parser.add_argument("what", choices=("verify", "show"), help="what to do with the logs")
        parser.add_argument("file", type=Path, nargs="*", help="logs; default: all of --config")
        parser.add_argument("--hash", help="last hash that was written down: is its entry there?")
    options = parser.parse_intermixed_args(words)
    set_up(options.verbose)
    os.environ["NO_PROXY"] = "*"  # the coordinator dials nothing but this machine
    try:
        return run_command(command, options)
    except QuorumMissed as error:
        print(f"flower-server: {error}", file=sys.stderr)
        return QUORUM_MISSED
    except MedsaError as error:
        print(f"flower-server: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"flower-server: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


def run_command(command: str, options: argparse.Namespace) -> int:
    """One command with its parsed options."""
    console = Console(markup=False, emoji=False)  # ":AB:" of a fingerprint is no picture
    if command == "audit":
        return audit(options, console)
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
    return run_study(federation, config, options)


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


def run_study(federation: Federation, config: RunConfig, options: argparse.Namespace) -> int:
    """Run a study to its end; Ctrl-C and SIGTERM leave a run that `--resume` continues."""
    signal.signal(signal.SIGTERM, _end)
    check_enough(config, len(admitted(federation)))
    if changed := kits_of_another_run(federation, config):
        logger.warning(
            "kits were made for a run with other settings: %s. Sites that list that run will "
            "refuse this one: tell them, or set it back", ", ".join(changed),
        )  # fmt: skip
    run = choose_directory(config, federation.runs, options.out, options.resume)
    readmit(run, options.readmit)
    words = ["flower-server", "--config", str(options.config), *options.override]
    words += ["--run", str(options.run)] if options.run else []
    code, happened = INTERRUPTED, "Interrupted"
    try:
        code = coordinate(federation, config, run.resolve())
        happened = "The run ended early"
    except KeyboardInterrupt:
        pass
    except Interrupted as error:
        if error.run != run.resolve():  # a run that was submitted
            run = error.run
            words = [*words[:3], "--run", str(run / "config.yaml")]
    if code:
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


if __name__ == "__main__":
    raise SystemExit(main())
