"""The figures: readable pictures for any number of sites and any names."""

import io
import warnings
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.image import imread

from medsa_model.figures import NARROW, draw_progress, draw_sites


def texts(svg: bytes) -> str:
    root = ElementTree.fromstring(svg)
    return "\n".join(element.text or "" for element in root.iter() if element.text)


@pytest.mark.parametrize("count", [0, 8, 30])
def test_progress_is_a_readable_picture_for_any_number_of_sites(count: int) -> None:
    dice = {f"site {number}": {1: 0.5, 2: 0.7} for number in range(count)}
    mean = {1: 0.5, 2: 0.7} if count else {}
    height, width = imread(io.BytesIO(draw_progress(dice, mean, dice, "png"))).shape[:2]
    assert height > 300
    assert width > 1000


def test_every_site_is_in_the_legend_while_colours_last() -> None:
    dice = {f"site {number}": {1: 0.5} for number in range(8)}
    shown = texts(draw_progress(dice, {1: 0.5}, {}, "svg"))
    assert all(site in shown for site in dice)
    assert "mean over cases" in shown


def test_more_sites_than_colours_share_one_entry_of_the_legend() -> None:
    dice = {f"site {number}": {1: 0.5} for number in range(9)}
    shown = texts(draw_progress(dice, {1: 0.5}, {}, "svg"))
    assert shown.count("one line a site") == 1
    assert "site 3" not in shown


NAMES = ["<script>alert(1)</script>", "$x_1$", "_hidden", "東京", "a\x00b\nc\ud800", "$", "%"]


def test_any_name_of_a_site_can_be_drawn() -> None:
    dice = {name: {1: 0.5} for name in NAMES}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw_progress(dice, {1: 0.5}, dice, "svg")
        dots = draw_sites(NAMES, {"federated": dict.fromkeys(NAMES, 0.5)})
    for picture in (svg, dots):
        assert b"<script" not in picture
        shown = texts(picture).splitlines()
        for name in NAMES:
            expected = "".join(letter if letter.isprintable() else "?" for letter in name)
            assert expected in shown


def test_a_row_keeps_its_colour_when_others_are_missing() -> None:
    every = {name: {"a": 0.5} for name in ("zero_shot", "local", "federated", "centralized")}
    blue = b"#0072b2"
    assert blue in draw_sites(["a"], every)
    assert blue in draw_sites(["a"], {"federated": {"a": 0.5}})
    assert blue not in draw_sites(["a"], {"local": {"a": 0.5}})


def test_a_missing_score_leaves_a_place_empty() -> None:
    assert b"<svg" in draw_sites(["a", "b"], {"federated": {"a": 0.5}, "local": {}})


def test_narrow_figures_say_everything() -> None:
    site = "a-hospital-with-a-long-name"
    dots = draw_sites([site], {"federated": {site: 0.5}}, "click", NARROW)
    curves = draw_progress({site: {1: 0.5}}, {1: 0.5}, {site: {1: 0.5}}, "svg", NARROW)
    for picture in (dots, curves):
        root = ElementTree.fromstring(picture)
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * NARROW)
        assert site in texts(picture)
    assert "Test Dice, prompt: click" in texts(dots)
    assert {"Training loss", "Dice on validation cases"} <= {*texts(curves).splitlines()}


def test_the_same_numbers_give_the_same_bytes() -> None:
    curves = {"a": {1: 0.5, 2: 0.6}}
    assert draw_progress(curves, {1: 0.5}, curves, "svg") == draw_progress(
        curves, {1: 0.5}, curves, "svg"
    )
