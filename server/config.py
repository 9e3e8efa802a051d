"""The federation YAML: what the coordinator writes. It reaches a hospital only as a start-up kit.

Paths are relative to the YAML file.
"""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from medsa_model.config import read_yaml, validate
from medsa_model.section import Section

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Member(Section):
    """One hospital of the federation."""

    name: SiteName
    """Name of the site, also of its folder and kit."""
    public_key: Path | None = None
    """The hospital's own public key (`client/run.py keygen`); empty: `provision` makes a pair and
    puts the private key into the kit."""


class Address(Section):
    """Where hospitals reach the coordinator, and where it listens."""

    host: str = Field(min_length=1)
    """Name or IP address that hospitals dial; stands in the server's certificate."""
    port: int = Field(9092, ge=1, le=65535)
    """Port that hospitals dial."""
    also: tuple[str, ...] = ()
    """Further names and IP addresses in the server's certificate."""
    listen: str = "0.0.0.0"
    """Address of this machine to listen at."""
    listen_port: int | None = Field(None, ge=1, le=65535)
    """Port to listen at; empty: `port`. Another one is for a reverse proxy or a container."""
    tls: bool = True
    """False only behind a reverse proxy on this machine that ends TLS."""

    @model_validator(mode="after")
    def _plain_only_inside(self) -> Self:
        if not self.tls and not is_loopback(self.listen):
            raise ValueError(
                f"tls is false and listen is {self.listen}: without TLS listen at 127.0.0.1 and "
                "let a reverse proxy on this machine end TLS"
            )
        return self


class Federation(Section):
    """One federation: its sites, its address, and the rules of its rounds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Name of the federation."""
    folder: Path = Path("federation")
    """Certificates, keys, kits and Flower's database. Back it up; nobody else may read it."""
    run: Path
    """Run YAML of the study."""
    runs: Path = Path("runs")
    """Folder of run directories."""
    address: Address
    sites: tuple[Member, ...] = Field(min_length=1)
    """The hospitals. One that is removed here is let in no more, and may come back with its key;
    `flower-server revoke` locks a key out for good."""
    certificate_days: int = Field(397, ge=1, le=3650)
    """Days until the server's certificate expires; that of the CA lasts ten years."""
    quorum: int = Field(3, ge=1)
    """Fewest sites to start with, and fewest usable updates for a round to count. Below 3 a site
    can compute another's update from the mean and its own."""
    join_seconds: float = Field(600, gt=0)
    """Longest wait for all sites at the start; at its end the quorum is enough."""
    round_seconds: float = Field(3600, gt=0)
    """Longest wait for the answers of a round; who is late is left out of it."""
    short_round: Literal["repeat", "skip"] = "repeat"
    """A round below the quorum: `repeat` asks the missing sites again and ends the run when that
    does not help; `skip` goes on with the next round and records this one as skipped."""
    repeats: int = Field(2, ge=0)
    """How often a short round is repeated."""
    megabytes: float = Field(256, gt=0)
    """Largest answer of a site, in 10^6 bytes; what is larger is refused."""
    health: str | None = Field(None, pattern=r"^\S+:\d{1,5}$")
    """`host:port` of Flower's gRPC health service, for orchestrators; empty: a free port that only
    this machine reaches."""
    serve: bool = False
    """True: after the run wait for further ones (`flower-server submit`); sites stay connected."""

    @field_validator("sites")
    @classmethod
    def _different(cls, sites: tuple[Member, ...]) -> tuple[Member, ...]:
        # names become folders, which some file systems do not tell apart by case
        names = [site.name.casefold() for site in sites]
        if twice := sorted({site.name for site in sites if names.count(site.name.casefold()) > 1}):
            raise ValueError(f"sites are named twice: {', '.join(twice)}")
        return sites

    @model_validator(mode="after")
    def _enough_sites(self) -> Self:
        if self.quorum > len(self.sites):
            raise ValueError(f"quorum is {self.quorum}, but there are {len(self.sites)} sites")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_federation(path: Path, overrides: Sequence[str] = ()) -> Federation:
    """Read a federation YAML; its paths become absolute. Raises `ConfigError`."""
    federation = validate(Federation, read_yaml(path), overrides, path.name)
    base = path.resolve().parent
    sites = tuple(
        site.model_copy(update={"public_key": base / site.public_key}) if site.public_key else site
        for site in federation.sites
    )
    paths = {name: base / getattr(federation, name) for name in ("folder", "run", "runs")}
    return federation.model_copy(update={**paths, "sites": sites})
