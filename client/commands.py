"""What the commands of `client/run.py` do, with their parsed options (`client/cli.py`)."""

import argparse
import signal
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client.audit import show_audit
from client.config import SiteConfig, load_site
from client.join import join
from client.ledger import show_ledger
from client.preflight import preflight
from medsa_model.audit_log import NAME
from medsa_model.launcher import refuse_launcher
from medsa_model.logs import log_to_file, logger, set_up
from medsa_model.site_keys import make_key_pair


def execute(command: str, options: argparse.Namespace) -> int:
    """One command; returns the exit code. Raises `MedsaError`."""
    if command == "keygen":
        return keygen(options.out)
    console = Console(markup=False, emoji=False)
    if command == "join":
        return take_part(options, console)
    config = load_site(options.config, options.override)
    if command == "ledger":
        show_ledger(config.ledger_file, config.limits.epsilon, config.limits.delta, console)
    else:
        show_audit(config.state / NAME, options.hash, console)
    return 0


def take_part(options: argparse.Namespace, console: Console) -> int:
    """Join, or with `--check` say whether this site could."""
    set_up(options.verbose)
    refuse_launcher(
        "a site trains on one device, in one process; choose its GPU in the site YAML, such as "
        "device: cuda:1"
    )
    config = load_site(options.config, options.override)
    if options.check:
        return check(config, console)
    signal.signal(signal.SIGTERM, _end)
    log_to_file(config.state / "site.log")
    try:
        return join(config, options.config.resolve(), tuple(options.override))
    except KeyboardInterrupt:
        logger.info("stopped; the same command takes part again")
        return 0


def _end(*_: object) -> None:
    """SIGTERM is the end that an administrator wishes: everything is stopped in order."""
    raise KeyboardInterrupt


def check(config: SiteConfig, console: Console) -> int:
    """Print every finding; 1 when any of them would stop this site."""
    table = Table(title=f"site {config.site}", title_justify="left")
    for heading in ("", "what", "finding"):
        table.add_column(heading, overflow="fold")
    good = True
    for finding in preflight(config):
        good &= finding.good
        mark = "NO" if not finding.good else "!" if finding.warning else "ok"
        table.add_row(mark, finding.what, finding.text)
    console.print(table)
    return 0 if good else 1


def keygen(folder: Path) -> int:
    """Make a key pair, of which only the public half leaves the hospital."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "site.key", folder / "site.pub"
    make_key_pair(private, public, "fed-medsa")
    print(f"{private}  keep it secret; it never leaves this hospital")
    print(f"{public}  send this to the coordinator")
    return 0
