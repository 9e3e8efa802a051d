"""The resident worker: the process that holds the GPU and answers the coordinator's messages.

`python -m client.worker`, started by `client/run.py`. The backbone is loaded once. What it executes
is the ClientApp of the installed wheel; a run's bundle is looked at and never unpacked. Ends with 0
after the farewell, with 1 for an error that a new start would not mend, and otherwise is started
again.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import httpx
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from client.app import FAREWELL, make_app
from client.config import load_site
from client.flower_private import (
    APP,
    FILES,
    Task,
    acquire,
    answer_for,
    drop,
    names_in,
    open_task,
    pull,
    push,
    remember,
)
from client.opened import check_cases, open_site
from medsa_model.child import end_with_parent
from medsa_model.errors import MedsaError
from medsa_model.logs import log_to_file, logger, set_up
from medsa_model.refusals import Reason, Refused

CRASHED = 70  # exit code, EX_SOFTWARE
READY = "ready"  # file in the state folder: data are read and checked, messages may come
PAUSE = 0.03  # seconds between looks for a message
AWAY = 0.5  # seconds between tries while the SuperNode is away
ARRIVAL = 2.0  # seconds to wait for a message before looking for a newer one
DELIVERY = 2.0  # seconds for the SuperNode to send the last answer


def main(arguments: list[str] | None = None) -> int:
    """The command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m client.worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("override", nargs="*")
    options = parser.parse_args(arguments)
    end_with_parent()
    set_up(verbose=False)
    try:
        config = load_site(options.config, options.override)
        log_to_file(config.state / "worker.log")
        site = open_site(config)
        if empty := check_cases(site):
            logger.warning("%d case(s) have no structure: not prompted, not scored", empty)
    except MedsaError as error:
        print(f"client/run.py: {error}", file=sys.stderr)
        return 1
    secret = options.secret_file.read_bytes()
    (config.state / READY).touch()
    try:
        serve(make_app(lambda _: site), options.address, secret, config.state / "token")
    except Exception:
        logger.exception("unexpected error between two messages")
        return CRASHED
    return 0


def serve(app: ClientApp, address: str, secret: bytes, unfinished: Path) -> None:
    """Answer messages until the farewell.

    What is at work is noted in the file `unfinished`: a worker that starts after one that was
    killed tells the coordinator at once, instead of letting it wait for a minute.
    """
    while True:
        try:
            if unfinished.exists():
                memory = unfinished.read_text()
                unfinished.unlink()
                answer_for(address, memory)
            taken = take(address, secret)
        except (httpx.HTTPError, RuntimeError, ValueError):
            time.sleep(AWAY)  # the SuperNode is away, or has given the message up
            continue
        if taken is None:
            time.sleep(PAUSE)
            continue
        task, message, token = taken
        write_secret(unfinished, remember(message, token))
        kind, started = message.metadata.message_type, time.monotonic()
        reply = answer(app, task, message)
        try:
            push(task, reply)
        except (httpx.HTTPError, RuntimeError) as error:
            kind_of_error = type(error).__name__
            logger.warning("the answer was not taken (%s); it is asked for again", kind_of_error)
        unfinished.unlink(missing_ok=True)
        logger.info(
            "%s, round %s: %s in %.1f s", kind, message.metadata.group_id,
            "refused or failed" if reply.has_error() else "answered", time.monotonic() - started,
        )  # fmt: skip
        if kind == FAREWELL:
            time.sleep(DELIVERY)
            return


def take(address: str, secret: bytes) -> tuple[Task, Message, str] | None:
    """The next message with its task and token; `None` when there is none.

    The SuperNode hands out a task before its message has arrived, and handles one message at a
    time: when there is a newer task, the message of this one will never come.
    """
    token = acquire(address, secret)
    if token is None:
        return None
    task = open_task(address, token)
    try:
        while (message := pull(task, ARRIVAL)) is None:
            if newer := acquire(address, secret):
                drop(task)
                token, task = newer, open_task(address, newer)
    except (httpx.HTTPError, RuntimeError, ValueError):
        drop(task)
        raise
    return task, message, token


def answer(app: ClientApp, task: Task, message: Message) -> Message:
    """What the installed app says, or why the run is refused before it is asked."""
    try:
        check_bundle(task)
    except Refused as refused:
        logger.error("refused: %s", refused)
        return Message(Error(refused.reason, str(refused)), reply_to=message)
    return app(message=message, context=task.context)


def check_bundle(task: Task) -> None:
    """Refuse a run of another app, and a bundle that was altered or carries code."""
    if not task.intact:
        raise Refused(Reason.BUNDLE, "its content has another hash than the run promises")
    if task.app != APP:
        raise Refused(Reason.BUNDLE, f"it is of the app {task.app!r}, this site serves {APP!r}")
    try:
        more = names_in(task.content) - FILES
    except ValueError as error:
        raise Refused(Reason.BUNDLE, str(error)) from error
    if more:
        raise Refused(
            Reason.BUNDLE, f"it holds {len(more)} file(s) beside its settings, such as "
            f"{min(more)!r}; a site executes only what is installed there",
        )  # fmt: skip


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this account can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    raise SystemExit(main())
