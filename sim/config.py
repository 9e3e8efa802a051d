"""The `sim` section of a run YAML, read by `medsa-sim` alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from medsa_model.backbone import Model
from medsa_model.config import RunConfig, read_yaml, validate
from medsa_model.data.split import SplitOptions
from medsa_model.sam import ARCHITECTURES
from medsa_model.section import Section
from sim.annotations import Annotations
from sim.attacks import Attack
from sim.partition import BySite, Partition


class Sim(Section):
    """Simulation of several sites on one machine."""

    engine: Literal["in-process", "ray"] = "in-process"
    """`in-process`: the sites of a federation answer one after the other, and several federations
    of the comparison run beside each other; `ray`: the sites of a federation run beside each other,
    one federation after the other."""
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
    """Memory of each process, in 10^6 bytes, for what the frozen blocks before the first adapter
    make of images; used with adapters in the last blocks alone. 0: nothing is kept. Results
    are the same, whatever it is."""
    partition: Partition = BySite()
    """How cases are dealt to sites."""
    split: SplitOptions = SplitOptions()
    """How a site's cases become training, validation and test cases."""
    annotations: Annotations = Annotations()
    """Which structures the sites annotate in their training cases; empty: all."""
    attack: Attack | None = None
    """Sites that send wrong updates on purpose; empty: none."""
    rows: tuple[Literal["local", "centralized"], ...] = ("local", "centralized")
    """What the federation is compared with, beside zero-shot."""
    references: tuple[Literal["scratch", "train_decoder"], ...] = ("scratch",)
    """Federations with something changed: all parameters from random weights; decoder trained."""
    scratch_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)
    """Learning rate of `scratch`, which needs another one than adapters do."""
    examples: int = Field(2, ge=0, le=20)
    """Test cases per site shown as pictures in the report."""
    processes: int | None = Field(None, ge=1)
    """Processes that work beside each other, each with its share of the cores, its own model and
    its own copy of the training images; empty: one for each core, or one when a GPU computes (with
    `engine: ray` one for each GPU). Of a Ray cluster those that fit into it."""
    ray_address: str | None = Field(None, min_length=1, max_length=256)
    """With `engine: ray` a Ray cluster that is running: `auto`, HOST:PORT or ray://HOST:PORT;
    empty: that of the environment's RAY_ADDRESS, else a Ray of this machine's own. All machines of
    a cluster have to see `--out` and `data.root` at the same path."""
    ray_cpus: int = Field(1, ge=1)
    """Processor cores that one process of `engine: ray` takes."""
    ray_gpus: float | None = Field(None, ge=0, le=64, allow_inf_nan=False)
    """GPUs that one process of `engine: ray` takes, such as 0.25 for four on each; empty: an equal
    share of this machine's, or one of a cluster that has any."""

    @field_validator("ray_gpus")
    @classmethod
    def _whole_or_a_part(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError("expected a part of one GPU or a whole number of them")
        return gpus

    @model_validator(mode="after")
    def _ray_is_used(self) -> Self:
        defaults = {"ray_address": None, "ray_cpus": 1, "ray_gpus": None}
        for key, default in defaults.items():
            if self.engine != "ray" and getattr(self, key) != default:
                raise ValueError(
                    f"sim.{key} is {getattr(self, key)}, but sim.engine is {self.engine}, which "
                    f"starts no Ray; expected sim.engine=ray, or no sim.{key}"
                )
        return self

    @field_validator("rows", "references")
    @classmethod
    def _different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("every row may be listed once")
        return names

    @model_validator(mode="after")
    def _attack_is_on_the_federation(self) -> Self:
        if self.attack and (self.rows or self.references):
            raise ValueError(
                "sim.attack concerns the federation alone; expected sim.rows=[] and "
                "sim.references=[]"
            )
        return self


class SimulatedRun(RunConfig):
    """A run with its simulation."""

    sim: Sim = Sim()

    @field_validator("model")
    @classmethod
    def _has_weights(cls, model: Model) -> Model:
        # not in `Model`: to a site the configuration travels without the path
        if model.lacks_checkpoint:
            raise ValueError(
                f"model.checkpoint is empty, but {model.backbone} is not embedded: give the path "
                f"of {ARCHITECTURES[model.backbone].official_file} (or set model.weights to random)"
            )
        return model


def load_simulation(path: Path, overrides: Sequence[str] = ()) -> SimulatedRun:
    """Read a run YAML with its `sim` section; raises `ConfigError` with every problem."""
    return validate(SimulatedRun, read_yaml(path), overrides, path.name)
