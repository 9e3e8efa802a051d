"""The live page of a real federation, in a real browser."""

import pytest

from medsa_model.loopback import free_port
from tests.browser import open_page, skip_without_browser
from tests.integration.federation import RUN, SITES, federation_at

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), skip_without_browser]

ROUNDS = "Number(document.getElementById('rounds').value)"
OVERFLOW = "document.documentElement.scrollWidth > window.innerWidth"


def text(name: str) -> str:
    return f"document.getElementById('{name}').textContent"


def test_a_browser_follows_a_run_from_the_first_site_to_the_end(tmp_path):
    """One load; what changes comes by itself, from nowhere but the page's own address."""
    run = RUN | {"evaluate": {"every": 1}}
    with federation_at(tmp_path / "f", run, join_seconds=600) as federation:
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        federation.start_server("--page", f"127.0.0.1:{port}")
        federation.wait("the live page", lambda: f"live page: {url}" in federation.output("server"))
        with open_page(url) as page:
            page.evaluate("window.loadedOnce = true")
            page.wait_for(f"{text('words')} === 'Waiting for sites: 0 of 3 are connected'", 120)
            assert not page.evaluate(OVERFLOW)
            federation.start_site(SITES[0])
            page.wait_for(f"{text('words')} === 'Waiting for sites: 1 of 3 are connected'", 180)
            row = f"document.querySelector('tr[data-site={SITES[0]}]').textContent"
            assert "yes" in page.evaluate(row)
            for site in SITES[1:]:
                federation.start_site(site)
            seen = set[int]()
            while 3 not in seen:
                page.wait_for(f"{ROUNDS} > {max(seen, default=0)}", 180)
                seen.add(page.evaluate(ROUNDS))
            page.wait_for(f"{text('words')} === 'The run small is complete'", 120)
            page.wait_for(f"{text('note')}.includes('It is the last one')", 60)
            assert page.evaluate("document.querySelectorAll('#charts g').length") == 7
            detail = page.evaluate(text("detail"))
            assert detail.startswith("Mean Dice 0.") and "test cases of 3 sites)" in detail
            assert detail.endswith("The report is report.html in the run directory.")
            assert page.evaluate(text("problem")) == ""
            assert page.evaluate("window.loadedOnce")
            asked = len(page.requests)
            page.resize(390, 844)
            assert not page.evaluate(OVERFLOW)
            codes = federation.wait_for_end()
            assert set(codes.values()) == {0}, federation.everything()
            assert page.evaluate("document.getElementById('silence').hidden")
            assert page.requests[0] == url and {*page.requests[1:]} == {f"{url}state.json"}
            assert len(page.requests) == asked and page.console == []


def test_a_page_whose_coordinator_was_killed_says_that_there_is_no_answer(tmp_path):
    """And goes on by itself with the one that is started in its place."""
    with federation_at(tmp_path / "f", RUN, join_seconds=600) as federation:
        port = free_port()
        words = ("--page", f"127.0.0.1:{port}")
        federation.start_server(*words)
        federation.wait("the live page", lambda: "live page" in federation.output("server"))
        with open_page(f"http://127.0.0.1:{port}/") as page:
            page.wait_for(f"{text('words')}.startsWith('Waiting for sites')", 120)
            federation.processes["server"].kill()
            federation.processes["server"].wait(10)
            silence = "document.getElementById('silence')"
            page.wait_for(f"!{silence}.hidden", 30)
            assert "The coordinator gives no answer since" in page.evaluate(text("silence"))
            federation.start_server(*words, "--resume")
            page.wait_for(f"{silence}.hidden", 120)
