"""Who takes part: the nodes by site, and which sites are not asked any more."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flwr.serverapp import Grid

from medsa_model.logs import logger
from medsa_model.rejections import BLAMELESS, Code
from server.flower_private import connected
from server.introduction import Node, introduce

LOOK = 0.2  # seconds between two looks at who is connected
NEWCOMER_SECONDS = 30.0  # longest wait for the introduction of a site that joins during the run
SILENT_SECONDS = 3.0  # the same for one that did not answer before
STRIKES = 3  # rejected answers after which a site is not asked any more


@dataclass
class Roster:
    """Nodes by site, the activation of every node that was asked, and what is held against sites.

    `receipts` is the file of what is remembered of privacy ledgers in a `private` run.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    """Nodes that did not answer the last time; they are asked again, but not waited for long."""
    private: bool = False
    receipts: Path | None = None
    barred: set[str] = field(default_factory=set)
    """Sites whose privacy ledger went backwards: not asked again in this run."""
    strikes: Counter[str] = field(default_factory=Counter)
    """Rejected answers by site."""

    def strike(self, site: str, code: Code) -> bool:
        """Count a rejected answer; whether it is the one after which the site is in quarantine."""
        if code in BLAMELESS:
            return False
        self.strikes[site] += 1
        return self.strikes[site] == STRIKES

    @property
    def quarantined(self) -> set[str]:
        """Sites that are not asked again in this run."""
        return {site for site, strikes in self.strikes.items() if strikes >= STRIKES}


def strikes_after(
    number: int, facts: Mapping[str, object], events: Iterable[Mapping[str, object]]
) -> Counter[str]:
    """Strikes by site after round `number`, whose `facts` (round.json) have them.

    Those of a round that is done again count anew, so that a run that goes on ends as one that was
    not interrupted. A site that was readmitted since then (metrics) has none.
    """
    found = facts.get("strikes")
    strikes = Counter({str(k): int(v) for k, v in found.items()} if isinstance(found, dict) else {})
    for event in events:
        later = isinstance(after := event.get("round"), int) and after >= number
        if event.get("event") == "readmitted" and later:
            del strikes[str(event.get("site"))]
    return strikes


def present(
    grid: Grid, roster: Roster, first: int, least: int, timeout: float,
    wanted: Sequence[str] | None, note: Callable[..., None],
) -> list[Node]:  # fmt: skip
    """The connected sites by name; who is new or was restarted introduces itself before.

    Waits for `first` nodes at the start and for `least` later, at most `timeout` seconds. `wanted`
    are the sites that are asked for, `None` all. Of two nodes that say that they are the same site
    the one that was first stays while it is connected. `note` writes into the audit log who came.
    """
    begins = not roster.asked
    excluded = roster.barred | roster.quarantined
    idle = {
        node.node_id for site, node in roster.nodes.items()
        if site in excluded or (wanted is not None and site not in wanted)
    }  # fmt: skip
    deadline = time.monotonic() + timeout
    while len((nodes := connected(grid)).keys() - idle) < (first if begins else least):
        if time.monotonic() >= deadline:
            break
        time.sleep(LOOK)
    new = [i for i, node in nodes.items() if roster.asked.get(i) != node.activated]
    unknown = {i: nodes[i].name or None for i in {*new, *(roster.silent & nodes.keys())}}
    roster.asked |= {i: nodes[i].activated for i in unknown}
    patience = NEWCOMER_SECONDS if new else SILENT_SECONDS
    longest = timeout if begins else min(timeout, patience)
    known, silent = list[Node](), set[int]()
    if unknown:
        known, silent = introduce(grid, unknown, longest, roster.private, roster.receipts, note)
    roster.silent = (roster.silent - unknown.keys()) | silent
    for node in known:
        before = roster.nodes.get(node.site)
        if before and before.node_id != node.node_id and before.node_id in nodes:
            logger.warning(
                "another node says too that it is site %r: it is left out while the first is "
                "connected; two processes may use one kit", node.site,
            )  # fmt: skip
            roster.silent.add(node.node_id)  # asked again: the first may leave
            continue
        roster.nodes[node.site] = node
        note("joined", site=node.site, node=str(node.node_id), cases=node.cases)
    return [
        node for site, node in sorted(roster.nodes.items())
        if node.node_id in nodes and (wanted is None or site in wanted) and site not in excluded
    ]  # fmt: skip
