"""The run configuration: what the study lead writes, what travels to every site.

Loaded once at the edge, frozen, passed as arguments. Every problem of a file is printed at once.
"""

import difflib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from medsa_model.adapters import Adapter, Msa
from medsa_model.backbone import Model
from medsa_model.data import DataSet
from medsa_model.errors import ConfigError
from medsa_model.losses import Loss
from medsa_model.prompts import Box, Click, NoPrompt, PromptKind
from medsa_model.section import Section
from medsa_model.strategies import FedAvg, Strategy
from medsa_model.train import Train

T = typing.TypeVar("T", bound=Section)


class Prompts(Section):
    """How structures are asked for."""

    train: tuple[PromptKind, ...] = Field((Click(), Box(overlap=0.75)), min_length=1)
    """Kinds of prompt in training; one is drawn at random for every prompt."""
    evaluate: tuple[PromptKind, ...] = Field((Click(), Box()), min_length=1)
    """Kinds of prompt in evaluation, each scored by itself; the first is the main one."""

    @field_validator("evaluate")
    @classmethod
    def _different(cls, kinds: tuple[PromptKind, ...]) -> tuple[PromptKind, ...]:
        if len({kind.name for kind in kinds}) < len(kinds):
            raise ValueError("every kind of prompt may be listed once")
        return kinds


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
    prompt: Prompts = Prompts()
    data: DataSet
    train: Train = Train(steps=25)
    loss: Loss = Loss()
    strategy: Strategy = FedAvg()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _structures_are_asked_for(self) -> typing.Self:
        classes = self.data.classes
        for key, kinds in (("train", self.prompt.train), ("evaluate", self.prompt.evaluate)):
            if len(classes) > 1 and any(isinstance(kind, NoPrompt) for kind in kinds):
                key_of_one = "structures" if self.data.kind == "synthetic" else "classes"
                raise ValueError(
                    f"prompt.{key} has kind none, but an image has {len(classes)} structures "
                    f"({', '.join(classes)}) and only the prompt says which one is meant; expected "
                    f"click, clicks or box. Take none out, or ask for one in data.{key_of_one}"
                )
        return self

    def for_sites(self) -> str:
        """JSON of what travels: everything but the paths of the machine it was written on."""
        return self.model_dump_json(
            include=set(RunConfig.model_fields),
            exclude={"data": {"root"}, "model": {"checkpoint"}},
        )


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
        lines = [_problem(section, content, dict(e), given) for e in error.errors()]
        width = max(len(key) for key, _ in lines)
        listed = "\n".join(f"  {key:{width}}  {text}" for key, text in lines)
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise ConfigError(f"{source} is not valid ({count}):\n{listed}") from error


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
                f"override {override!r}: {_replace_list('.'.join(keys[:depth]), changed)}"
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


def _replace_list(key: str, item: object) -> str:
    return f"{key} is a list: replace it whole, for example {key}={_in_yaml([item])}"


def _in_yaml(value: object) -> str:
    """`value` as it is written behind `key=`."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()


def _problem(
    section: type[Section], content: object, error: dict[str, typing.Any], given: Collection[str]
) -> tuple[str, str]:
    """The dotted key, without pydantic's union tags, and what is wrong with it.

    `given` are the keys of overrides.
    """
    keys: list[str] = []
    at: object = content
    annotation: object = section
    owner: object = section  # that has the last of `keys`
    union: object = None  # that `annotation` is a member of
    siblings: object = None  # the union that `owner` is a member of
    for part in error["loc"]:
        if isinstance(at, Mapping) and part not in at and part == at.get("kind"):
            union, annotation = annotation, _member(annotation, str(part))
            continue
        keys.append(str(part))
        owner, siblings = annotation, union
        annotation, union = _field(annotation, part), None
        if isinstance(at, Mapping):
            at = at.get(part)
        elif isinstance(at, Sequence) and isinstance(part, int):
            at = at[part]
    key = ".".join(keys) or "(file)"
    if error["type"] == "extra_forbidden":
        return key, _unknown(keys, owner, siblings, given)
    if error["type"] == "missing":
        return key, "missing"
    if error["type"] == "union_tag_invalid":
        expected = error["ctx"]["expected_tags"]
        return f"{key}.kind", f"got {error['ctx']['tag']!r}, expected one of: {expected}"
    if error["type"] == "union_tag_not_found":
        return f"{key}.kind", "missing"
    if error["type"] == "tuple_type":
        return key, _no_list(key, annotation, error["input"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return key, f"got {error['input']!r}: {message}" if keys else message


def _unknown(keys: Sequence[str], owner: object, union: object, given: Collection[str]) -> str:
    """Why the last of `keys` is no key of the section `owner`, a member of `union` or of none."""
    name, above = keys[-1], ".".join(keys[:-1])
    kind = _kind(owner)
    names = [each for each in _names(owner) if each != "kind"]
    near = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]!r}?" if near else ""
    others = [_kind(each) for each in _members(union) if name in _names(each)]
    if not kind or (near and not others):
        return f"unknown key ({meant})" if meant else "unknown key"
    listed = f"its keys: {', '.join(names)}" if names else "it has no keys"
    text = f"not a key of kind {kind} ({'; '.join(filter(None, (listed, meant)))})"
    if f"{above}.kind" in given and ".".join(keys) not in given:  # left over from another kind
        return f"{text}; to change the kind replace the whole section: {above}={{kind: {kind}}}"
    if others:
        return f"{text}; {name} belongs to {' and '.join(others)}"
    return text


def _no_list(key: str, annotation: object, found: object) -> str:
    """What is wrong with `found`, which should be a list; `annotation` is that of its field."""
    if isinstance(found, Mapping) and found and all(str(each).isdecimal() for each in found):
        # made by key.0.kind=value where the file has no such list
        return _replace_list(key, next(iter(found.values()))).removeprefix(f"{key} ")
    item = _field(annotation, 0)
    example = found
    if kinds := [_kind(member) for member in _members(item)]:
        if not isinstance(found, Mapping):
            example = {"kind": found if found in kinds else kinds[0]}
    elif typing.get_origin(item) is typing.Literal and found not in typing.get_args(item):
        example = typing.get_args(item)[0]
    text = f"got {found!r}: expected a list"
    return text if example is None else f"{text}, for example {_in_yaml([example])}"


def _field(annotation: object, part: object) -> object:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0]
    return None


def _member(annotation: object, kind: str) -> object:
    """The member of a union of sections that has this `kind`."""
    return next((each for each in _members(annotation) if _kind(each) == kind), annotation)


def _members(annotation: object) -> list[type[Section]]:
    """The sections of a union told apart by `kind`; none for anything else."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return []
    return [each for each in typing.get_args(annotation) if _kind(each)]


def _kind(annotation: object) -> str:
    """The `kind` of a section; empty for anything else."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get("kind")
        return str(field.default) if field else ""
    return ""


def _names(annotation: object) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return list(annotation.model_fields)
    return []
