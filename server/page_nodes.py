"""Which sites are connected, asked of the SuperLink seldom, whatever the number of readers."""

import time
from threading import Lock, Thread

from server.flower_private import NodeRow, SuperLink, control, list_nodes

EVERY = 2.0  # seconds between two questions at least
PATIENCE = 0.5  # seconds that a reader waits for the answer; the next one finds it


class Nodes:
    """The sites' nodes by name; asked in a thread of its own, since a SuperLink may hang."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.asked = -EVERY
        self.thread: Thread | None = None
        self.found: dict[str, NodeRow] = {}
        self.answers = True
        """Whether the SuperLink has answered the last question."""

    def latest(self, link: SuperLink | None) -> dict[str, NodeRow]:
        """Those of the last answer; without a `link` nobody is asked."""
        with self.lock:
            busy = self.thread is not None and self.thread.is_alive()
            if link and not busy and time.monotonic() - self.asked >= EVERY:
                self.asked = time.monotonic()
                self.thread = Thread(target=self._ask, args=(link,), daemon=True)
                self.thread.start()
            thread = self.thread
        if thread:
            thread.join(PATIENCE)
        return self.found

    def _ask(self, link: SuperLink) -> None:
        try:
            with control(link) as client:
                nodes = list_nodes(client)
        except Exception:  # what is known is from before, and the page has to say so
            self.answers = False
            return
        self.found = {node.name: node for node in nodes if node.status != "unregistered"}
        self.answers = True
