"""Which sites get which message, and what of their answers is used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.serverapp import Grid

from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.errors import FederationError, ManifestError
from medsa_model.logs import logger
from medsa_model.records import to_arrays, to_state
from medsa_model.state import AdapterState, Manifest, check_state
from medsa_model.strategies import Update
from server.exchange import Answer, exchange


@dataclass(frozen=True)
class Node:
    """A site that answered the first message, and how many cases of each part it has."""

    node_id: int
    site: str
    cases: dict[str, int]


def introduce(
    grid: Grid, unknown: Mapping[int, str | None], timeout: float
) -> tuple[list[Node], set[int]]:
    """Ask the nodes of `unknown` who they are, for at most `timeout` seconds.

    Maps node ids to the names they were registered under, `None` where nobody registered them.
    Returns the nodes sorted by site, so that the order of sums is fixed, and the ids of those that
    did not answer. Who claims another name than its key was registered for is left out. Raises
    `FederationError` when two nodes claim the same site, or when an answer is no introduction.
    """
    nodes: dict[str, Node] = {}
    silent = set(unknown)
    targets = {node_id: name or str(node_id) for node_id, name in unknown.items()}
    for answer in exchange(grid, targets, MessageType.QUERY, RecordDict(), "0", timeout):
        if answer.message.has_error():
            logger.warning("%s: %s", answer.site, answer.message.error.reason)
            continue
        silent.discard(answer.node_id)
        content = answer.message.content
        try:
            site = str(content.config_records["site"]["site"])
            counts = content.metric_records["cases"].items()
            cases = {str(part): int(str(count)) for part, count in counts}
        except (KeyError, ValueError) as error:
            raise FederationError(f"node {answer.site} did not introduce itself") from error
        registered = unknown[answer.node_id]
        if registered not in (None, site):
            logger.warning(
                "a node says that it is site %r, but its key was registered for %r: it is left "
                "out; the two must be equal in the kit's site.yaml", site, registered,
            )  # fmt: skip
            continue
        if site in nodes:
            raise FederationError(f"two nodes say that they are site {site!r}")
        nodes[site] = Node(answer.node_id, site, cases)
    return sorted(nodes.values(), key=lambda node: node.site), silent


def order(config: RunConfig, manifest: Manifest, state: AdapterState, **more: str) -> RecordDict:
    """The content of a train or evaluate message: global state, run, manifest."""
    record = {
        "run": config.for_sites(),
        "version": __version__,
        "base": manifest.base_sha256,
        "manifest": manifest.sha256,
        **more,
    }
    return RecordDict(
        {"arrays": to_arrays(state, manifest.shapes), "config": ConfigRecord(dict(record))}
    )


def accept(answer: Answer, manifest: Manifest, most_examples: int) -> Update:
    """The update of a site; raises `ManifestError` when it must not enter the mean.

    A site weighs no more than the `most_examples` training cases that it introduced itself with.
    """
    if answer.message.has_error():
        raise ManifestError(answer.message.error.reason or "no reason given")
    content = answer.message.content
    if "arrays" not in content.array_records or "metrics" not in content.metric_records:
        raise ManifestError("the answer lacks its arrays or its metrics")
    state = to_state(content.array_records["arrays"], manifest.shapes)
    check_state(state, manifest.shapes)
    metrics = content.metric_records["metrics"]
    examples = metrics.get("num-examples")
    if not isinstance(examples, int) or not 1 <= examples <= most_examples:
        raise ManifestError(f"num-examples is {examples!r}, expected 1 to {most_examples}")
    for name in ("loss", "seconds", "images", "memory"):
        if not isinstance(metrics.get(name), int | float):
            raise ManifestError(f"the metric {name} is missing")
    return Update({name: state[name] for name in manifest.shapes}, examples)


@dataclass(frozen=True)
class Scores:
    """What a site answers to an evaluation: Dice, IoU and number of cases by prompt.

    `empty` counts its cases without a structure, which are in none of them.
    """

    by_prompt: dict[str, tuple[float, float, int]]
    empty: int


def read_scores(answer: Answer, prompts: Sequence[str]) -> Scores:
    """The scores in an answer; raises `ManifestError` when they are none."""
    if answer.message.has_error():
        raise ManifestError(answer.message.error.reason or "no reason given")
    metrics: Mapping[str, object] = answer.message.content.metric_records.get("metrics", {})
    empty = metrics.get("empty")
    if not isinstance(empty, int) or empty < 0:
        raise ManifestError(f"the number of empty cases is {empty!r}, expected 0 or more")
    by_prompt = {}
    for prompt in prompts:
        values = [metrics.get(f"{prompt}/{name}") for name in ("dice", "iou", "cases")]
        if values == [None, None, None]:
            continue  # none of the site's cases has a structure to ask for
        dice, iou, cases = (float(v) if isinstance(v, int | float) else math.nan for v in values)
        if not (0 <= dice <= 1 and 0 <= iou <= 1 and 1 <= cases < math.inf):
            raise ManifestError(f"the scores for prompt {prompt} are {values}")
        by_prompt[prompt] = (dice, iou, int(cases))
    return Scores(by_prompt, empty)
