"""Whatever a message holds: it is read, or rejected with a code."""

import string

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medsa_model.records import unique
from medsa_model.rejections import Code, Rejected
from medsa_model.state import Manifest
from medsa_model.update_coding import encode
from medsa_model.validation import (
    check_echo,
    check_records,
    read_numbers,
    read_settings,
    read_state,
)

MANIFEST = Manifest({"w": (2, 2)}, "0" * 64, 48)
KINDS = {"arrays": ArrayRecord, "metrics": MetricRecord, "echo": ConfigRecord}
ECHO = {"run": "a", "round": "1"}
NUMBERS = {"num-examples": (1, 9), "loss": (-10.0, 10.0)}

NAMES = st.sampled_from(
    ["arrays", "metrics", "echo", "nonce", "adapters", "num-examples", "loss", "run", "round"]
) | st.text(string.printable, max_size=8)
KIND = st.sampled_from(["float32", "float64", "<f4", "object", ""])
SHAPE = st.lists(st.integers(-1, 5), max_size=3).map(tuple)
GOOD = np.arange(4, dtype=np.float32)
LOSSLESS = "fed-medsa lossless"


def coded(values: np.ndarray) -> bytes:
    return encode({"w": torch.from_numpy(values).reshape(2, 2)}, None, MANIFEST.shapes, "lossless")


FILES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([coded(GOOD), coded(GOOD)[:-1], Array(GOOD).data, coded(GOOD * np.nan)]),
    st.builds(lambda cut, by: coded(GOOD)[:cut] + by, st.integers(0, 66), st.binary(max_size=40)),
    st.builds(
        lambda at, by: coded(GOOD)[:at] + bytes([by]) + coded(GOOD)[at + 1 :],
        st.integers(0, 65), st.integers(0, 255),
    ),
)  # fmt: skip
ARRAYS = st.dictionaries(
    NAMES,
    st.builds(Array, KIND, SHAPE, st.sampled_from([LOSSLESS, "numpy.ndarray"]), FILES),
    max_size=2,
).map(ArrayRecord)
GOOD_ARRAYS = FILES.map(
    lambda data: ArrayRecord({"adapters": Array("float32", (4,), LOSSLESS, data)})
)
PLAIN = st.integers(-(2**63), 2**63 - 1) | st.floats() | st.just(3)
METRICS = st.dictionaries(NAMES, PLAIN | st.lists(st.integers(0, 9), max_size=2), max_size=4).map(
    MetricRecord
)
SETTINGS = st.dictionaries(
    NAMES, st.text(max_size=8) | st.booleans() | st.binary(max_size=4) | st.integers(0, 9),
    max_size=4,
).map(ConfigRecord)  # fmt: skip
RECORDS = st.one_of(ARRAYS, GOOD_ARRAYS, METRICS, SETTINGS)
FREE = st.dictionaries(NAMES, RECORDS, max_size=4)
NEARLY = st.fixed_dictionaries({
    "arrays": ARRAYS | GOOD_ARRAYS,
    "metrics": METRICS | st.just(MetricRecord({"num-examples": 3, "loss": 0.5})),
    "echo": SETTINGS | st.just(ConfigRecord(dict(ECHO))),
})  # fmt: skip


def read(content: RecordDict) -> dict[str, torch.Tensor]:
    """As the coordinator reads an answer."""
    check_records(content, KINDS)
    check_echo(content.config_records["echo"], ECHO)
    read_numbers(content.metric_records["metrics"], NUMBERS)
    return read_state(content.array_records["arrays"], MANIFEST)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FREE | NEARLY)
def test_a_thousand_messages_are_read_or_rejected(records):
    """Nothing else is ever raised, and what is read is finite and has the manifest's shapes."""
    rejected, state = None, {}
    try:
        state = read(RecordDict(records))
    except Rejected as error:
        rejected = error
    if rejected is not None:
        assert rejected.code in Code and len(str(rejected)) < 2000
        return
    assert {name: tuple(t.shape) for name, t in state.items()} == MANIFEST.shapes
    assert all(bool(t.isfinite().all()) and t.dtype == torch.float32 for t in state.values())


@settings(max_examples=300, deadline=None)
@given(SETTINGS, METRICS)
def test_settings_and_numbers_are_read_or_rejected(settings_, numbers):
    for read_it in (
        lambda: read_settings(settings_, {"run", "round"}, Code.RECORDS),
        lambda: read_numbers(numbers, {}, NUMBERS),
    ):
        try:
            found = read_it()
        except Rejected:
            continue
        assert set(found) <= {"run", "round", "num-examples", "loss"}


def good() -> RecordDict:
    return RecordDict({
        "arrays": ArrayRecord({"adapters": Array("float32", (4,), LOSSLESS, coded(GOOD))}),
        "metrics": MetricRecord({"num-examples": 3, "loss": 0.5}),
        "echo": ConfigRecord(dict(ECHO)),
    })  # fmt: skip


def test_a_good_message_is_read_with_and_without_nonces():
    for content in (good(), unique(good())):
        assert torch.equal(read(content)["w"], torch.arange(4.0).reshape(2, 2))


def test_a_nonce_is_nothing_else():
    content = unique(good())
    content["nonce"] = ConfigRecord({"nonce": "x" * 10**6})
    with pytest.raises(Rejected, match="nonce") as caught:
        read(content)
    assert caught.value.code == Code.RECORDS
    content["nonce"] = ConfigRecord({"nonce": "x", "more": "DOE^JOHN"})
    with pytest.raises(Rejected, match="nonce"):
        read(content)


def test_a_flag_is_no_number():
    with pytest.raises(Rejected, match="its num-examples is"):
        read_numbers({"num-examples": True, "loss": 0.5}, NUMBERS)


@pytest.mark.parametrize(("size", "code"), [(66, Code.HEADER), (67, Code.BYTES)])
def test_bytes_are_counted_before_anything_is_read(size, code):
    """Four float32 are four planes of 4 bytes, each with a head of 9, behind a head of 14."""
    array = Array("float32", (4,), LOSSLESS, bytes(size))
    with pytest.raises(Rejected) as caught:
        read_state(ArrayRecord({"adapters": array}), MANIFEST)
    assert caught.value.code == code
