"""A page in a headless Chromium, as tests of the project's pages look at it.

    with open_page(page.as_uri(), width=390, height=800) as shown:
        assert shown.evaluate("document.title") == "..."

Chromium is driven by its own DevTools protocol over two pipes: no driver, no port, no library.
`skip_without_browser` is for tests that cannot do without.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
PATIENCE = 60.0  # seconds for one answer of the browser
PHONE = 600  # pixels: what is narrower is shown as on a phone, whose scroll bars take no width
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-proxy-server", "--mute-audio", "--remote-debugging-pipe",
)  # fmt: skip

skip_without_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser on PATH: none of {', '.join(NAMES)}"
)


class Page:
    """One page; `console` and `requests` hold what has happened since it was opened."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._rest = to_browser, from_browser, b""
        self._number, self._session = 0, ""
        self._console: list[str] = []
        self._requests: list[str] = []
        self._loaded = False

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the DevTools protocol and its result; `AssertionError` for an error."""
        self._number += 1
        message: dict[str, object] = {
            "id": self._number, "method": method, "params": parameters,
        }  # fmt: skip
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._to, content) :]
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def open(self, url: str, width: int, height: int) -> None:
        """Load `url` in a viewport of `width` x `height` CSS pixels and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.resize(width, height)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self._loaded = False
        told = self.call("Page.navigate", url=url)
        assert "errorText" not in told, f"{url}: {told['errorText']}"
        while not self._loaded:
            self._note(self._next())

    def resize(self, width: int, height: int) -> None:
        """Change the viewport, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < PHONE)  # fmt: skip

    def evaluate(self, script: str) -> Any:
        """The value of an expression, a promise's when it is resolved; `AssertionError` if thrown.

        The page's content security policy does not hold for it.
        """
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                         awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20.0) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {script}"
            time.sleep(0.05)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the viewport, or of the `whole` page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def console(self) -> list[str]:
        """Messages of the console and the log, violations of the policy and exceptions too."""
        self.evaluate("0")  # what comes before its answer is read with it
        return list(self._console)

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, the page's own first; `data:` is inside the page."""
        self.evaluate("0")
        return list(self._requests)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            there, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert there, f"the browser says nothing for {PATIENCE:.0f} s"
            content = os.read(self._from, 2**20)
            assert content, "the browser has ended"
            self._rest += content
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        method, facts = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.consoleAPICalled":
            words = [str(each.get("value", each.get("description"))) for each in facts["args"]]
            self._console.append(f"{facts['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            told = details.get("exception", {}).get("description", details["text"])
            self._console.append(f"exception: {told}")
        elif method == "Log.entryAdded":
            self._console.append(f"{facts['entry']['level']}: {facts['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = str(facts["request"]["url"])
            if not url.startswith("data:"):
                self._requests.append(url)


@contextmanager
def open_page(url: str, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A browser with an empty profile that shows `url`; it is ended with the block."""
    assert BROWSER is not None, "no browser on PATH"
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        reads, to_browser = os.pipe()
        from_browser, writes = os.pipe()
        # the browser reads from its file 3 and writes to its file 4
        command = f'exec "$0" "$@" 3</dev/fd/{reads} 4>/dev/fd/{writes}'
        process = subprocess.Popen(
            ["sh", "-c", command, BROWSER, *FLAGS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(reads, writes), env={**os.environ, "HOME": profile},
        )  # fmt: skip
        os.close(reads)
        os.close(writes)
        page = Page(to_browser, from_browser)
        try:
            page.open(url, width, height)
            yield page
        finally:
            os.close(to_browser)  # the browser ends when nobody can speak to it any more
            os.close(from_browser)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
