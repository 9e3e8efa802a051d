"""Adapter states, their manifest, and their way through Flower records."""

import io

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from medsa_model.adapters import Msa
from medsa_model.errors import ManifestError
from medsa_model.records import (
    NONCE,
    serialised_bytes,
    size_in_bytes,
    to_arrays,
    to_metrics,
    to_state,
    unique,
)
from medsa_model.state import adapter_state, check_state, load_adapter_state, manifest_of
from medsa_model.update_coding import KINDS


@pytest.fixture
def model(tiny):
    Msa().inject(tiny.model, 0)
    return tiny.model


def test_a_state_is_a_copy_and_loads_back(model):
    state = adapter_state(model)
    changed = {name: tensor + 1 for name, tensor in state.items()}
    load_adapter_state(model, changed)
    assert all(torch.equal(t, changed[n]) for n, t in adapter_state(model).items())
    assert not any(torch.equal(state[n], changed[n]) for n in state)


def test_a_state_survives_flower_records_bit_for_bit(model):
    state = adapter_state(model)
    shapes = manifest_of(model, "0" * 64, 48).shapes
    back = to_state(to_arrays(state, shapes), shapes)
    assert list(back) == list(state)
    assert all(torch.equal(back[n], state[n]) and back[n].dtype == torch.float32 for n in state)


def test_the_message_is_as_large_as_its_tensors_and_little_more(model):
    manifest = manifest_of(model, "0" * 64, 48)
    size = serialised_bytes(
        RecordDict({"arrays": to_arrays(adapter_state(model), manifest.shapes)})
    )
    assert size < 1.01 * manifest.size_in_bytes
    noise = {n: torch.randint(-(2**31), 2**31, s, dtype=torch.int32).view(torch.float32)
             for n, s in manifest.shapes.items()}  # fmt: skip
    arrays = to_arrays(noise, manifest.shapes)
    size = serialised_bytes(RecordDict({"arrays": arrays}))
    assert size_in_bytes(arrays) <= size < 1.01 * manifest.size_in_bytes


def test_an_update_is_its_change_and_smaller(model):
    state, shapes = adapter_state(model), manifest_of(model, "0" * 64, 48).shapes
    changed = {name: tensor * 1.001 for name, tensor in state.items()}
    for kind in KINDS:
        arrays = to_arrays(changed, shapes, state, kind)
        back = to_state(arrays, shapes, state, kind)
        assert size_in_bytes(arrays) < size_in_bytes(to_arrays(changed, shapes))
        assert all(torch.allclose(back[name], changed[name], atol=2e-3) for name in changed)


def test_tensors_travel_in_the_order_of_the_manifest(model):
    """Whatever the order of the state: the other side has nothing else to tell them apart."""
    state, shapes = adapter_state(model), manifest_of(model, "0" * 64, 48).shapes
    turned = to_arrays(dict(reversed(state.items())), shapes)
    assert all(torch.equal(t, state[n]) for n, t in to_state(turned, shapes).items())


def test_a_pickled_array_is_refused():
    record = to_arrays({"w": torch.zeros(2)}, {"w": (2,)})
    file = io.BytesIO()
    np.save(file, np.array([print, print], dtype=object), allow_pickle=True)
    record["adapters"].data = file.getvalue()
    with pytest.raises(ManifestError, match="its version is 147, expected 1"):
        to_state(record, {"w": (2,)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, n: s.pop(n), "missing"),
        (lambda s, n: s.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda s, n: s.update({n: s[n][:-1]}), "expected"),
        (lambda s, n: s.update({n: s[n].double()}), "float64, expected torch.float32"),
        (lambda s, n: s.update({n: s[n] * torch.nan}), "not finite"),
    ],
    ids=["missing", "unknown", "shape", "type", "not finite"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(model, spoil, message):
    before, state = adapter_state(model), adapter_state(model)
    spoil(state, next(iter(state)))
    with pytest.raises(ManifestError, match=message):
        load_adapter_state(model, state)
    assert all(torch.equal(t, before[n]) for n, t in adapter_state(model).items())


def test_the_manifest_tells_bases_shapes_frames_and_codings_apart(model):
    one = manifest_of(model, "a" * 64, 48)
    assert one.sha256 == manifest_of(model, "a" * 64, 48).sha256
    assert one.sha256 != manifest_of(model, "b" * 64, 48).sha256
    assert one.sha256 != manifest_of(model, "a" * 64, 64).sha256
    assert one.sha256 == one.sent_as("lossless").sha256
    assert len({one.sent_as(kind).sha256 for kind in KINDS}) == len(KINDS)


def test_all_problems_are_listed_up_to_ten():
    shapes = {f"t{number}": (2,) for number in range(20)}
    with pytest.raises(ManifestError) as caught:
        check_state({}, shapes)
    assert "20 problems" in str(caught.value) and str(caught.value).count("missing") == 10


def test_metrics_become_plain_numbers():
    import numpy as np

    record = to_metrics({"count": 3, "dice": np.float32(0.5)})  # type: ignore[dict-item]
    assert record["count"] == 3 and record["dice"] == 0.5


def test_a_unique_content_says_the_same_under_an_id_that_nobody_can_foresee():
    content = RecordDict(
        {
            "arrays": to_arrays({"w": torch.ones(2)}, {"w": (2,)}),
            "cases": MetricRecord({"train": 3}),
            "site": ConfigRecord({"site": "a"}),
        }
    )
    one, two = unique(content), unique(content)
    assert one["cases"]["train"] == 3 and one["site"]["site"] == "a"
    assert torch.equal(to_state(one["arrays"], {"w": (2,)})["w"], torch.ones(2))
    for name in ("cases", "site", NONCE):
        assert one[name].object_id != two[name].object_id
    assert one.object_id != two.object_id and NONCE not in content
    assert unique(RecordDict()).object_id != unique(RecordDict()).object_id
    assert serialised_bytes(one) == serialised_bytes(two)
