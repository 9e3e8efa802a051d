"""What is wrong with a configuration, in words: pydantic's errors as dotted keys and advice."""

import difflib
import types
import typing
from collections.abc import Collection, Mapping, Sequence

import yaml

from medsa_model.section import Section

LISTED, LONGEST = 4, 60  # overrides in a message, and characters of each


def replace_list(key: str, item: object) -> str:
    """Why a key inside a list cannot be overridden; `item` is what it was to become."""
    return f"{key} is a list: replace it whole, for example {key}={_in_yaml([item])}"


def _in_yaml(value: object) -> str:
    """`value` as it is written behind `key=`."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()


def problems(
    section: type[Section], content: object, errors: Sequence[Mapping[str, typing.Any]],
    given: Collection[str],
) -> list[tuple[str, str]]:  # fmt: skip
    """The dotted key of each of pydantic's `errors`, and what is wrong; see `problem`.

    A list is counted without its bad items: that it is too short then is no problem of its own.
    """
    above = {each["loc"][:depth] for each in errors for depth in range(len(each["loc"]))}
    return [
        problem(section, content, dict(each), given)
        for each in errors
        if each["type"] != "too_short" or each["loc"] not in above
    ]


def concerned(overrides: Sequence[str], keys: Collection[str]) -> str:
    """Those of `overrides`, briefly, that gave or held one of the dotted `keys`; else all."""
    found = [
        text for text in overrides
        if any(_meet(text.partition("=")[0].split("."), key.split(".")) for key in keys)
    ] or [*overrides]  # fmt: skip
    shown = [text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..." for text in found]
    return ", ".join(shown[:LISTED]) + (", ..." if len(shown) > LISTED else "")


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one key is the other, or the section that has it."""
    return all(a == b for a, b in zip(one, other, strict=False))


def problem(
    section: type[Section], content: object, error: dict[str, typing.Any], given: Collection[str]
) -> tuple[str, str]:
    """The dotted key, without pydantic's union tags, and what is wrong with it.

    `error` is one of pydantic's about `content`, which should have been a `section`; `given` are
    the keys of overrides.
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
    if error["type"] == "model_attributes_type":
        return key, _no_kind(keys, annotation, error["input"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] in ("too_short", "too_long"):
        message = message.replace("Tuple should", "the list must")
        message = message.replace(" after validation", "")
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
        return replace_list(key, next(iter(found.values()))).removeprefix(f"{key} ")
    item = _field(annotation, 0)
    text = f"got {found!r}: expected a list"
    allowed = typing.get_args(item) if typing.get_origin(item) is typing.Literal else ()
    example: object = [found]
    if kinds := [_kind(member) for member in _members(item)]:
        if not isinstance(found, Mapping):
            example = [{"kind": found if found in kinds else kinds[0]}]
    elif allowed and found not in allowed:
        known = [each for each in found if each in allowed] if isinstance(found, Mapping) else []
        example = known or [allowed[0]]
    elif isinstance(found, Mapping):
        example = [*found]  # the names alone
    elif found is None:
        return text
    text += f", for example {_in_yaml(example)}"
    return f"{text}; allowed are {', '.join(allowed)}" if allowed and found not in allowed else text


def _no_kind(keys: Sequence[str], annotation: object, found: object) -> str:
    """What is wrong with `found`, which should be a section with a kind."""
    kinds = [_kind(member) for member in _members(annotation)]
    example = _in_yaml({"kind": found if found in kinds else (kinds or ["..."])[0]})
    if not keys[-1].isdecimal():  # an item of a list cannot be given by itself
        example = f"{'.'.join(keys)}={example}"
    text = f"got {found!r}: expected for example {example}"
    return text if found in kinds else f"{text}; kinds are {', '.join(kinds)}"


def _field(annotation: object, part: object) -> object:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):  # something or nothing
        others = [each for each in typing.get_args(annotation) if each is not type(None)]
        annotation = others[0] if len(others) == 1 else annotation
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1]
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
