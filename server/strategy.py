"""Which sites get which message, and what of their answers is used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from server.receipts import read_receipts, remember

NAMES = "class_embedding.weight"  # the tensor with a row for the name of every structure
LONGEST_MM = 1e5  # of a distance in an image
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
    grid: Grid, unknown: Mapping[int, str | None], timeout: float, private: bool = False,
    receipts: Path | None = None,
) -> tuple[list[Node], set[int]]:  # fmt: skip
    """Ask the nodes of `unknown` who they are, for at most `timeout` seconds.

    Sites of a `private` run round their numbers of cases. `receipts` is the file of what is
    remembered of their privacy ledgers: a site whose ledger went backwards is left out.

    Maps node ids to the names they were registered under, `None` where nobody registered them.
    Returns the nodes sorted by site, so that the order of sums is fixed, and the ids of those that
    did not answer. Who claims another name than its key was registered for, or answers something
    else than an introduction, is left out. Raises `FederationError` when two nodes claim the same
    site.
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
        try:
            if private and receipts:
                ledger = answer.message.content.config_records.get("ledger")
                if ledger or node.site in read_receipts(receipts):
                    remember(receipts, node.site, ledger or {})
        except ManifestError as error:
            logger.warning("%s is left out: %s", node.site, error)
            continue
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


def accept(
    answer: Answer, manifest: Manifest, most_examples: int, structures: Sequence[str] = (),
    private: bool = False,
) -> Update:  # fmt: skip
    """The update of a site; raises `ManifestError` when it must not enter the mean.

    One of a `private` run has no loss.

    A site weighs no more than the `most_examples` training cases that it introduced itself with.
    `structures` are those that the run asks for by their names.
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
    for name in (*(() if private else ("loss",)), "seconds", "images", "memory"):
        value = metrics.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ManifestError(f"the metric {name} is {short(value)}, expected a finite number")
    counts = [metrics.get(f"cases/{name}") for name in structures]
    if wrong := [c for c in counts if not isinstance(c, int) or not 0 <= c <= most_examples]:
        raise ManifestError(
            f"the number of cases with a structure is {short(wrong[0])}, expected 0 to "
            f"{most_examples}"
        )
    rows = {NAMES: [int(str(count)) for count in counts]} if structures else {}
    return Update({name: state[name] for name in manifest.shapes}, examples, rows)


@dataclass(frozen=True)
class Score:
    """Means over a site's `cases`. `hd95` (mm) and `nsd` are of volumes alone."""

    dice: float
    iou: float
    cases: int
    hd95: float | None = None
    nsd: float | None = None


@dataclass(frozen=True)
class Scores:
    """What a site answers to an evaluation, by prompt and by prompt and structure.

    `empty` counts its cases without a structure, which are in none of them.
    """

    by_prompt: dict[str, Score]
    empty: int
    by_structure: dict[str, dict[str, Score]] = field(default_factory=dict)


def read_scores(
    answer: Answer, prompts: Sequence[str], structures: Sequence[str], most_cases: int
) -> Scores:
    """The scores in an answer, of at most the `most_cases` cases that the site introduced itself
    with; raises `ManifestError` when they are none.
    """
    if answer.message.has_error():
        raise ManifestError(told(answer.message))
    metrics: Mapping[str, object] = answer.message.content.metric_records.get("metrics", {})
    empty = metrics.get("empty")
    if not isinstance(empty, int) or not 0 <= empty <= most_cases:
        raise ManifestError(f"it has {short(empty)} empty cases, expected 0 to {most_cases}")
    by_prompt, by_structure = {}, {}
    for prompt in prompts:
        if score := _read_score(metrics, prompt, most_cases):
            by_prompt[prompt] = score
        found = {name: _read_score(metrics, f"{prompt}/{name}", most_cases) for name in structures}
        if known := {name: score for name, score in found.items() if score}:
            by_structure[prompt] = known
    return Scores(by_prompt, empty, by_structure)


def _read_score(metrics: Mapping[str, object], of: str, most_cases: int) -> Score | None:
    """The means of a prompt, or of a structure with a prompt; `None` when no case has any."""
    values = [metrics.get(f"{of}/{name}") for name in ("dice", "iou", "cases", "hd95", "nsd")]
    if values == [None] * 5:
        return None
    dice, iou, cases, hd95, nsd = (v if isinstance(v, int | float) else None for v in values)
    whole = [
        _between(dice, 0, 1), _between(iou, 0, 1), _between(cases, 1, most_cases),
        hd95 is None or _between(hd95, 0, LONGEST_MM), nsd is None or _between(nsd, 0, 1),
    ]  # fmt: skip
    if dice is None or iou is None or cases is None or not all(whole):
        raise ManifestError(
            f"{of} has Dice, IoU, cases, HD95, NSD {', '.join(map(short, values))}; expected 0 to "
            f"1, 0 to 1, 1 to {most_cases}, and for volumes 0 to {LONGEST_MM} mm and 0 to 1"
        )
    return Score(float(dice), float(iou), int(cases), hd95, nsd)


def _between(value: float | None, low: float, high: float) -> bool:
    return value is not None and low <= value <= high


def short(value: object) -> str:
    """A value that a site sent, fit for a message."""
    return repr(value)[:40]
