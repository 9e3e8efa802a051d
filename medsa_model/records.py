"""Adapter states and metrics as Flower records. The only Flower import of the library.

The tensors of a state travel in one array, coded as `update_coding.py` says, in the order of the
manifest, whose sha256 both sides compare: Flower asks for every array in requests of its own, and a
state of a hundred small tensors would take longer to ask for than to train. The array is said to be
of what its reader makes of it, float32 in one dimension, and how it is coded stands in place of
NumPy's format. Metrics travel as plain numbers.
"""

import hashlib
import secrets
from collections.abc import Mapping

import torch
from flwr.app import Array
from flwr.app import ArrayRecord as ArrayRecord
from flwr.app import ConfigRecord as ConfigRecord
from flwr.app import MetricRecord as MetricRecord
from flwr.app import RecordDict as RecordDict
from flwr.common.serde import recorddict_to_proto

from medsa_model.errors import ManifestError
from medsa_model.state import AdapterState
from medsa_model.update_coding import Shapes, decode, encode

NAME = "adapters"
NONCE = "nonce"


def to_arrays(
    state: AdapterState, shapes: Shapes, reference: AdapterState | None = None,
    kind: str = "lossless",
) -> ArrayRecord:  # fmt: skip
    """The state as Flower's array record, as its change against `reference` when there is one.

    `shapes` gives the order, `kind` the coding.
    """
    return from_bytes(encode(state, reference, shapes, kind), shapes, kind)


def from_bytes(data: bytes, shapes: Shapes, kind: str) -> ArrayRecord:
    """An array record of a state that is coded already."""
    return ArrayRecord({NAME: Array(*declared(shapes, kind), data)})


def declared(shapes: Shapes, kind: str) -> tuple[str, tuple[int, ...], str]:
    """What an array of a state is said to be: type, shape, and how it is coded."""
    values = sum(torch.Size(shape).numel() for shape in shapes.values())
    return "float32", (values,), f"fed-medsa {kind}"


def to_state(
    arrays: ArrayRecord, shapes: Shapes, reference: AdapterState | None = None,
    kind: str = "lossless", unchecked: bool = False,
) -> AdapterState:  # fmt: skip
    """The array record as an adapter state with tensors of its own.

    Raises `ManifestError` when it is not one array as `to_arrays` makes it of the same `shapes`,
    `reference` and `kind`.
    """
    if list(arrays) != [NAME]:
        raise ManifestError(
            f"the state has {len(arrays)} arrays named {', '.join(list(arrays)[:5])}; expected one "
            f"named {NAME}"
        )
    return decode(arrays[NAME].data, reference, shapes, kind, unchecked)


def unique(content: RecordDict) -> RecordDict:
    """`content` with a random number in every record of numbers or settings, and in one of its own.

    Flower knows an object by the hash of its content. What nobody can foresee, nobody can register
    beforehand with other parts.
    """
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    for name, record in content.items():
        if isinstance(record, MetricRecord):
            record = MetricRecord({**record, NONCE: secrets.randbits(52) / 1.0})
        elif isinstance(record, ConfigRecord):
            record = ConfigRecord({**record, NONCE: secrets.token_hex(16)})
        records[name] = record
    return RecordDict({**records, NONCE: ConfigRecord({NONCE: secrets.token_hex(16)})})


def fingerprint(arrays: ArrayRecord) -> str:
    """sha256 of an array record's frames, by which both ends can tell in their logs what went."""
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.data)
    return digest.hexdigest()


def size_in_bytes(arrays: ArrayRecord) -> int:
    """Bytes of an array record, read from its frames: nothing is unpacked."""
    return sum(len(array.data) for array in arrays.values())


def to_metrics(metrics: Mapping[str, float | int]) -> MetricRecord:
    """Plain numbers as Flower's metric record (NumPy scalars would be refused)."""
    plain: dict[str, int | float | list[int] | list[float]] = {
        name: v if isinstance(v, int) else float(v) for name, v in metrics.items()
    }
    return MetricRecord(plain)


def serialised_bytes(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it for the wire (protobuf)."""
    return int(recorddict_to_proto(content).ByteSize())
