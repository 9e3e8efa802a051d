"""The run configuration: what the study lead writes, what travels to every site.

Loaded once at the edge, frozen, passed as arguments. Every problem of a file is printed at once.
"""

import copy
import hashlib
import math
import typing
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from medsa_model.adapters import Adapter, Lora, Msa
from medsa_model.adapters.depth import chosen_blocks
from medsa_model.backbone import Model
from medsa_model.config_problems import concerned, problems, replace_list
from medsa_model.data import VOLUMES, DataSet
from medsa_model.data.hounsfield import WINDOW
from medsa_model.errors import ConfigError
from medsa_model.evaluate_volumes import Volume
from medsa_model.losses import Loss
from medsa_model.message import MessageSettings
from medsa_model.privacy.section import Privacy, rounded_up
from medsa_model.prompts import Box, Click, NoPrompt, PromptKind
from medsa_model.sam import ARCHITECTURES
from medsa_model.section import Section
from medsa_model.strategies import FedAvg, PrivateFedAvg, Strategy
from medsa_model.task import Task
from medsa_model.train import Train

T = typing.TypeVar("T", bound=Section)
Kinds = typing.Annotated[tuple[PromptKind, ...], Field(min_length=1, max_length=16)]


class Prompts(Section):
    """How structures are asked for."""

    train: tuple[PromptKind, ...] = Field((Click(), Box(overlap=0.75)), min_length=1, max_length=16)
    """Kinds of prompt in training; one is drawn at random for every prompt."""
    evaluate: tuple[PromptKind, ...] = Field((Click(), Box()), min_length=1, max_length=16)
    """Kinds of prompt in evaluation, each scored by itself; the first is the main one."""

    @field_validator("evaluate")
    @classmethod
    def _different(cls, kinds: tuple[PromptKind, ...]) -> tuple[PromptKind, ...]:
        if len({kind.name for kind in kinds}) < len(kinds):
            raise ValueError("every kind of prompt may be listed once")
        return kinds

    corrections: int = Field(0, ge=0, le=16)
    """Further clicks in training, each on the larger error of the answer so far."""
    by_site: dict[str, Kinds] = Field(default_factory=dict)
    """Kinds of prompt in training at the sites of these names, in place of `train`: hospitals that
    prompt differently. The names travel to every site with the run."""

    def train_at(self, site: str) -> tuple[PromptKind, ...]:
        """Kinds of prompt in training at `site`."""
        return self.by_site.get(site, self.train)

    @property
    def trained(self) -> tuple[PromptKind, ...]:
        """All kinds of prompt in training, at any site."""
        kinds = [*self.train, *(kind for each in self.by_site.values() for kind in each)]
        return tuple(dict.fromkeys(kinds))

    @property
    def by_class(self) -> bool:
        """Whether any kind asks for structures by their names."""
        return any(kind.by_class for kind in (*self.trained, *self.evaluate))


class Evaluate(Section):
    """Evaluation during and after the run."""

    every: int = Field(1, ge=0)
    """Rounds between evaluations on the sites' validation cases; 0: only at the end."""


class RunConfig(Section):
    """One federated run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Name of the run, also of its folder."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything random: splits, initial adapters, batches, prompts."""
    rounds: int = Field(10, ge=0)
    """Federated rounds."""
    model: Model = Model()
    adapter: Adapter = Msa()
    """How the frozen model is adapted; what is trained and sent."""
    prompt: Prompts = Prompts()
    data: DataSet
    """Images or volumes: layout, root, and the names of the structures."""
    train: Train = Train(steps=25)
    loss: Loss = Loss()
    strategy: Strategy = FedAvg()
    """How the sites' updates become the next state."""
    privacy: Privacy | None = None
    """Differential privacy for the patients of every site; empty: none."""
    evaluate: Evaluate = Evaluate()
    volume: Volume = Volume()
    message: MessageSettings = MessageSettings()
    """How updates cross."""

    @property
    def named_classes(self) -> int:
        """Structures that prompts ask for by their names: 0 when none does."""
        return len(self.data.classes) if self.prompt.by_class else 0

    @property
    def task(self) -> Task:
        """What the adapters are trained for: it is kept with them."""
        volumes = self.data.kind in VOLUMES
        return Task(
            structures=self.data.classes, named=self.named_classes, volumes=volumes,
            prompts=tuple(dict.fromkeys(kind.kind for kind in self.prompt.trained)),
            window=getattr(self.data, "window", WINDOW) if volumes else None,
            volume=self.volume, precision=self.train.precision, seed=self.seed,
        )  # fmt: skip

    @property
    def sections(self) -> dict[str, object]:
        """What is kept with the adapters; no path of the machine where they were trained."""
        model = self.model.model_dump(mode="json", exclude={"checkpoint"})
        return {"model": model, "adapter": self.adapter.model_dump(mode="json"),
                "task": self.task.model_dump(mode="json")}  # fmt: skip

    def steps_for(self, cases: int) -> int:
        """Optimiser steps in a round for a site with `cases` training cases.

        With differential privacy `train.epochs` counts expected uses of a patient: the number of
        steps then tells nothing about that of patients.
        """
        if self.privacy and self.train.epochs:
            return max(1, round(self.train.epochs / self.privacy.sampling_rate))
        return self.train.steps_for(cases)

    def images_for(self, cases: int, volumes: bool) -> int:
        """Images or slices in a round for a site with `cases` training cases.

        With differential privacy those that are expected of so many cases in tens.
        """
        slices = self.volume.slices if volumes else 1
        at_once: float = self.train.batch_size
        if self.privacy:
            at_once = self.privacy.sampling_rate * rounded_up(cases) * self.privacy.views
        return math.ceil(self.steps_for(cases) * at_once * slices)

    @model_validator(mode="after")
    def _hooks_need_images(self) -> typing.Self:
        if self.privacy and self.privacy.method == "hooks" and self.data.kind in VOLUMES:
            raise ValueError(
                f"privacy.method is hooks, but data.kind {self.data.kind} has volumes, which "
                "differ in their number of prompts; expected loop or auto"
            )
        return self

    @model_validator(mode="after")
    def _hooks_need_equal_patients(self) -> typing.Self:
        if self.privacy and self.privacy.method == "hooks" and self.prompt.corrections:
            raise ValueError(
                f"privacy.method is hooks, but prompt.corrections is {self.prompt.corrections}: "
                "how many clicks a patient gets would depend on who else is computed with it; "
                "expected loop or auto"
            )
        return self

    @model_validator(mode="after")
    def _noise_is_enough(self) -> typing.Self:
        if self.privacy and self.rounds and self.privacy.epsilon:
            try:
                self.privacy.noise(self.rounds * self.steps_for(1))
            except ValueError as error:
                raise ValueError(
                    f"privacy: {error}; expected fewer steps or more epsilon"
                ) from error
        if isinstance(self.strategy, PrivateFedAvg):
            self.strategy.prepared(self.rounds)
        return self

    @model_validator(mode="after")
    def _follows_volumes(self) -> typing.Self:
        if any(kind.followed for kind in self.prompt.trained):
            raise ValueError(
                "followed is a way to evaluate: in training every slice that shows a structure is "
                "prompted; take followed out of prompt.train and prompt.by_site"
            )
        if any(k.followed for k in self.prompt.evaluate) and self.data.kind not in VOLUMES:
            raise ValueError(
                f"prompt.evaluate has a kind with followed, but data.kind {self.data.kind} has "
                f"images without slices; expected {' or '.join(VOLUMES)}"
            )
        return self

    @model_validator(mode="after")
    def _private_steps_are_in_parts(self) -> typing.Self:
        if self.privacy and self.train.accumulate > 1:
            raise ValueError(
                f"train.accumulate is {self.train.accumulate}, but with privacy a step is computed "
                "in parts of train.batch_size patients already; expected 1, and a smaller "
                "train.batch_size if memory is short"
            )
        return self

    @model_validator(mode="after")
    def _blocks_are_there(self) -> typing.Self:
        if isinstance(self.adapter, Msa | Lora):
            backbone = self.model.backbone
            try:
                chosen_blocks(self.adapter.blocks, ARCHITECTURES[backbone].depth)
            except ValueError as error:
                raise ValueError(f"adapter.blocks asks for {error} ({backbone})") from error
        return self

    @model_validator(mode="after")
    def _frozen_layers_are_multiplied(self) -> typing.Self:
        if self.model.frozen == "float32":
            return self
        if self.train.precision != "bfloat16":
            raise ValueError(
                f"model.frozen is bfloat16, but train.precision is {self.train.precision}; "
                "expected train.precision bfloat16, since such layers multiply nothing else"
            )
        if self.privacy:
            raise ValueError(
                "model.frozen is bfloat16 and there is a section privacy, which compares gradients "
                "in float32 before every round; expected model.frozen float32"
            )
        return self

    @model_validator(mode="after")
    def _depth_needs_volumes(self) -> typing.Self:
        if isinstance(self.adapter, Msa) and self.adapter.depth and self.data.kind not in VOLUMES:
            raise ValueError(
                f"adapter.depth is true, but data.kind {self.data.kind} has images without slices; "
                f"expected {' or '.join(VOLUMES)}, or adapter.depth false"
            )
        return self

    @model_validator(mode="after")
    def _structures_are_asked_for(self) -> typing.Self:
        classes = self.data.classes
        asked = {"train": self.prompt.train, "evaluate": self.prompt.evaluate}
        asked |= {f"by_site.{site}": kinds for site, kinds in self.prompt.by_site.items()}
        for key, kinds in asked.items():
            if len(classes) > 1 and any(isinstance(kind, NoPrompt) for kind in kinds):
                key_of_one = "structures" if self.data.kind == "synthetic" else "classes"
                raise ValueError(
                    f"prompt.{key} has kind none, but an image has {len(classes)} structures "
                    f"({', '.join(classes)}) and only the prompt says which one is meant; expected "
                    "click, clicks, box or class. Take none out, or ask for one in "
                    f"data.{key_of_one}"
                )
        return self

    @model_validator(mode="after")
    def _names_are_learnt(self) -> typing.Self:
        kinds = self.prompt.trained
        if any(k.by_class for k in self.prompt.evaluate) and not any(k.by_class for k in kinds):
            raise ValueError(
                "prompt.evaluate has kind class, but prompt.train has not, nor has "
                "prompt.by_site: names of structures would be asked for and never learnt; add "
                "class to prompt.train or take it out of prompt.evaluate"
            )
        return self

    def for_sites(self) -> str:
        """JSON of what travels: everything but the paths of the machine it was written on."""
        return self.model_dump_json(
            include=set(RunConfig.model_fields),
            exclude={"data": {"root"}, "model": {"checkpoint"}},
        )

    @property
    def sha256(self) -> str:
        """Identity of the run's settings, by which a site can allow it."""
        return hashlib.sha256(self.for_sites().encode()).hexdigest()


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run YAML and apply `key.sub=value` overrides; raises `ConfigError`.

    Its section `sim` is for `medsa-sim` alone and is left out here.
    """
    content = read_yaml(path)
    content.pop("sim", None)
    return validate(RunConfig, content, overrides, path.name)


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML mapping; raises `ConfigError` that says what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def validate(
    section: type[T], content: dict[str, object], overrides: Sequence[str], source: str
) -> T:
    """Build `section` from `content`; raises one `ConfigError` with all problems."""
    alone = copy.deepcopy(content)
    given: set[str] = set()
    # whole sections before their keys, so that the order on the command line does not matter
    for override in sorted(overrides, key=lambda text: text.partition("=")[0].count(".")):
        key, found, text = override.partition("=")
        if not found:
            raise ConfigError(f"override {override!r}: expected key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not YAML") from error
        keys = key.split(".")
        if len(keys) > 1:
            _name_default_kind(section, content, keys[0])
        _set(content, keys, value, override)
        given.add(key)
    try:
        return section.model_validate(content)
    except ValidationError as error:
        lines = problems(section, content, error.errors(), given)
        width = max(len(key) for key, _ in lines)
        listed = "\n".join(f"  {key:{width}}  {text}" for key, text in lines)
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        if given and _is_valid(section, alone):
            source = f"{source} with the overrides {concerned(overrides, [k for k, _ in lines])}"
        raise ConfigError(f"{source} is not valid ({count}):\n{listed}") from error


def _is_valid(section: type[Section], content: object) -> bool:
    try:
        section.model_validate(content)
    except ValidationError:
        return False
    return True


def _name_default_kind(section: type[Section], content: dict[str, object], key: str) -> None:
    """Let `adapter.ratio=0.1` mean the default adapter when a file has no section `adapter`."""
    field = section.model_fields.get(key)
    kind = getattr(field.default, "kind", None) if field else None
    if kind and key not in content:
        content[key] = {"kind": kind}


def _set(content: dict[str, object], keys: list[str], value: object, override: str) -> None:
    for depth, key in enumerate(keys[:-1], start=1):
        inner = content.setdefault(key, {})
        if isinstance(inner, list):
            changed = _changed_item(inner, keys[depth:], value)
            raise ConfigError(
                f"override {override!r}: {replace_list('.'.join(keys[:depth]), changed)}"
            )
        if not isinstance(inner, dict):
            raise ConfigError(f"override {override!r}: {key} is a value, not a section")
        content = inner
    content[keys[-1]] = value


def _changed_item(items: Sequence[object], keys: Sequence[str], value: object) -> object:
    """What an override of `keys` in a list was to make of its item `keys[0]`."""
    for key in reversed(keys[1:]):
        value = {key: value}
    number = int(keys[0]) if keys[0].isdecimal() else len(items)
    item = items[number] if number < len(items) else None
    if isinstance(item, dict) and isinstance(value, dict) and "kind" not in value:
        return item | value
    return value
