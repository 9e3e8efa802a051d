"""Flower's SuperLink with the door's tolerance of clocks that are ahead. flwr is pinned.

The door in front has checked every stamp already; Flower's own tolerance of 5 seconds would refuse
a site whose clock is a minute ahead, which the door and `--check` call well.
"""

from importlib.metadata import distribution

import flwr.superlink.routers.fleet.node_auth as node_auth

from server.stamps import TOLERANCE


def main() -> None:
    """Run `flower-superlink` with this process's arguments."""
    node_auth.SYSTEM_TIME_TOLERANCE = TOLERANCE  # type: ignore[attr-defined, assignment]
    scripts = distribution("flwr").entry_points.select(
        group="console_scripts", name="flower-superlink"
    )
    (program,) = scripts
    program.load()()


if __name__ == "__main__":
    main()
