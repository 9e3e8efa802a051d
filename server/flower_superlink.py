"""Flower's SuperLink, for many sites whose clocks differ. flwr is pinned.

The door in front has checked every stamp already; Flower's own tolerance of 5 seconds would refuse
a site whose clock is a minute ahead, which the door and `--check` call well. And its database waits
5 seconds for another writer, then the request fails and with it the site's answer: with fifty sites
that answer at once on a slow disk this happens.
"""

from importlib.metadata import distribution

import flwr.supercore.sql_mixin as sql_mixin
import flwr.superlink.routers.fleet.node_auth as node_auth

from server.stamps import TOLERANCE

BUSY = 25_000  # milliseconds; the door waits 30 seconds


def main() -> None:
    """Run `flower-superlink` with this process's arguments."""
    node_auth.SYSTEM_TIME_TOLERANCE = TOLERANCE  # type: ignore[attr-defined, assignment]
    pragmas = {**dict(vars(sql_mixin)["SQLITE_PRAGMAS"]), "busy_timeout": str(BUSY)}
    sql_mixin.SQLITE_PRAGMAS = tuple(pragmas.items())  # type: ignore[attr-defined, assignment]
    scripts = distribution("flwr").entry_points.select(
        group="console_scripts", name="flower-superlink"
    )
    (program,) = scripts
    program.load()()


if __name__ == "__main__":
    main()
