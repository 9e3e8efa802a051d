"""`flower-server check`: what could stop a start, found before the hospitals wait for it."""

import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from medsa_model.build import build
from medsa_model.config import RunConfig
from medsa_model.errors import ConfigError, MedsaError
from medsa_model.health import probe
from medsa_model.versions import check_versions
from server.certificate_names import missing_names
from server.certificates import describe
from server.config import Federation
from server.kit import kits_of_another_run
from server.revoked import admitted
from server.rules import check_enough
from server.status import running_facts

LEAST_FREE = 10**9  # bytes
SOON = timedelta(days=30)
LEAST_HIDDEN = 3  # sites among which none can tell another's update


def check(federation: Federation, config: RunConfig, console: Console) -> int:
    """Print every finding; 1 when any of them would stop a start."""
    checks: list[tuple[str, Callable[[Federation, RunConfig], str]]] = [
        ("versions", versions),
        ("run", run),
        ("certificate", certificate),
        ("keys", keys),
        ("sites", sites),
        ("port", port),
        ("disk", disk),
    ]
    table = Table(title=f"federation {federation.name}", title_justify="left")
    for heading in ("", "what", "finding"):
        table.add_column(heading, overflow="fold")
    good = True
    for what, look in checks:
        try:
            table.add_row("ok", what, look(federation, config))
        except (MedsaError, OSError) as error:
            good = False
            table.add_row("NO", what, str(error))
    console.print(table)
    console.print(f"run {config.name} sha256 {config.sha256}", highlight=False, soft_wrap=True)
    return 0 if good else 1


def versions(_: Federation, __: RunConfig) -> str:
    """Versions, and that the packages really are this project's."""
    return check_versions()


def run(_: Federation, config: RunConfig) -> str:
    """That the backbone can be read and the adapters fit it."""
    manifest = build(
        config.model, config.adapter, config.seed, torch.device("cpu"), config.named_classes
    ).manifest
    return (
        f"{config.name}: {config.rounds} rounds, {config.model.backbone}, base sha256 "
        f"{manifest.base_sha256[:16]}, at most {manifest.size_in_bytes / 10**6:.2f} MB a message"
    )


def certificate(federation: Federation, _: RunConfig) -> str:
    """That the server's certificate is there, valid and for the right names."""
    path = federation.folder / "server.crt"
    if not federation.address.tls:
        return "none: a reverse proxy ends TLS"
    if not path.exists():
        raise ConfigError(f"{path} is missing: `flower-server provision`")
    names, begins, ends = describe(path)
    now = datetime.now(UTC)
    wanted = (federation.address.host, *federation.address.also)
    if missing := missing_names(names, wanted):
        raise ConfigError(
            f"{path} is not for {', '.join(missing)} but for {', '.join(names)}: move "
            "server.crt and server.key away and run `flower-server provision`"
        )
    if not begins <= now <= ends:
        raise ConfigError(
            f"{path} is valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}: move server.crt and "
            "server.key away and run `flower-server provision`"
        )
    soon = " (soon: move both files away and provision again)" if ends - now < SOON else ""
    return f"for {', '.join(names)}, until {ends:%Y-%m-%d}{soon}"


def keys(federation: Federation, _: RunConfig) -> str:
    """That nobody else can read the private keys."""
    private = [federation.folder / name for name in ("ca.key", "server.key")]
    private += list(federation.folder.glob("sites/*/site.key"))
    open_ = [path for path in private if path.exists() and path.stat().st_mode & 0o077]
    if open_:
        raise ConfigError(f"others can read {', '.join(map(str, open_))}: chmod 600")
    return f"{sum(path.exists() for path in private)} private keys, readable by this account alone"


def sites(federation: Federation, config: RunConfig) -> str:
    """That enough sites may come in, also for the strategy."""
    names = sorted(admitted(federation).values())
    if len(names) < federation.quorum:
        raise ConfigError(
            f"{len(names)} sites have a key that is not revoked, quorum is {federation.quorum}: "
            "`flower-server provision`"
        )
    check_enough(config, len(names))
    few = (
        "; warning: in a round of two sites each can compute the other's update from the mean"
        if federation.quorum < LEAST_HIDDEN else ""
    )  # fmt: skip
    if changed := kits_of_another_run(federation, config):
        few += f"; warning: kits were made for other settings: {', '.join(changed)}"
    return f"{', '.join(names)}; quorum {federation.quorum}{few}"


def port(federation: Federation, _: RunConfig) -> str:
    """That the port is free, or that it is this federation's own process that has it."""
    facts = running_facts(federation)
    if facts:
        state = probe(str(facts["health"]))
        if state != "serving":
            raise ConfigError(f"process {facts['pid']} has it, but its SuperLink {state}")
        return f"process {facts['pid']} of this federation listens; SuperLink serving"
    address = federation.address
    number = address.listen_port or address.port
    family = socket.AF_INET6 if ":" in address.listen else socket.AF_INET
    try:
        socket.create_server((address.listen, number), family=family).close()
    except OSError as error:
        raise ConfigError(f"{address.listen}:{number}: {error.strerror}") from error
    return f"{address.listen}:{number} is free; hospitals dial {address.host}:{address.port}"


def disk(federation: Federation, _: RunConfig) -> str:
    """Room for checkpoints and Flower's database."""
    place = next(p for p in (federation.folder, *federation.folder.parents) if Path(p).exists())
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE:
        raise ConfigError(f"{free / 10**6:.0f} MB are free at {place}, expected 1000")
    return f"{free / 10**9:.0f} GB free"
