"""Which sites get which message, and what of their answers is used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.data.split import PARTS
from medsa_model.errors import FederationError, ManifestError
from medsa_model.logs import logger
from medsa_model.records import NONCE, to_arrays, to_state
from medsa_model.state import AdapterState, Manifest, check_state
from medsa_model.strategies import Update
from server.exchange import Answer, exchange

MOST_CASES = 10**7  # of a part
LARGEST_VALUE = 1e6  # of an update; trained adapters stay below 100
LONGEST_REASON = 500  # characters of a reason that are shown


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
    did not answer. Who claims another name than its key was registered for, or answers something
    else than an introduction, is left out. Raises `FederationError` when two nodes claim the same
    site.
    """
    nodes: dict[str, Node] = {}
    silent = set(unknown)
    targets = {node_id: name or str(node_id) for node_id, name in unknown.items()}
    for answer in exchange(grid, targets, MessageType.QUERY, RecordDict(), "0", timeout):
        if answer.message.has_error():
            logger.warning("%s: %s", answer.site, told(answer.message))
            continue
        silent.discard(answer.node_id)
        try:
            node = _read_introduction(answer)
        except ManifestError as error:
            logger.warning("%s is left out: %s", answer.site, error)
            continue
        registered = unknown[answer.node_id]
        if registered not in (None, node.site):
            logger.warning(
                "a node says that it is site %r, but its key was registered for %r: it is left "
                "out; the two must be equal in the kit's site.yaml", node.site[:64], registered,
            )  # fmt: skip
            continue
        if node.site in nodes:
            raise FederationError(f"two nodes say that they are site {node.site!r}")
        nodes[node.site] = node
    return sorted(nodes.values(), key=lambda node: node.site), silent


def _read_introduction(answer: Answer) -> Node:
    """Who answered; raises `ManifestError` when it is no introduction."""
    content = answer.message.content
    site = dict(content.config_records.get("site", {})).get("site")
    counts = dict(content.metric_records.get("cases", {}))
    counts.pop(NONCE, None)
    cases = {part: counts.get(part, 0) for part in PARTS}
    whole = all(isinstance(count, int) and 0 <= count <= MOST_CASES for count in cases.values())
    if not isinstance(site, str) or not counts or not counts.keys() <= cases.keys() or not whole:
        raise ManifestError(
            "its first answer is no introduction: expected its name and its numbers of cases in "
            f"{', '.join(PARTS)}, each 0 to {MOST_CASES}; does it run another version?"
        )
    return Node(answer.node_id, site, {part: int(str(n)) for part, n in cases.items()})


def told(message: Message) -> str:
    """The reason in an error reply."""
    return clean(message.error.reason or "no reason given")


def clean(text: str) -> str:
    """Text with words of a site as one line that is fit for a terminal and a log."""
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:LONGEST_REASON]


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
        raise ManifestError(told(answer.message))
    content = answer.message.content
    if "arrays" not in content.array_records or "metrics" not in content.metric_records:
        raise ManifestError("the answer lacks its arrays or its metrics")
    state = to_state(content.array_records["arrays"], manifest.shapes)
    check_state(state, manifest.shapes)
    largest = max(
        (float(tensor.abs().max()) for tensor in state.values() if tensor.numel()), default=0
    )
    if largest > LARGEST_VALUE:
        raise ManifestError(
            f"the update has values up to {largest:.3g}, expected at most {LARGEST_VALUE:.0e}"
        )
    metrics = content.metric_records["metrics"]
    examples = metrics.get("num-examples")
    if not isinstance(examples, int) or not 1 <= examples <= most_examples:
        raise ManifestError(f"num-examples is {short(examples)}, expected 1 to {most_examples}")
    for name in ("loss", "seconds", "images", "memory"):
        value = metrics.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ManifestError(f"the metric {name} is {short(value)}, expected a finite number")
    return Update({name: state[name] for name in manifest.shapes}, examples)


@dataclass(frozen=True)
class Scores:
    """What a site answers to an evaluation: Dice, IoU and number of cases by prompt.

    `empty` counts its cases without a structure, which are in none of them.
    """

    by_prompt: dict[str, tuple[float, float, int]]
    empty: int


def read_scores(answer: Answer, prompts: Sequence[str], most_cases: int) -> Scores:
    """The scores in an answer, of at most the `most_cases` cases that the site introduced itself
    with; raises `ManifestError` when they are none.
    """
    if answer.message.has_error():
        raise ManifestError(told(answer.message))
    metrics: Mapping[str, object] = answer.message.content.metric_records.get("metrics", {})
    empty = metrics.get("empty")
    if not isinstance(empty, int) or not 0 <= empty <= most_cases:
        raise ManifestError(f"it has {short(empty)} empty cases, expected 0 to {most_cases}")
    by_prompt = {}
    for prompt in prompts:
        values = [metrics.get(f"{prompt}/{name}") for name in ("dice", "iou", "cases")]
        if values == [None, None, None]:
            continue  # none of the site's cases has a structure to ask for
        dice, iou, cases = (v if isinstance(v, int | float) else math.nan for v in values)
        if not (0 <= dice <= 1 and 0 <= iou <= 1 and 1 <= cases <= most_cases):
            raise ManifestError(
                f"prompt {prompt} has Dice, IoU and cases {', '.join(map(short, values))}; "
                f"expected 0 to 1, 0 to 1, and 1 to {most_cases}"
            )
        by_prompt[prompt] = (float(dice), float(iou), int(cases))
    return Scores(by_prompt, empty)


def short(value: object) -> str:
    """A value that a site sent, fit for a message."""
    return repr(value)[:40]
