"""A site that answers training with what no site should send, another kind in each round.

python -m tests.integration.hostile_site --config site.yaml --kinds nan,echo,weight

It is a site as any other (`client/cli.py`, a SuperNode, a worker), but that this file is executed
in place of `client/worker.py`: there the installed app trains, and its answer is spoilt.
"""

import argparse
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from client import cli, join, worker
from client.app import make_app
from medsa_model.child import start
from medsa_model.records import NAME, to_arrays, to_state

VARIABLE = "HOSTILE_KINDS"  # how the worker learns its kinds
Values = np.ndarray[tuple[int], np.dtype[np.float32]]
Spoil = Callable[[RecordDict, Values, RecordDict | None], RecordDict]
"""From the honest answer, the global state and the honest answer of the round before."""


class Opens:
    """An object that leaves a file in the working folder when somebody unpickles it."""

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (Path("unpickled").absolute(),)


def values_of(content: RecordDict, current: Values | None = None) -> Values:
    """The values of an order, or those of an answer to one with the state `current`."""
    arrays = content.array_records["arrays"]
    state = None if current is None else {"all": torch.from_numpy(current)}
    return to_state(arrays, {"all": arrays[NAME].shape}, state)["all"].numpy()


def coded(values: Values, current: Values | None = None) -> Array:
    """Any values as an update that is well made."""
    shapes = {"all": values.shape}
    reference = None if current is None else {"all": torch.from_numpy(current)}
    return to_arrays({"all": torch.from_numpy(values.copy())}, shapes, reference)[NAME]


def with_array(content: RecordDict, array: Array, name: str = NAME) -> RecordDict:
    """The answer with another array."""
    return RecordDict({**content, "arrays": ArrayRecord({name: array})})


def with_bytes(content: RecordDict, data: bytes) -> RecordDict:
    """The answer with other bytes in an array that claims to be what was asked for."""
    honest = content.array_records["arrays"][NAME]
    return with_array(content, Array(honest.dtype, honest.shape, honest.stype, data))


def nan(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """One value is not a number."""
    values = values_of(content, current)
    values[len(values) // 2] = np.nan
    return with_array(content, coded(values, current))


def thousandfold(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """A change a thousand times as long."""
    change = values_of(content, current) - current
    return with_array(content, coded(current + np.float32(1000) * change, current))


def shape(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """A value less."""
    return with_array(content, coded(values_of(content, current)[1:], current[1:]))


def name(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """An array of another name."""
    return with_array(content, content.array_records["arrays"][NAME], "backbone")


def text(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """A record that nobody asked for."""
    return RecordDict({**content, "notes": ConfigRecord({"text": "\x1b[2J" + "lies " * 1000})})


def weight(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """More cases than there are."""
    content.metric_records["metrics"]["num-examples"] = 10**12
    return content


def truncated(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """Half of the bytes."""
    data = content.array_records["arrays"][NAME].data
    return with_bytes(content, data[: len(data) // 2])


def double(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """The same values as float64."""
    return with_array(content, Array(values_of(content, current).astype(np.float64)))


def no_metrics(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """The state alone, without its metrics."""
    return RecordDict({name: record for name, record in content.items() if name != "metrics"})


def pickled(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """A .npy file of a Python object, whose reader would execute something."""
    file = io.BytesIO()
    np.save(file, np.array([Opens()], dtype=object), allow_pickle=True)
    return with_bytes(content, file.getvalue())


def tenfold(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """Ten times as many values, all different."""
    values = np.random.default_rng(0).random(10 * len(current), np.float32)
    return with_array(content, coded(values))


def echo(content: RecordDict, current: Values, before: RecordDict | None) -> RecordDict:
    """The answer of the round before once more."""
    if before is None:
        raise ValueError("echo needs an answer of the round before: it cannot be the first kind")
    return before


KINDS: dict[str, Spoil] = {
    spoil.__name__: spoil
    for spoil in (nan, thousandfold, shape, name, text, weight, truncated, double, no_metrics,
                  pickled, tenfold, echo)
}  # fmt: skip


def spoilt(kinds: list[str], honest: ClientApp) -> Callable[[Message, Context], Message]:
    """`honest` but for its answers to training: those of round N are of the Nth kind."""
    before: RecordDict | None = None

    def answer(message: Message, context: Context) -> Message:
        nonlocal before
        reply = honest(message=message, context=context)
        if message.metadata.message_type == MessageType.TRAIN and not reply.has_error():
            round_ = int(str(message.content.config_records["config"]["round"]))
            kept, current = reply.content.copy(), values_of(message.content)
            reply.content = KINDS[kinds[round_ % len(kinds)]](reply.content, current, before)
            before = kept
        return reply

    return answer


def work(words: list[str]) -> int:
    """In place of `client/worker.py`."""
    kinds = os.environ[VARIABLE].split(",")
    with patch.object(worker, "make_app", lambda site: spoilt(kinds, make_app(site))):
        return worker.main(words)


def main() -> int:
    """The command line of the site, and of its worker, which is told of a file with a secret."""
    words = sys.argv[1:]
    if "--secret-file" in words:
        return work(words)
    parser = argparse.ArgumentParser(prog="python -m tests.integration.hostile_site")
    parser.add_argument("--config", required=True)
    parser.add_argument("--kinds", required=True, help=f"with commas between: {', '.join(KINDS)}")
    options = parser.parse_args(words)
    if unknown := set(options.kinds.split(",")) - KINDS.keys():
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    os.environ[VARIABLE] = options.kinds
    os.umask(0o077)

    def start_hostile(
        command: list[str], log: Path | None, environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        here = "tests.integration.hostile_site"
        words = [here if word == "client.worker" else word for word in command]
        return start(words, log, environment)

    with patch.object(join, "start", start_hostile):
        return cli.main(["--config", options.config])


if __name__ == "__main__":
    raise SystemExit(main())
