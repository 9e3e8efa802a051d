"""Which messages sites get, and what of their answers is used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from medsa_model import __version__
from medsa_model.config import RunConfig
from medsa_model.records import to_arrays
from medsa_model.rejections import Code, Rejected
from medsa_model.state import AdapterState, Manifest
from medsa_model.stored_state import groups
from medsa_model.strategies import Update
from medsa_model.validation import (
    Range,
    check_echo,
    check_records,
    read_numbers,
    read_state,
)
from server.exchange import Answer
from server.introduction import told

NAMES = "class_embedding.weight"  # the tensor with a row for the name of every structure
LONGEST_CHANGE = 5.0  # norm of a change, as a multiple of what the others' let expect
MOST_STEPS = 10.0  # times as long a change may be because of more steps
LEAST_COMPARED = 3  # changes, for their median to say anything
LARGEST = 2**53  # of a count or a loss; what JSON carries exactly


def order(
    config: RunConfig, manifest: Manifest, state: AdapterState, **more: str
) -> tuple[RecordDict, dict[str, str]]:
    """The content of a train or evaluate message (global state, run, manifest) and what an answer
    to it has to repeat. `more` is `round` (0 is the first) or `part`.
    """
    manifest = manifest.sent_as(config.message.update)
    record = {
        "run": config.for_sites(),
        "version": __version__,
        "base": manifest.base_sha256,
        "manifest": manifest.sha256,
        **more,
    }
    content = RecordDict(
        {"arrays": to_arrays(state, manifest.shapes), "config": ConfigRecord(dict(record))}
    )
    echo = {name: value for name, value in record.items() if name != "version"}
    return content, {**echo, "run": config.sha256}


@dataclass(frozen=True)
class Received:
    """An update that was found valid, with the norm of its change over all tensors.

    `numbers` are its metrics by name.
    """

    update: Update
    norm: float
    numbers: Mapping[str, int | float]


def accept(
    answer: Answer, manifest: Manifest, current: AdapterState, most_examples: int,
    echo: Mapping[str, str], structures: Sequence[str] = (), private: bool = False,
    unchecked: bool = False,
) -> Received:  # fmt: skip
    """The update of a site that trained from `current`; raises `Rejected` when it must not enter
    the mean.

    `manifest` says how updates of the run cross (`Manifest.sent_as`). A site weighs no more than
    the `most_examples` training cases that it introduced itself with. `echo` is what the order
    said, `structures` are those that the run asks for by their names. An answer of a `private` run
    has records of its cost and its ledger, and no loss. With `unchecked` its tensors may hold any
    values.
    """
    if answer.message.has_error():
        raise Rejected(answer.code or Code.ERROR, told(answer.message))
    content = answer.message.content
    more = {"privacy": ConfigRecord, "ledger": ConfigRecord} if private else {}
    check_records(
        content,
        {"arrays": ArrayRecord, "metrics": MetricRecord, "echo": ConfigRecord, **more},
    )
    check_echo(content.config_records["echo"], echo)
    wide: Range = (0.0, float(LARGEST))
    ranges: dict[str, Range] = {"seconds": wide, "images": (0, LARGEST), "memory": (0, LARGEST)}
    if not private:
        ranges["loss"] = (-float(LARGEST), float(LARGEST))
    ranges |= {f"cases/{name}": (0, most_examples) for name in structures}
    allowed = {} if private else {"waited": wide}
    metrics = dict(content.metric_records["metrics"])
    examples = metrics.pop("num-examples", None)
    if type(examples) is not int or not 1 <= examples <= most_examples:
        raise Rejected(
            Code.WEIGHT, f"num-examples is {repr(examples)[:40]}, expected 1 to {most_examples}"
        )
    numbers = {"num-examples": examples, **read_numbers(metrics, ranges, allowed)}
    state = read_state(content.array_records["arrays"], manifest, unchecked, current)
    counts = [int(numbers[f"cases/{name}"]) for name in structures]
    rows = {NAMES: counts} if structures else {}
    return Received(Update(state, examples, rows), distance(state, current), numbers)


def distance(state: AdapterState, other: AdapterState) -> float:
    """Norm of the difference over all tensors, in float64, a group of tensors at a time."""
    squares = 0.0
    for group in groups({name: tensor.shape for name, tensor in other.items()}):
        one, two = (torch.cat([e[name].reshape(-1) for name in group]) for e in (state, other))
        squares += float((one.double() - two.double()).square().sum())
    return math.sqrt(squares)


def too_long(norms: Mapping[str, float], steps: Mapping[str, float]) -> dict[str, float]:
    """Sites whose change is far longer than the others' let expect, with the limit that they pass.

    A change of as many steps as another's may be `LONGEST_CHANGE` times as long, one of more steps
    as many times longer again, up to `MOST_STEPS`; the median over all sites decides. Of fewer
    than `LEAST_COMPARED` changes the median says nothing, nor does one of 0.
    """
    if len(norms) < LEAST_COMPARED:
        return {}
    limits = {}
    for site in norms:
        expected = sorted(
            norm * min(max(1.0, steps[site] / steps[other]), MOST_STEPS)
            for other, norm in norms.items()
        )
        limits[site] = LONGEST_CHANGE * expected[(len(expected) - 1) // 2]
    return {site: limit for site, limit in limits.items() if 0 < limit < norms[site]}
