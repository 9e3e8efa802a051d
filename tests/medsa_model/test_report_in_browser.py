"""report.html in a real browser, on a desk and on a telephone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from medsa_model.report import write_report
from medsa_model.report_values import MISSING
from tests.browser import Page, open_page, skip_without_browser
from tests.medsa_model.made_up_run import write_real_run
from tests.medsa_model.test_report import make_run

pytestmark = [pytest.mark.thorough, skip_without_browser]

LONG = "a-hospital-with-a-name-that-is-longer-than-the-screen-of-a-telephone-is-wide"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PRESS = """(() => {
  const table = document.querySelectorAll("table.sortable")[%d];
  const headings = [...table.tHead.rows[0].cells];
  headings[%d].querySelector("button").click();
  return [...table.tBodies[0].rows].map((row) => row.cells[%d].textContent.trim());
})()"""
INVISIBLE = """[...document.querySelectorAll("img")].filter(
  (image) => !image.complete || image.naturalWidth === 0).length"""
FIGURES = """[...document.querySelectorAll("picture img")].map((image) => {
  const place = image.getBoundingClientRect();
  return [place.width, image.naturalWidth, place.right];
})"""
CUT = """[...document.querySelectorAll("section, header, .result")].filter(
  (part) => part.getBoundingClientRect().right > document.documentElement.clientWidth).length"""


@pytest.fixture(scope="module", params=["real", "simulated"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "real":
        return write_report(write_real_run(place))
    return write_report(make_run(place, ("vienna", LONG)))


@pytest.fixture(params=[1280, 390])
def page(request: pytest.FixtureRequest, report: Path) -> Iterator[Page]:
    with open_page(report.as_uri(), request.param, 900) as shown:
        yield shown


def test_nothing_is_wider_than_the_screen_and_nothing_is_loaded(page: Page, report: Path) -> None:
    assert page.evaluate(WIDER) == 0 and page.evaluate(CUT) == 0
    page.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    assert page.evaluate(WIDER) == 0 and page.evaluate(CUT) == 0
    assert page.evaluate(INVISIBLE) == 0
    assert page.console == []
    assert page.requests == [report.as_uri()]


def test_figures_are_read_without_scrolling(page: Page) -> None:
    """On a telephone another drawing is shown, at its own size, so that letters are not small."""
    narrow = page.evaluate("window.innerWidth") < 700
    pictures = page.evaluate(FIGURES)
    assert len(pictures) == 3
    for shown, drawn, right in pictures:
        assert shown == pytest.approx(drawn, rel=0.02) and right <= page.evaluate("innerWidth")
        assert drawn < 400 if narrow else drawn > 900


def test_a_heading_sorts_by_number_both_ways(page: Page, report: Path) -> None:
    caption, column, falling, without = {
        "real": ("Time, memory and bytes", 4, ["6.5 kB", "3.1 kB", "3.1 kB"], 1),
        "simulated": ("Prompt: box", 2, ["0.882", "0.863", "0.853", "0.801", "0.602"], 0),
    }[report.parent.name.rstrip("0123456789")]
    captions = "[...document.querySelectorAll('table.sortable')].map((t) => t.caption?.textContent)"
    table = page.evaluate(captions).index(caption)
    down, up, again = (page.evaluate(PRESS % (table, column, column)) for _ in range(3))
    missing = [MISSING] * without  # last, whatever the direction
    assert down == falling + missing and up == falling[::-1] + missing and again == down
    names = page.evaluate(PRESS % (table, 0, 0))
    assert names == sorted(names, key=str.lower)


def test_the_policy_stops_what_is_planted(tmp_path: Path) -> None:
    """The other tests would see it: a script and an image that somebody writes into the file."""
    report = write_report(write_real_run(tmp_path))
    planted = "<script>document.title = 'evil'</script><img src='https://127.0.0.1:9/x.png'>"
    report.write_text(report.read_text("utf-8").replace("</main>", planted + "</main>"))
    with open_page(report.as_uri()) as page:
        assert "evil" not in page.evaluate("document.title")
        said = "\n".join(page.console)
        assert "Content Security Policy" in said and "script" in said and "x.png" in said
