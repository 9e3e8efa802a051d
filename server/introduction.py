"""Who is there: every node says its site and its numbers of cases before it is asked more."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from medsa_model.data.split import PARTS
from medsa_model.errors import ManifestError
from medsa_model.logs import logger
from medsa_model.rejections import Code
from medsa_model.shown import clean
from medsa_model.validation import check_records, read_numbers, read_settings
from server.exchange import Answer, exchange
from server.receipts import read_receipts, remember

MOST_CASES = 10**7  # of a part


@dataclass(frozen=True)
class Node:
    """A site that answered the first message, and how many cases of each part it has."""

    node_id: int
    site: str
    cases: dict[str, int]


def introduce(
    grid: Grid, unknown: Mapping[int, str | None], timeout: float, private: bool = False,
    receipts: Path | None = None, note: Callable[..., None] = lambda *_, **__: None,
) -> tuple[list[Node], set[int]]:  # fmt: skip
    """Ask the nodes of `unknown` who they are, for at most `timeout` seconds.

    Sites of a `private` run round their numbers of cases. `receipts` is the file of what is
    remembered of their privacy ledgers: a site whose ledger went backwards is left out.

    Maps node ids to the names they were registered under, `None` where nobody registered them.
    Returns the nodes sorted by site, so that the order of sums is fixed, and the ids of those that
    did not answer. Who claims another name than its key was registered for, or one that another
    node has, or answers something else than an introduction, is left out; `note` writes that into
    the audit log.
    """
    nodes: dict[str, Node] = {}
    silent = set(unknown)
    targets = {node_id: name or str(node_id) for node_id, name in unknown.items()}
    content = RecordDict({"config": ConfigRecord({"private": private})})
    for answer in exchange(grid, targets, MessageType.QUERY, content, "0", timeout):
        if answer.message.has_error():
            logger.warning("%s: %s", answer.site, told(answer.message))
            continue
        silent.discard(answer.node_id)
        try:
            node = _read_introduction(answer)
            registered = unknown[answer.node_id]
            if registered not in (None, node.site):
                raise ManifestError(
                    f"it says that it is site {clean(node.site)[:64]!r}, but its key was "
                    f"registered for {registered!r}; the two must be equal in the kit's site.yaml"
                )
            if node.site in nodes:
                raise ManifestError(f"another node says too that it is site {node.site!r}")
            if private and receipts:
                ledger = answer.message.content.config_records.get("ledger")
                if ledger or node.site in read_receipts(receipts):
                    remember(receipts, node.site, ledger or {})
        except ManifestError as error:
            logger.warning("%s is left out: %s", answer.site, error)
            note("left-out", site=answer.site, reason=clean(str(error)))
            continue
        nodes[node.site] = node
    return sorted(nodes.values(), key=lambda node: node.site), silent


def _read_introduction(answer: Answer) -> Node:
    """Who answered; raises `Rejected` when it is no introduction."""
    content = answer.message.content
    ledger = {"ledger": ConfigRecord} if "ledger" in content else {}
    check_records(content, {"site": ConfigRecord, "cases": MetricRecord, **ledger})
    facts = read_settings(content.config_records["site"], {"site", "version"}, Code.METRICS)
    ranges = dict.fromkeys(PARTS, (0, MOST_CASES))
    counts = read_numbers(content.metric_records["cases"], {}, ranges)
    return Node(answer.node_id, facts["site"], {part: int(counts.get(part, 0)) for part in PARTS})


def told(message: Message) -> str:
    """The reason in an error reply."""
    return clean(message.error.reason or "no reason given")
