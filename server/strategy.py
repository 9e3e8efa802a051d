"""Which sites get which message, and what of their answers is used."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from medsa_model.config import RunConfig
from medsa_model.errors import FederationError, ManifestError
from medsa_model.records import serialised_bytes, to_arrays, to_state
from medsa_model.state import AdapterState, Manifest, check_state
from medsa_model.strategies import Update


@dataclass(frozen=True)
class Node:
    """A site that answered the first message, and how many cases of each part it has."""

    node_id: int
    site: str
    cases: dict[str, int]


@dataclass(frozen=True)
class Answer:
    """One site's reply with the bytes of both messages as serialised for the wire."""

    site: str
    message: Message
    sent_bytes: int
    received_bytes: int


def introduce(grid: Grid, expected: int, timeout: float) -> list[Node]:
    """Wait for `expected` nodes and ask each who it is, for at most `timeout` seconds.

    Sorted by site, so that the order of sums is fixed. Raises `FederationError` when two nodes
    claim the same site, or when a node's answer is not an introduction.
    """
    deadline = time.monotonic() + timeout
    while len(ids := list(grid.get_node_ids())) < expected and time.monotonic() < deadline:
        time.sleep(0.2)
    nodes: dict[str, Node] = {}
    targets = {node_id: str(node_id) for node_id in ids}
    for answer in exchange(grid, targets, MessageType.QUERY, RecordDict(), "0", timeout):
        if answer.message.has_error():
            continue
        content = answer.message.content
        try:
            site = str(content.config_records["site"]["site"])
            counts = content.metric_records["cases"].items()
            cases = {str(part): int(str(count)) for part, count in counts}
        except (KeyError, ValueError) as error:
            raise FederationError(f"node {answer.site} did not introduce itself") from error
        if site in nodes:
            raise FederationError(f"two nodes say that they are site {site!r}")
        nodes[site] = Node(answer.message.metadata.src_node_id, site, cases)
    return sorted(nodes.values(), key=lambda node: node.site)


def order(config: RunConfig, manifest: Manifest, state: AdapterState, **more: str) -> RecordDict:
    """The content of a train or evaluate message: global state, run, manifest."""
    record = ConfigRecord({"run": config.for_sites(), "manifest": manifest.sha256, **more})
    return RecordDict({"arrays": to_arrays(state), "config": record})


def exchange(
    grid: Grid,
    targets: dict[int, str],
    message_type: str,
    content: RecordDict,
    group: str,
    timeout: float,
) -> Iterator[Answer]:
    """Send `content` to all targets (node id to site) and yield answers as they arrive.

    Ends when all have answered or after `timeout` seconds; who is missing then is left out.
    """
    sent_bytes = serialised_bytes(content)
    messages = [
        Message(content, dst_node_id=node_id, message_type=message_type, group_id=group)
        for node_id in targets
    ]
    pending = dict(zip(grid.push_messages(messages), targets.values(), strict=True))
    deadline, pause = time.monotonic() + timeout, 0.05
    while pending and time.monotonic() < deadline:
        arrived = list(grid.pull_messages(list(pending)))
        for reply in arrived:
            site = pending.pop(reply.metadata.reply_to_message_id)
            size = 0 if reply.has_error() else serialised_bytes(reply.content)
            yield Answer(site, reply, sent_bytes, size)
        pause = 0.05 if arrived else min(2 * pause, 1.0)
        if pending and not arrived:
            time.sleep(pause)


def accept(answer: Answer, manifest: Manifest, most_examples: int) -> Update:
    """The update of a site; raises `ManifestError` when it must not enter the mean.

    A site weighs no more than the `most_examples` training cases that it introduced itself with.
    """
    if answer.message.has_error():
        raise ManifestError(answer.message.error.reason or "no reason given")
    content = answer.message.content
    if "arrays" not in content.array_records or "metrics" not in content.metric_records:
        raise ManifestError("the answer lacks its arrays or its metrics")
    state = to_state(content.array_records["arrays"])
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
        if not (0 <= dice <= 1 and 0 <= iou <= 1 and cases >= 1):
            raise ManifestError(f"the scores for prompt {prompt} are {values}")
        by_prompt[prompt] = (dice, iou, int(cases))
    return Scores(by_prompt, empty)
