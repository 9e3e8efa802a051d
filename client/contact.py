"""Whether the coordinator answers while a site takes part: told once for each change.

Flower's SuperNode tries again and again without a word when its connection is lost, so that the
site asks by itself, beside it.
"""

import time
from dataclasses import dataclass, field
from threading import Event, Lock

import httpx

from client.config import SiteConfig
from client.connection import FinalProblem, check_connection
from medsa_model.errors import ConnectionProblem
from medsa_model.logs import logger

LOOK, AGAIN = 15.0, 5.0  # seconds between questions: while it answers, while it does not
FAILURES = 2  # in a row; a single question may be lost at a busy moment


@dataclass
class Contact:
    """`made`: whether the coordinator has answered at all; `since` is when it began to fail (`time`
    of the clock), 0 while it answers. `told` is the kind of problem that stands in the log."""

    made: bool = False
    failures: int = 0
    since: float = 0.0
    told: str = ""
    lock: Lock = field(default_factory=Lock, repr=False)


def watch(config: SiteConfig, contact: Contact, ended: Event) -> None:
    """Ask the coordinator now and then until `ended`; for a thread of its own."""
    while not ended.wait(AGAIN if contact.failures else LOOK):
        ask(config, contact)


def ask(config: SiteConfig, contact: Contact) -> None:
    """Ask the coordinator once; what comes of it changes `contact`."""
    try:
        check_connection(config)
    except Exception as problem:  # whatever it answers must not end the thread
        failed(contact, problem)
    else:
        answered(contact)


def answered(contact: Contact) -> None:
    """The coordinator has answered."""
    with contact.lock:
        if contact.told:
            logger.info("the coordinator is back")
        contact.made, contact.failures, contact.since, contact.told = True, 0, 0.0, ""


def failed(contact: Contact, problem: Exception) -> None:
    """The coordinator has not answered, or has turned this site away (`FinalProblem`)."""
    final = isinstance(problem, FinalProblem)
    kind = "turned away" if final else "no answer"
    if not isinstance(problem, ConnectionProblem | OSError | httpx.HTTPError):
        kind = "another problem"  # such as a key of this site that cannot be read
    with contact.lock:
        contact.failures += 1
        contact.since = contact.since or time.time()
        if contact.told == kind or (contact.failures < FAILURES and not final):
            return
        contact.told = kind
        if kind != "no answer":
            logger.warning("%s", str(problem) or type(problem).__name__)
            return
        since = time.strftime("%H:%M:%S", time.localtime(contact.since))
        logger.warning("the coordinator does not answer since %s; trying again: %s", since, problem)
