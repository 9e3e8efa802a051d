"""Adapter states and metrics as Flower records. The only Flower import of the library.

The tensors of a state travel end to end in one float32 array, in the order of the manifest, whose
sha256 both sides compare: Flower asks for every array in requests of its own, and a state of a
hundred small tensors would take longer to ask for than to train. Metrics travel as plain numbers.
"""

import hashlib
import io
import secrets
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array
from flwr.app import ArrayRecord as ArrayRecord
from flwr.app import ConfigRecord as ConfigRecord
from flwr.app import MetricRecord as MetricRecord
from flwr.app import RecordDict as RecordDict
from flwr.common.serde import recorddict_to_proto

from medsa_model.errors import ManifestError
from medsa_model.state import AdapterState

NAME = "adapters"
NONCE = "nonce"
Shapes = Mapping[str, tuple[int, ...]]


def to_arrays(state: AdapterState, shapes: Shapes) -> ArrayRecord:
    """The state as Flower's array record; `shapes` gives the order."""
    flat = [state[name].reshape(-1) for name in shapes]
    return ArrayRecord({NAME: Array((torch.cat(flat) if flat else torch.zeros(0)).numpy())})


def to_state(arrays: ArrayRecord, shapes: Shapes) -> AdapterState:
    """The array record as an adapter state with tensors of its own.

    Raises `ManifestError` when it is not one float32 array with as many values as `shapes` have.
    """
    expected = sum(torch.Size(shape).numel() for shape in shapes.values())
    if list(arrays) != [NAME]:
        raise ManifestError(
            f"the state has {len(arrays)} arrays named {', '.join(list(arrays)[:5])}; expected one "
            f"named {NAME}"
        )
    values = _read_flat(arrays[NAME].data, expected)
    parts = torch.from_numpy(values).split([torch.Size(s).numel() for s in shapes.values()])
    return {
        name: part.reshape(shapes[name]).clone() for name, part in zip(shapes, parts, strict=True)
    }


def _read_flat(data: bytes, expected: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """The values of a .npy file (format 1.0) of one dimension; raises `ManifestError`.

    The header is compared before anything is allocated: it may promise more than any memory holds.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise ManifestError(f"the array {NAME} cannot be read ({type(error).__name__})") from error
    found = (version, shape, dtype, len(data) - file.tell())
    if found != ((1, 0), (expected,), np.dtype("<f4"), 4 * expected):
        raise ManifestError(
            f"the array {NAME} is {dtype} of shape {shape} in {found[-1]} bytes, expected float32 "
            f"of ({expected},): every site needs the same backbone and the same adapter section"
        )
    return np.frombuffer(data, np.float32, expected, file.tell()).copy()


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
