"""The live page of a recorded run in a real browser, on a desk and on a telephone."""

import os
from collections.abc import Iterator

import pytest

from medsa_model.loopback import free_port
from server.page_serving import open_page as serve
from tests.browser import Page, open_page, skip_without_browser
from tests.server.page_run import RecordedRun

pytestmark = [pytest.mark.thorough, skip_without_browser]

ASKED = "document.getElementById('note').textContent.includes('asked for every')"
CELLS = "#sites td, #sites tbody th, #rejected td"
OUTSIDE = f"""[...document.querySelectorAll("{CELLS}")].filter((cell) => {{
  const place = cell.getBoundingClientRect();
  if (!place.width || cell.scrollWidth > cell.clientWidth + 1) return true;
  return place.left < 0 || place.right > document.documentElement.clientWidth;
}}).length"""
HEADINGS = """[...document.querySelectorAll("tr[data-site=north] td")].map(
  (cell) => getComputedStyle(cell, "::before").content)"""
SHOWN = """[...document.querySelectorAll(".shown")].map(
  (each) => `${each.tagName} ${each.dataset.site}`)"""
LINES = (
    "[...document.querySelectorAll('#events tbody tr')].filter((row) => row.offsetHeight).length"
)
CUT = """[...document.querySelectorAll("body *")].filter(
  (each) => each.scrollHeight > each.clientHeight + 1 && each.clientHeight
  && getComputedStyle(each).overflowY !== "visible").length"""
MIDDLE = """(() => {
  const row = document.querySelector("tr[data-site=south]");
  row.scrollIntoView();
  const place = row.getBoundingClientRect();
  return [place.left + place.width / 2, place.top + place.height / 2];
})()"""
RING = "document.querySelector('#charts .mean path:last-child').getBoundingClientRect().width"
SOUTH = ["TR south", "g south", "g south"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A run with one validation and an answer that was not used, at a width of 390 pixels."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        run = RecordedRun(tmp_path_factory.mktemp("run"))
        run.state.begin(run.config, run.place)
        run.start()
        run.whole_round(1)
        run.ask(2, "train")
        run.note("rejected", round=2, site="west", code="NORM", what="update",
                 reason="its update is 14 times as long as the median of the others")  # fmt: skip
        port = free_port()
        with (
            serve(run.state, ("127.0.0.1", port)),
            open_page(f"http://127.0.0.1:{port}/", width=390, height=800) as page,
        ):
            page.wait_for(ASKED)
            yield page
            run.state.asked = float("-inf")


def test_on_a_telephone_every_cell_of_a_site_is_visible_under_its_heading(shown):
    for width in (390, 320, 640, 760):
        shown.resize(width, 800)
        assert shown.evaluate(OUTSIDE) == 0, width
        headings = ["Connected", "Last contact", "Loss", "Dice", "Up", "Down"]
        assert shown.evaluate(HEADINGS) == ["none", *(f'"{name}"' for name in headings)]
    shown.resize(1280, 900)
    assert set(shown.evaluate(HEADINGS)) == {"none"} and shown.evaluate(OUTSIDE) == 0


def test_a_single_validation_is_drawn(shown):
    assert shown.evaluate(RING) > 5


def test_the_list_of_events_ends_with_a_whole_line(shown):
    """Nothing that scrolls within the page; earlier events come when they are asked for."""
    for width in (390, 1280):
        shown.resize(width, 800)
        assert (shown.evaluate(LINES), shown.evaluate(CUT)) == (12, 0)
        shown.evaluate("document.getElementById('earlier').click()")
        assert shown.evaluate(LINES) == 15 and shown.evaluate(CUT) == 0
        shown.evaluate("document.getElementById('earlier').click()")


def test_the_line_of_a_site_is_seen_by_pointing_and_by_tapping(shown):
    shown.resize(390, 800)
    shown.call("Emulation.setTouchEmulationEnabled", enabled=True)
    for expected in (SOUTH, []):  # the second tap takes it back
        x, y = shown.evaluate(MIDDLE)
        shown.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        shown.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        shown.wait_for(f"JSON.stringify({SHOWN}) === JSON.stringify({expected})")
    shown.call("Emulation.setTouchEmulationEnabled", enabled=False)
    shown.resize(1280, 900)
    x, y = shown.evaluate(MIDDLE)
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    shown.wait_for(f"JSON.stringify({SHOWN}) === JSON.stringify({SOUTH})")
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    shown.wait_for(f"{SHOWN}.length === 0")
    assert shown.console == []
