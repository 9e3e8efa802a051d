"""The reference of configuration files, as Markdown, made from the sections themselves.

In: sections that are read from a file, each with a title. Out: for every section that they reach a
table of its keys: type, default, what is allowed, and the docstring of the key. It is made from
pydantic's JSON schema, so that nothing can be allowed here and refused there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsa_model.section import Section

Schema = Mapping[str, Any]
TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false"}
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": "1 to 64 letters, digits, `.`, `_`, `-`; no sign first",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^\S+:\d{1,5}$": "`host:port`",
    r"^[^\s/:]+:\d{1,5}$|^\[[0-9A-Fa-f:]+\]:\d{1,5}$": "`host:port`",
    "^(auto|float32|bfloat16)$": "`auto`, `float32` or `bfloat16`",
}
LISTED = "[]"
"""Ends the place of a section that is an item of a list; there its keys stand alone."""
FREE = "see the text"
"""The type of a key whose values are checked by a function of its own."""
LARGE = 10**12
"""A whole number above it is no bound that a reader has to know."""


@dataclass(frozen=True)
class File:
    """One configuration file: its title, what it is in a sentence, the section, and the key under
    which the section stands in the file; empty: the file is the section."""

    title: str
    text: str
    section: type[Section]
    key: str = ""


def reference(files: Sequence[File]) -> str:
    """Markdown with a chapter for every file; a section that two of them have is written once.

    Raises `TypeError` for a key of a type that has no words here.
    """
    chapters, written = [], dict[str, str]()
    for file in files:
        schema = file.section.model_json_schema()
        parts = [f"## {file.title}", file.text]
        for place, name, section in _sections(file, schema):
            if name not in written:
                written[name] = _heading(file.title, place, section)
                parts += [f"### {written[name]}", _one_line(section.get("description", ""))]
                parts.append(_table(place, section, schema.get("$defs", {}) | {name: section}))
        chapters.append("\n\n".join(part for part in parts if part))
    return _linked("\n\n".join(chapters), written) + "\n"


def _sections(file: File, schema: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Place (`sim.split`), name and schema of every section, those of a key after its own."""
    waiting: list[tuple[str, str, Schema]] = [(file.key, file.section.__name__, schema)]
    seen = set[str]()
    while waiting:
        place, name, section = waiting.pop(0)
        yield place, name, section
        found = []
        for key, value in section.get("properties", {}).items():
            listed = value.get("type") in ("array", "object")
            below = _key(place, key) + LISTED * listed
            for inner in re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(value)):
                if inner not in seen:
                    found.append((below, inner, schema["$defs"][inner]))
                    seen.add(inner)
        waiting = found + waiting


def _heading(title: str, place: str, section: Schema) -> str:
    kind = section.get("properties", {}).get("kind", {}).get("const")
    if not place:
        return f"Keys of the {title[0].lower()}{title[1:]}"
    words = f"`{place.removesuffix(LISTED)}`" + ", an item" * place.endswith(LISTED)
    return f"{words}, kind `{kind}`" if kind else words


def _key(place: str, key: str) -> str:
    return f"{place.removesuffix(LISTED)}.{key}" if place else key


def _table(place: str, section: Schema, parts: Mapping[str, Schema]) -> str:
    rows = ["| key | type | default | what it is |", "|---|---|---|---|"]
    for key, value in section["properties"].items():
        if "const" in value:
            continue
        whole = key if place.endswith(LISTED) else _key(place, key)
        needed = key in section.get("required", ())
        default = "needed" if needed else _default(value.get("default"), parts)
        text = value.get("description") or _of_part(value, parts)
        cells = (f"`{whole}`", _type(value), default, _one_line(text))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else "No further keys."


def _of_part(value: Schema, parts: Mapping[str, Schema]) -> str:
    """What a section says of itself, for a key that says nothing."""
    text: str = parts.get(value.get("$ref", "").rpartition("/")[2], {}).get("description", "")
    return text


def _type(value: Schema) -> str:
    """In plain words, with what is allowed."""
    if "anyOf" in value:
        options = [each for each in value["anyOf"] if each.get("type") != "null"]
        return " or ".join(map(_type, options)) + ", or empty"
    if "$ref" in value:
        return f"section @{value['$ref'].rpartition('/')[2]}@"
    if "oneOf" in value:
        kinds = value["discriminator"]["mapping"].items()
        named = [f"[`{kind}`]@{ref.rpartition('/')[2]}@" for kind, ref in kinds]
        return "section with `kind`: " + _listed(named)
    if "enum" in value:
        return _listed([f"`{each}`" for each in value["enum"]])
    if value.get("type") == "object":
        return f"names, each with: {_type(value['additionalProperties'])}"
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"{len(value['prefixItems'])} numbers"
        least = f" (at least {value['minItems']})" if value.get("minItems") else ""
        return f"list{least} of: {_type(value['items'])}"
    if value.get("type") == "string":
        return _text(value)
    if value.get("type") in TYPES:
        return TYPES[value["type"]] + _range(value)
    if "type" not in value:
        return FREE
    raise TypeError(f"a configuration key has the schema {value}, for which there are no words")


def _text(value: Schema) -> str:
    if value.get("format") == "path":
        return "path"
    if pattern := value.get("pattern"):
        return PATTERNS.get(pattern, f"text that matches `{pattern}`")
    return "text"


def _range(value: Schema) -> str:
    """What a number may be: ` from 1 to 5`, ` above 0, below 1`."""
    at_most = "to" if "minimum" in value else ", at most"
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": at_most,
             "exclusiveMaximum": ", below"}  # fmt: skip
    bounds = [
        f" {word} {_number(value[key])}"
        for key, word in words.items()
        if value.get(key, LARGE) < LARGE
    ]
    return "".join(bounds).replace(" ,", "," if len(bounds) > 1 else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _default(default: object, parts: Mapping[str, Schema]) -> str:
    if default in (None, [], {}, ""):
        return "empty"
    short = _without_defaults(default, parts)
    if short == {}:
        return "its defaults"
    return f"`{_yaml(short)}`"


def _without_defaults(value: object, parts: Mapping[str, Schema]) -> object:
    """Sections in a default keep their kind, and the keys that differ from the section's own."""
    if isinstance(value, list):
        return [_without_defaults(each, parts) for each in value]
    if not isinstance(value, dict):
        return value
    for part in parts.values():
        properties = part.get("properties", {})
        own = {key: each.get("default", {}) for key, each in properties.items()}
        if own.keys() == value.keys() and own.get("kind") == value.get("kind"):
            return {
                key: _without_defaults(each, parts)
                for key, each in value.items()
                if key == "kind" or each != own[key]
            }
    return value


def _yaml(value: object) -> str:
    """As it can be written in a YAML file and behind `key=` on the command line."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case list():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            kind = [(key, each) for key, each in value.items() if key == "kind"]
            rest = [(key, each) for key, each in value.items() if key != "kind"]
            return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in kind + rest) + "}"
    return str(value)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def anchor(heading: str) -> str:
    """The name that GitHub gives to a heading: what a link to it has behind the `#`."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _linked(text: str, headings: Mapping[str, str]) -> str:
    """References to sections become links to their headings."""

    def link(found: re.Match[str]) -> str:
        words, name = found.group(1), found.group(2)
        return f"{words or f'[{headings[name]}]'}(#{anchor(headings[name])})"

    return re.sub(r"(\[[^\]]*\])?@(\w+)@", link, text)
