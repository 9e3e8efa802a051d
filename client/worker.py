"""The resident worker: the process that holds the GPU and answers the coordinator's messages.

`python -m client.worker`, started by `client/run.py`. The backbone is loaded once. What it executes
is the ClientApp of this installation; a run's bundle is looked at and never unpacked. Ends with 0
after the farewell, with 1 for an error that a new start would not mend, and otherwise is started
again.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import httpx
from flwr.app import Error, Message, MessageType
from flwr.clientapp import ClientApp

from client.app import FAREWELL, make_app
from client.config import load_site
from client.flower_fleet import confine
from client.flower_private import (
    APP,
    FILES,
    Task,
    acquire,
    answer_for,
    drop,
    give_up,
    leave,
    names_in,
    open_task,
    pull,
    push,
    remember,
)
from client.opened import check_cases, open_site
from client.reached import SUPERNODE, SuperNode, check_owner, hang_up, reach
from medsa_model.child import end_with_parent
from medsa_model.config import RunConfig
from medsa_model.errors import ConnectionProblem, MedsaError
from medsa_model.logs import log_to_file, logger, set_up
from medsa_model.records import unique
from medsa_model.refusals import Reason, Refused

CRASHED = 70  # exit code, EX_SOFTWARE
READY = "ready"  # file in the state folder: data are read and checked, messages may come
PAUSE = 0.03  # seconds between looks for a message
AWAY = 0.5  # seconds between tries while the SuperNode is away
ARRIVAL = 2.0  # seconds to wait for a message before looking for a newer one
DELIVERY = 2.0  # seconds for the SuperNode to send the last answer
EXPECTED = (httpx.HTTPError, RuntimeError, ValueError, FileNotFoundError, ConnectionProblem)


def main(arguments: list[str] | None = None) -> int:
    """The command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m client.worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("override", nargs="*")
    options = parser.parse_args(arguments)
    end_with_parent()
    confine()
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
    supernode = SuperNode(config.state / SUPERNODE, options.secret_file.read_bytes())
    (config.state / READY).touch()
    try:
        serve(make_app(lambda _: site), supernode, config.state / "token")
    except Exception:
        logger.exception("unexpected error between two messages")
        return CRASHED
    return 0


def serve(app: ClientApp, supernode: SuperNode, unfinished: Path) -> None:
    """Answer messages until the farewell.

    What is at work is noted in the file `unfinished`: a worker that starts after one that was
    killed tells the coordinator at once, instead of letting it wait for a minute.
    """
    problem = ""
    while True:
        try:
            reach(supernode)
            if unfinished.exists():
                memory = unfinished.read_text()
                unfinished.unlink()
                answer_for(supernode.address, memory)
            taken = take(supernode)
        except Exception as error:  # the SuperNode is away, or has given the message up
            hang_up(supernode)
            if not isinstance(error, EXPECTED):
                logger.exception("unexpected error while taking a message")
            elif isinstance(error, ConnectionProblem) and str(error) != problem:
                problem = str(error)
                logger.warning("%s", problem)
            time.sleep(AWAY)
            continue
        if taken is None:
            time.sleep(PAUSE)
            continue
        task, message, token = taken
        write_secret(unfinished, remember(message, token))
        kind, started = message.metadata.message_type, time.monotonic()
        reply = answer(app, task, message)
        lost = ""
        try:
            deliver(task, reply, supernode.address)
        except Exception as error:
            lost = f", but not delivered ({type(error).__name__}): it is asked for again"
        unfinished.unlink(missing_ok=True)
        logger.info("%s%s", told(message, reply, time.monotonic() - started), lost)
        if kind == FAREWELL:
            hang_up(supernode)
            time.sleep(DELIVERY)
            return


def take(supernode: SuperNode) -> tuple[Task, Message, str] | None:
    """The next message with its task and token; `None` when there is none.

    The SuperNode hands out a task before its message has arrived, and handles one message at a
    time: when there is a newer task, the message of this one will never come.
    """
    token = acquire(reach(supernode))
    while token is not None:
        task, newer = open_task(supernode.address, token), None
        try:
            while (message := pull(task, ARRIVAL)) is None:
                if newer := acquire(reach(supernode)):
                    break
        except ConnectionProblem:
            leave(task)
            raise
        except (httpx.HTTPError, RuntimeError):
            give_up(task)
            raise
        except Exception as error:  # whatever the coordinator sent as a message
            logger.exception("a message that cannot be read")
            push(task, failed(task.announced, error))
            return None
        if message is not None:
            return task, message, token
        drop(task)
        token = newer
    return None


def deliver(task: Task, reply: Message, address: str) -> None:
    """Hand the reply to the SuperNode at `address`, if it is still the one that listens there."""
    try:
        check_owner(address)
    except ConnectionProblem:
        leave(task)
        raise
    if not reply.has_error():
        reply.content = unique(reply.content)
    push(task, reply)


def answer(app: ClientApp, task: Task, message: Message) -> Message:
    """What the installed app says, or why the run is refused before it is asked."""
    try:
        check_bundle(task)
        return app(message=message, context=task.context)
    except Refused as refused:
        logger.error("refused: %s", refused)
        return Message(Error(refused.reason, str(refused)), reply_to=message)
    except Exception as error:  # such as a type of message that the app does not have
        logger.exception("unexpected error while answering")
        return failed(message, error)


def told(message: Message, reply: Message, seconds: float) -> str:
    """The line of the log on a message that took `seconds`."""
    kind, number = message.metadata.message_type, message.metadata.group_id
    took = f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if reply.has_error():
        return f"{kind}, round {number}, {took}: refused or failed"
    if kind == MessageType.QUERY:
        return "the coordinator was told name, version and numbers of cases"
    settings = message.content.config_records.get("config")
    metrics = reply.content.metric_records.get("metrics")
    if settings is None or metrics is None:
        return f"{kind}, round {number}, {took}: answered"
    run = RunConfig.model_validate_json(str(settings["run"]))  # the app took it
    count = metrics["num-examples"]
    about = "about " if run.privacy else ""  # rounded before it was told
    done = f"{about}{count} {settings.get('part')!s} case{'' if count == 1 else 's'} scored"
    if kind == MessageType.TRAIN:
        loss = metrics.get("loss")  # there is none under differential privacy
        done = "trained" if loss is None else f"trained, loss {loss:.3f}"
    return f"round {number} of {run.rounds}: {done}, {took}"


def failed(message: Message, error: Exception) -> Message:
    """The answer to a message that this site cannot work on: of `error` only its kind is told."""
    reason = f"{type(error).__name__} (details in the site's log)"
    return Message(Error(Reason.FAILED, reason), reply_to=message)


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
