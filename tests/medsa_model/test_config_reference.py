"""The reference of configuration files, on sections that are small enough to be read here."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from medsa_model.config_reference import File, anchor, reference
from medsa_model.section import Section


class Round(Section):
    """A round shape."""

    kind: Literal["round"] = "round"
    radius: float = Field(1.5, gt=0, le=10)
    """Radius in mm."""


class Square(Section):
    """A shape with corners."""

    kind: Literal["square"] = "square"
    side: int = Field(ge=1)
    """Side in pixels | rows."""


Shape = Annotated[Round | Square, Field(discriminator="kind")]


class Paint(Section):
    """How it is painted."""

    colours: tuple[str, ...] = ("red", "blue")
    """Names of
    colours."""
    window: tuple[float, float] = (-1.0, 2.5)


class Drawing(Section):
    """One drawing."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    seed: int = Field(0, ge=0, lt=2**63)
    file: Path | None = None
    shape: Shape = Round(radius=2)
    more: tuple[Shape, ...] = Field((Round(), Square(side=3)), min_length=1)
    """Further shapes."""
    by_name: dict[str, tuple[Shape, ...]] = Field(default_factory=dict)
    paint: Paint = Paint()
    other: Paint | None = None
    mode: Literal["dark", "light"] = "dark"
    share: float = Field(0.5, gt=0, lt=1)
    large: int = Field(10, ge=1, le=1_000_000)
    on: bool = True


@pytest.fixture(scope="module")
def page() -> str:
    return reference([File("Drawing YAML", "Of a painter.", Drawing)])


def row(page: str, key: str) -> list[str]:
    """The cells of the one row of `key`."""
    (found,) = re.findall(rf"^\| `{re.escape(key)}` \| (.*) \|$", page, re.MULTILINE)
    return re.split(r" \| ", found)


@pytest.mark.parametrize(
    ("key", "kind", "default"),
    [
        ("name", "1 to 64 letters, digits, `.`, `_`, `-`; no sign first", "needed"),
        ("seed", "whole number from 0", "`0`"),
        ("file", "path, or empty", "empty"),
        ("mode", "`dark` or `light`", "`dark`"),
        ("share", "number above 0, below 1", "`0.5`"),
        ("large", "whole number from 1 to 1,000,000", "`10`"),
        ("on", "true or false", "`true`"),
        ("shape.radius", "number above 0, at most 10", "`1.5`"),
        ("shape.side", "whole number from 1", "needed"),
        ("paint.colours", "list of: text", "`[red, blue]`"),
        ("paint.window", "2 numbers", "`[-1, 2.5]`"),
    ],
)
def test_types_and_defaults_in_words(page, key, kind, default):
    assert row(page, key)[:2] == [kind, default]


def test_texts_are_docstrings_in_one_line_of_a_table(page):
    assert row(page, "paint.colours")[2] == "Names of colours."
    assert row(page, "shape.side")[2] == r"Side in pixels \| rows."
    assert "One drawing." in page and "A shape with corners." in page


def test_unions_link_to_their_kinds_and_keep_what_differs_in_defaults(page):
    kinds = "[`round`](#shape-kind-round) or [`square`](#shape-kind-square)"
    assert row(page, "shape")[:2] == [f"section with `kind`: {kinds}", "`{kind: round, radius: 2}`"]
    assert row(page, "more") == [
        f"list (at least 1) of: section with `kind`: {kinds}",
        "`[{kind: round}, {kind: square, side: 3}]`", "Further shapes.",
    ]  # fmt: skip
    assert row(page, "by_name")[1] == "empty"
    assert row(page, "paint") == ["section [`paint`](#paint)", "its defaults", "How it is painted."]
    assert row(page, "other")[:2] == ["section [`paint`](#paint), or empty", "empty"]


def test_links_are_headings_and_every_section_is_written_once(page):
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    assert headings == [
        "Drawing YAML", "Keys of the drawing YAML", "`shape`, kind `round`",
        "`shape`, kind `square`", "`paint`",
    ]  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= {anchor(each) for each in headings}


def test_items_of_lists_have_keys_without_a_place():
    class Gallery(Section):
        """Several drawings."""

        drawings: tuple[Paint, ...] = ()

    page = reference([File("Gallery", "", Gallery)])
    assert row(page, "colours")[0] == "list of: text"
    assert "### `drawings`, an item" in page


def test_a_section_of_two_files_is_written_once_under_the_first():
    class Wall(Section):
        """Where it hangs."""

        paint: Paint = Paint()

    page = reference([File("A", "", Drawing), File("B", "", Wall, "wall")])
    assert page.count("How it is painted.\n") == 1
    assert "| `wall.paint` | section [`paint`](#paint) |" in page


def test_a_type_without_words_is_an_error():
    class Odd(Section):
        """Nothing that a YAML has."""

        value: None = None

    with pytest.raises(TypeError, match="no words"):
        reference([File("Odd", "", Odd)])
