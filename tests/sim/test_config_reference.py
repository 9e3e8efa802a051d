"""docs/configuration.md is what the sections say, and has every key of the shipped files."""

import re

import pytest
import yaml

from sim.config_reference import configuration
from tests.printed_commands import PAGES, ROOT

CONFIGURATION = PAGES["docs/configuration.md"]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def test_the_keys_are_current():
    made = "python -m sim.config_reference > docs/configuration.md"
    assert configuration() == CONFIGURATION, f"make it again: {made}"


def keys(value: object, place: str = "") -> list[str]:
    """Every key of a YAML, with its place; those of items of lists stand alone."""
    if isinstance(value, list):
        return [key for each in value for key in keys(each)]
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        whole = f"{place}.{key}" if place else key
        found += [whole, *keys(inner, whole)]
    return found


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_every_key_of_the_shipped_files_is_there(file):
    asked = set(keys(yaml.safe_load(file.read_text(encoding="utf-8")))) - {"sim"}
    assert len(asked) > 8
    for key in asked:
        if not key.endswith("kind"):  # stands in headings
            assert f"| `{key}` | " in CONFIGURATION, key


def test_every_kind_is_a_heading():
    for file in SHIPPED:
        for kind in re.findall(r"kind: (\w+)", file.read_text(encoding="utf-8")):
            assert f"kind `{kind}`" in CONFIGURATION or f"`{kind}`" in CONFIGURATION
