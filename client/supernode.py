"""Flower's SuperNode, which speaks to the coordinator and to nobody else.

`python -m client.supernode`, started by `client/run.py`, with the arguments of `flower-supernode`.
"""

import os
import sys
from importlib.metadata import distribution

from client.flower_fleet import confine

PROGRAM = "flower-supernode"
BROKEN_OFF = 1  # exit code


def main() -> None:
    """Run Flower's program; it ends this process."""
    confine()
    scripts = distribution("flwr").entry_points.select(group="console_scripts", name=PROGRAM)
    (program,) = scripts
    program.load()()
    # Flower returns after an error of the connection, but its server thread would hold the process
    # for ever, and nobody would start another one
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(BROKEN_OFF)


if __name__ == "__main__":
    main()
