"""`python client/run.py`: join a federation from one hospital, or check whether it could.

python client/run.py --config kit/site.yaml --check
python client/run.py --config kit/site.yaml
python client/run.py ledger --config kit/site.yaml
python client/run.py audit --config kit/site.yaml
python client/run.py keygen --out kit
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client.audit import show_audit
from client.config import SiteConfig, load_site
from client.join import join
from client.ledger import show_ledger
from client.preflight import preflight
from medsa_model.audit_log import NAME
from medsa_model.errors import MedsaError
from medsa_model.launcher import refuse_launcher
from medsa_model.logs import log_to_file, logger, set_up
from medsa_model.site_keys import make_key_pair


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 1 with a message."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        if words[:1] == ["keygen"]:
            return keygen(words[1:])
        if words[:1] == ["ledger"]:
            return ledger(words[1:])
        if words[:1] == ["audit"]:
            return audit(words[1:])
        return take_part(words)
    except MedsaError as error:
        print(f"client/run.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"client/run.py: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


def take_part(words: list[str]) -> int:
    """Join, or with `--check` say whether this site could."""
    parser = argparse.ArgumentParser(
        prog="client/run.py", description="Take part in a federation, from one hospital.",
        epilog="client/run.py ledger --config SITE.yaml shows what differentially private training "
        "has cost the patients; client/run.py audit --config SITE.yaml shows and verifies what the "
        "site was asked and did; client/run.py keygen --out FOLDER makes a key pair of your own",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="site YAML")
    parser.add_argument("--check", action="store_true", help="look for problems and end")
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument("override", nargs="*", help="key.sub=value, replaces a key of the YAML")
    options = parser.parse_intermixed_args(words)
    set_up(options.verbose)
    refuse_launcher(
        "a site trains on one device, in one process; choose its GPU in the site YAML, such as "
        "device: cuda:1"
    )
    config = load_site(options.config, options.override)
    if options.check:
        return check(config, Console(markup=False, emoji=False))
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
        table.add_row("ok" if finding.good else "NO", finding.what, finding.text)
    console.print(table)
    return 0 if good else 1


def ledger(words: list[str]) -> int:
    """Print the privacy ledger; nothing is changed."""
    parser = argparse.ArgumentParser(
        prog="client/run.py ledger", description="What training has cost the patients so far.",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="site YAML")
    parser.add_argument("override", nargs="*", help="key.sub=value, replaces a key of the YAML")
    options = parser.parse_intermixed_args(words)
    config = load_site(options.config, options.override)
    limits, console = config.limits, Console(markup=False, emoji=False)
    show_ledger(config.ledger_file, limits.epsilon, limits.delta, console)
    return 0


def audit(words: list[str]) -> int:
    """Print the site's audit log and verify it; nothing is changed."""
    parser = argparse.ArgumentParser(
        prog="client/run.py audit", description="What this site was asked, did, and refused.",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, required=True, help="site YAML")
    parser.add_argument("--hash", help="last hash that was written down: is its entry there?")
    parser.add_argument("override", nargs="*", help="key.sub=value, replaces a key of the YAML")
    options = parser.parse_intermixed_args(words)
    config = load_site(options.config, options.override)
    show_audit(config.state / NAME, options.hash, Console(markup=False, emoji=False))
    return 0


def keygen(words: list[str]) -> int:
    """Make a key pair, of which only the public half leaves the hospital."""
    parser = argparse.ArgumentParser(prog="client/run.py keygen")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of site.key and site.pub")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    private, public = options.out / "site.key", options.out / "site.pub"
    make_key_pair(private, public, "fed-medsa")
    print(f"{private}  keep it secret; it never leaves this hospital")
    print(f"{public}  send this to the coordinator")
    return 0
