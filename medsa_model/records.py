"""Adapter states and metrics as Flower records. The only Flower import of the library.

Tensors travel as float32 arrays under their names; metrics as plain numbers.
"""

from collections.abc import Mapping

from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto

from medsa_model.state import AdapterState


def to_arrays(state: AdapterState) -> ArrayRecord:
    """The state as Flower's array record, in the same order."""
    return ArrayRecord(state)


def to_state(arrays: ArrayRecord) -> AdapterState:
    """The array record as an adapter state; copies, so that records stay untouched."""
    return {name: tensor.clone() for name, tensor in arrays.to_torch_state_dict().items()}


def to_metrics(metrics: Mapping[str, float | int]) -> MetricRecord:
    """Plain numbers as Flower's metric record (NumPy scalars would be refused)."""
    plain: dict[str, int | float | list[int] | list[float]] = {
        name: v if isinstance(v, int) else float(v) for name, v in metrics.items()
    }
    return MetricRecord(plain)


def serialised_bytes(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it for the wire (protobuf)."""
    return int(recorddict_to_proto(content).ByteSize())
