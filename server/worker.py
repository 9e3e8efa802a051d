"""The process that runs the ServerApp: `python -m server.worker`, started by `flower-server`.

It is apart from the SuperLink and from the command, so that each survives the end of the others.
Ends with 0 when the run is complete, and with 1 when a rule or an error ended it, which a new start
would not mend. Whatever else ends it (75: the SuperLink did), a new start goes on after the last
complete round.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import httpx

from medsa_model.child import end_with_parent
from medsa_model.config import load_run
from medsa_model.errors import FederationError, MedsaError
from medsa_model.logs import logger, set_up
from server.app import make_app
from server.flower_private import SuperLink, acquire, execute
from server.rules import Rules

TEMPORARY = 75  # exit code, EX_TEMPFAIL
PATIENCE = 60.0  # seconds for Flower to hand out the task of the run that was submitted


def main(arguments: list[str] | None = None) -> int:
    """The command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m server.worker")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--rules", type=json.loads, required=True)
    options = parser.parse_args(arguments)
    end_with_parent()
    # Flower interrupts a process whose task it has given up: a new start goes on
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    set_up(verbose=False)
    link = SuperLink(options.address, options.certificate, options.secret_file.read_bytes())
    try:
        app = make_app(load_run(options.run / "config.yaml"), options.run, Rules(**options.rules))
        execute(link, take_task(link), app)
    except MedsaError as error:
        print(f"flower-server: {error}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        logger.warning("the SuperLink did not do what it was asked for: %s", error)
        return TEMPORARY
    except OSError as error:  # such as a full disk
        place = f"{error.filename}: " if error.filename else ""
        print(f"flower-server: {place}{error.strerror or error}; correct it and go on with "
              "--resume", file=sys.stderr)  # fmt: skip
        return 1
    except Exception:
        logger.exception("unexpected error in the round loop")
        return 1
    return 0


def take_task(link: SuperLink) -> str:
    """The token of the pending run; raises `FederationError` when there is none."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if token := acquire(link):
            return token
        time.sleep(0.1)
    raise FederationError(f"the SuperLink handed out no task within {PATIENCE:.0f} s")


if __name__ == "__main__":
    raise SystemExit(main())
