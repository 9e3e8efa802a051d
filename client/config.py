"""The site YAML: what a hospital writes for itself. It never leaves the hospital.

Paths are relative to the YAML file. The site's limits beat every wish of the coordinator.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, field_validator

from medsa_model.config import read_yaml, validate
from medsa_model.data import DataSet
from medsa_model.data.split import SplitOptions
from medsa_model.errors import ConfigError
from medsa_model.section import Section

LARGEST_PORT = 65535


def check_port(address: str | None) -> str | None:
    """`address` when its port can be one; raises `ValueError`."""
    if address and not 1 <= int(address.rpartition(":")[2]) <= LARGEST_PORT:
        raise ValueError(
            f"the port is {address.rpartition(':')[2]}, expected one from 1 to {LARGEST_PORT}"
        )
    return address


class CoordinatorAddress(Section):
    """Where the coordinator is."""

    address: str = Field(pattern=r"^[^\s/:]+:\d{1,5}$|^\[[0-9A-Fa-f:]+\]:\d{1,5}$")
    """`host:port`, an outbound HTTPS connection."""
    ca: Path | None = Path("ca.crt")
    """Certificate that the coordinator's must be signed by; empty: the system's authorities."""

    _port = field_validator("address")(check_port)


class Limits(Section):
    """What this site refuses, whatever the coordinator asks for. Empty: no limit."""

    runs: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] | None = None
    """sha256 of the runs that this site takes part in, as `flower-server check` prints them."""
    rounds: int | None = Field(None, ge=1)
    """Most rounds of a run."""
    steps: int | None = Field(None, ge=1)
    """Most optimisation steps of a round."""
    images: int | None = Field(None, ge=1)
    """Most images or slices of a round: steps times those of a step."""
    megabytes: float | None = Field(None, gt=0)
    """Largest adapter state, in 10^6 bytes."""
    epsilon: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Most epsilon of the ledger, over all runs; set, the site also refuses every run without
    differential privacy. It can only tighten what a run asks for."""
    delta: float | None = Field(None, ge=1e-12, lt=1)
    """The delta at which the ledger is held against `epsilon`, and the largest that a run may ask
    for; empty: the smallest that any run asked for."""
    least_training_cases: int = Field(1, ge=1)
    """Fewest training cases to take part with."""
    least_evaluated_cases: int = Field(1, ge=1)
    """Fewest scored cases to report scores of: a mean of few cases says much about each."""


class SiteSplit(SplitOptions):
    """How this site's patients are dealt to training, validation and test cases."""

    seed: int = Field(0, ge=0)
    """Seed of the draw. Equal seeds and cases give the parts of a simulation."""


class SiteConfig(Section):
    """One hospital."""

    site: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Name of the site, as the coordinator registered it."""
    coordinator: CoordinatorAddress
    key: Path = Path("site.key")
    """This site's private key; readable by nobody else."""
    state: Path = Path("state")
    """Folder for the split, the log and what must survive a restart. One process at a time."""
    ledger: Path | None = None
    """File of the privacy ledger; empty: ledger.jsonl in `state`. Site YAMLs over the same patients
    have to name the same file, or a patient pays twice without anybody counting."""
    data: DataSet
    """The site's images: layout, root, and the structures by the names that the run uses."""
    origin: str | None = None
    """Use only the cases that the data set says come from this site; empty: all of them."""
    split: SiteSplit = SiteSplit()
    device: str = "auto"
    """`auto` (the first GPU, else the processor) or a PyTorch device."""
    workers: int | None = Field(None, ge=0)
    """Threads that read images and prepare training batches beside the computation; empty: 4 when a
    GPU computes, else 0."""
    memory_gigabytes: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Memory of the device that a process may take, in 10^9 bytes; empty: all of it. Where the
    blocks of a step would keep more than 80 % of it, they are computed a second time in the
    backward pass, with the same result; with `privacy.method: hooks` they are not."""
    cache_megabytes: float = Field(2000, ge=0, allow_inf_nan=False)
    """Memory, in 10^6 bytes, for what the frozen blocks before the first adapter make of images, so
    that it is computed once; used by runs with adapters in the last blocks alone. 0: nothing is
    kept; results are the same, whatever it is."""
    cache_folder: Path | None = None
    """Private folder where this is kept over restarts as well; empty: in memory alone. It holds
    activations computed from the patients' images, from which much of an image can be told: treat
    it as you treat the images, and remove it with them."""
    cache_folder_megabytes: float = Field(20_000, gt=0, allow_inf_nan=False)
    """Most of `cache_folder`, in 10^6 bytes; what was not used longest goes first."""
    checkpoint: Path | None = None
    """This site's copy of the official SAM file; empty: the embedded backbone."""
    health: str | None = Field(None, pattern=r"^\S+:\d{1,5}$")
    """`host:port` of Flower's gRPC health service, for orchestrators; empty: a free port that only
    this machine reaches."""
    limits: Limits = Limits()
    _file: Path = PrivateAttr(Path("site.yaml"))

    _port = field_validator("health")(check_port)

    @property
    def file(self) -> Path:
        """The YAML that this was read from, for messages."""
        return self._file

    @property
    def ledger_file(self) -> Path:
        """Where the privacy ledger is."""
        return self.ledger or self.state / "ledger.jsonl"


def load_site(path: Path, overrides: Sequence[str] = ()) -> SiteConfig:
    """Read a site YAML; its paths become absolute and lose their `..`. Raises `ConfigError`."""
    if path.is_dir():
        raise ConfigError(f"--config {path}: is a folder; give its site.yaml")
    if not path.exists():
        raise ConfigError(f"--config {path}: no such file; give the site.yaml of the kit")
    config = validate(SiteConfig, read_yaml(path), overrides, path.name)
    base = path.resolve().parent

    def place(given: Path) -> Path:
        whole = base / given
        if whole.name == "..":
            return whole.resolve()
        return whole.parent.resolve() / whole.name  # a link keeps its name: weights are known by it

    changes: dict[str, object] = {"key": place(config.key), "state": place(config.state)}
    if config.ledger:
        changes["ledger"] = place(config.ledger)
    if config.cache_folder:
        changes["cache_folder"] = place(config.cache_folder)
    if config.checkpoint:
        changes["checkpoint"] = place(config.checkpoint)
    if config.coordinator.ca:
        ca = place(config.coordinator.ca)
        changes["coordinator"] = config.coordinator.model_copy(update={"ca": ca})
    if config.data.root:
        changes["data"] = config.data.model_copy(update={"root": place(config.data.root)})
    loaded = config.model_copy(update=changes)
    loaded._file = base / path.name
    return loaded
