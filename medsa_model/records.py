"""Adapter states and metrics as Flower records. The only Flower import of the library.

The tensors of a state travel end to end in one float32 array, in the order of the manifest, whose
sha256 both sides compare: Flower asks for every array in requests of its own, and a state of a
hundred small tensors would take longer to ask for than to train. Metrics travel as plain numbers.
"""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from medsa_model.errors import ManifestError
from medsa_model.state import AdapterState

NAME = "adapters"
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
    try:
        values = arrays[NAME].numpy()  # never unpickles
    except (ValueError, TypeError, OSError) as error:
        raise ManifestError(f"the array {NAME} cannot be read ({type(error).__name__})") from error
    if values.dtype != np.float32 or values.shape != (expected,):
        raise ManifestError(
            f"the array {NAME} is {values.dtype} of shape {values.shape}, expected float32 of "
            f"({expected},): every site needs the same backbone and the same adapter section"
        )
    parts = torch.from_numpy(values.copy()).split([torch.Size(s).numel() for s in shapes.values()])
    return {
        name: part.reshape(shapes[name]).clone() for name, part in zip(shapes, parts, strict=True)
    }


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
