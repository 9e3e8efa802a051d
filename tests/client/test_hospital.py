"""One hospital: trains and scores with its own model."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from client.hospital import (
    Site,
    cases_by_structure,
    evaluate_site,
    tell_of_no_use,
    train_site,
)
from medsa_model.backbone import embedded_backbone
from medsa_model.build import Built, build
from medsa_model.config import RunConfig
from medsa_model.data.frames import Frames
from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case, Sample
from medsa_model.data.synthetic import Synthetic
from medsa_model.data.volume_frames import FramedVolume
from medsa_model.sam import MedSam
from medsa_model.state import AdapterState
from medsa_model.tensor_store import TensorStore
from medsa_model.train import FitResult

CPU = torch.device("cpu")
CONFIG = RunConfig.model_validate(
    {
        "name": "small",
        "rounds": 2,
        "model": {"image_size": 32},
        "data": {"kind": "synthetic"},
        "train": {"steps": 2, "batch_size": 2, "prompts_per_image": 1},
    }
)


@pytest.fixture
def site() -> Site:
    cases = Synthetic(sites=1, cases_per_site=6, size=64).open()
    return Site("site_a", {"train": cases[:3], "val": cases[3:4], "test": cases[4:]}, CPU)


@pytest.fixture
def coordinator() -> Built:
    return build(CONFIG.model, CONFIG.adapter, CONFIG.seed, CPU)


def train(site: Site, coordinator: Built, round_: int = 0) -> FitResult:
    return train_site(site, CONFIG, coordinator.initial, round_)


def same(one: AdapterState, two: AdapterState) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_structure(case: Case, *structures: int) -> Case:
    """The case without some of its structures, or without any."""
    sample = case.load()
    mask = sample.mask.clone()
    mask[list(structures or range(len(mask)))] = False
    bare = dataclasses.replace(sample, mask=mask)
    return dataclasses.replace(case, case=f"empty{structures}", load=lambda: bare)


def test_training_is_a_function_of_site_and_round(site, coordinator):
    result = train(site, coordinator)
    assert same(train(site, coordinator).state, result.state)
    assert not same(train(site, coordinator, 1).state, result.state)
    elsewhere = dataclasses.replace(site, name="site_b")
    assert not same(train(elsewhere, coordinator).state, result.state)


def test_training_counts_its_cases_and_images(site, coordinator):
    result = train(site, coordinator)
    assert (result.examples, result.images) == (3, 4)
    assert not same(result.state, coordinator.initial)


def test_the_sent_state_is_not_written_to(site, coordinator):
    sent = {name: tensor.clone() for name, tensor in coordinator.initial.items()}
    train(site, coordinator)
    assert same(coordinator.initial, sent)


def test_a_case_without_a_structure_can_be_trained_on(site, coordinator):
    """Its prompt is padding and its target is empty; nothing must become NaN."""
    site.parts = {"train": [without_structure(site.parts["train"][0]), *site.parts["train"][1:]]}
    result = train(site, coordinator)
    assert result.examples == 3
    assert all(tensor.isfinite().all() for tensor in result.state.values())


def test_a_training_case_is_read_once(site, coordinator):
    reads = []

    def counted(case: Case) -> Case:
        def load() -> Sample:
            reads.append(case.case)
            return case.load()

        return dataclasses.replace(case, load=load)

    site.parts = {"train": [counted(case) for case in site.parts["train"]]}
    for round_ in range(4):
        train(site, coordinator, round_)
    assert sorted(reads) == sorted(set(reads)) and set(reads) <= {
        case.case for case in site.parts["train"]
    }


def test_the_sites_own_copy_of_the_backbone_is_used(site, coordinator, tmp_path):
    """The coordinator's path means nothing here, and other weights have another manifest."""
    tensors = load_file(embedded_backbone())
    same_file, other_file = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    same_file.write_bytes(embedded_backbone().read_bytes())
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, other_file)

    theirs = CONFIG.model.model_copy(update={"checkpoint": tmp_path / "not-here.safetensors"})
    config = CONFIG.model_copy(update={"model": theirs})
    site.checkpoint = same_file
    assert site.built(config).manifest == coordinator.manifest
    site.checkpoint = other_file
    assert site.built(config).manifest.base_sha256 != coordinator.manifest.base_sha256


def test_scores_are_of_the_part_that_was_asked_for(site, coordinator):
    def scored(part: str) -> set[str]:
        evaluation = evaluate_site(site, CONFIG, coordinator.initial, part)
        assert evaluation.empty == 0
        return {row.case for row in evaluation.rows}

    for part in ("val", "test"):
        assert scored(part) == {case.case for case in site.parts[part]}
    assert scored("other") == set()


def test_scores_are_of_the_state_that_was_sent(site, coordinator):
    """Not of what the site trained last."""
    before = evaluate_site(site, CONFIG, coordinator.initial, "test")
    trained = train(site, coordinator).state
    assert evaluate_site(site, CONFIG, coordinator.initial, "test") == before
    assert evaluate_site(site, CONFIG, trained, "test") != before


def test_a_case_without_a_structure_is_counted_and_not_scored(site, coordinator):
    full = site.parts["test"][0]
    site.parts = {"test": [without_structure(full), full]}
    evaluation = evaluate_site(site, CONFIG, coordinator.initial, "test")
    assert evaluation.empty == 1
    assert {row.case for row in evaluation.rows} == {full.case}


def with_volumes(**volume: object) -> RunConfig:
    return RunConfig.model_validate(
        CONFIG.model_dump() | {"data": {"kind": "phantom"}, "volume": volume}
    )


def naive_counts(cases: list[Case]) -> list[int]:
    masks = [case.load().mask for case in cases]
    return [sum(bool(mask[k].any()) for mask in masks) for k in range(len(masks[0]))]


@pytest.fixture
def looked_at(monkeypatch) -> list[int]:
    """Numbers of the cases whose frames were asked for."""
    numbers, whole = [], Frames.__getitem__

    def noted(self: Frames, number: int) -> object:
        frame = whole(self, number)
        numbers.append(number)
        return frame

    monkeypatch.setattr(Frames, "__getitem__", noted)
    return numbers


def test_images_are_looked_through_once_for_their_structures(site, looked_at):
    full = site.parts["train"]
    cases = [*full, without_structure(full[0], 1), without_structure(full[1], 1, 2)]
    site.parts = {"train": cases}
    expected = naive_counts(cases)
    assert expected == [5, 3, 4]
    assert [cases_by_structure(site, CONFIG) for _ in range(3)] == [expected] * 3
    assert looked_at == [0, 1, 2, 3, 4]
    fewer = dataclasses.replace(site, parts={"train": cases[2:]})
    assert cases_by_structure(fewer, CONFIG) == [3, 1, 2]


def test_volumes_are_counted_without_a_look_at_their_masks(looked_at, monkeypatch):
    (full,) = Phantom(
        sites=1, cases_per_site=1, size=32, slices=8, classes=("liver", "aorta", "spleen")
    ).open()
    cases = [full, without_structure(full, 1), without_structure(full, 1, 2)]
    expected = naive_counts(cases)
    assert expected == [3, 1, 2]
    site = Site("site_a", {"train": cases}, CPU)
    monkeypatch.setattr(FramedVolume, "mask", None)
    assert [cases_by_structure(site, with_volumes()) for _ in range(3)] == [expected] * 3
    assert looked_at == [0, 1, 2]


def test_other_settings_are_counted_anew(looked_at):
    mask = torch.zeros(2, 6, 32, 32, dtype=torch.bool)
    mask[0, 1:5, 4:9, 4:9] = True
    mask[1, 2, 4:9, 4:9] = True  # on a slice that a distance of 3 mm leaves out
    sample = Sample(torch.zeros(3, 6, 32, 32), mask, "c", "c", (1.0, 1.0, 1.0))
    site = Site("site_a", {"train": [Case("c", "c", None, None, lambda: sample, volume=True)]}, CPU)
    own, coarse = with_volumes(), with_volumes(slice_distance=3.0)
    found = [cases_by_structure(site, config) for config in (own, own, coarse, coarse, own)]
    assert found == [[1, 1], [1, 1], [1, 0], [1, 0], [1, 1]]
    assert looked_at == [0, 0, 0]


def last_blocks(**more: object) -> RunConfig:
    adapter = {"kind": "msa", "blocks": "last-1"}
    return RunConfig.model_validate(CONFIG.model_dump() | {"adapter": adapter} | more)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many images or slices went through the frozen blocks at once."""
    counts, whole = [], MedSam.prefix

    def noted(self: MedSam, image: torch.Tensor) -> torch.Tensor:
        counts.append(len(image) * (image.shape[2] if image.dim() == 5 else 1))
        return whole(self, image)

    monkeypatch.setattr(MedSam, "prefix", noted)
    return counts


def precise(**more: object) -> dict[str, object]:
    return {**CONFIG.train.model_dump(exclude_none=True), "precision": "float32", **more}


def test_rounds_with_a_cache_are_those_without_one(site, encoded):
    config = last_blocks(train=precise(augment=False))
    first = build(config.model, config.adapter, config.seed, CPU).initial
    plain = [train_site(site, config, first, round_).state for round_ in range(3)]
    before = evaluate_site(site, config, plain[0], "val")
    encoded.clear()
    site.cache = TensorStore(10**9)
    for round_, state in enumerate(plain):
        assert same(train_site(site, config, first, round_).state, state)
        assert evaluate_site(site, config, plain[0], "val") == before
    assert encoded == [1] * 4  # three cases of training and one of validation


def test_in_bfloat16_too_rounds_do_not_depend_on_how_much_is_kept(site, encoded):
    config = last_blocks(train=precise(augment=False, precision="bfloat16"))
    first = build(config.model, config.adapter, config.seed, CPU).initial
    states = []
    for most in (0, 10**9):
        site.cache = TensorStore(most)
        states.append(train_site(site, config, first, 0).state)
    assert same(*states) and encoded == [1] * 7  # two steps of two images, then three images


def test_sites_may_share_a_cache_and_adapters_in_all_blocks_use_none(site, coordinator, encoded):
    config = last_blocks(train=precise(augment=False))
    first = build(config.model, config.adapter, config.seed, CPU).initial
    site.cache = TensorStore(10**9)
    other = dataclasses.replace(site, name="site_b")
    train_site(site, config, first, 0)
    train_site(other, config, first, 0)
    train_site(other, config, first, 1)
    assert len(encoded) == 3 == len(site.cache)
    train(site, coordinator)
    assert len(site.cache) == 3


def test_of_volumes_with_changes_of_brightness_nothing_is_kept_and_it_is_said_once(
    encoded, caplog, monkeypatch
):
    monkeypatch.setattr("client.hospital.logger.propagate", True)
    caplog.set_level("INFO")
    tell_of_no_use.cache_clear()
    cases = Phantom(sites=1, cases_per_site=2, size=32, slices=8).open()
    site = Site("site_a", {"train": cases}, CPU, cache=TensorStore(10**9))
    more = {"data": {"kind": "phantom"}, "volume": {"slices": 2, "overlap": 0}}
    config = last_blocks(train=precise(), **more)
    first = build(config.model, config.adapter, config.seed, CPU).initial
    for round_ in range(2):
        train_site(site, config, first, round_)
    assert len(site.cache) == 0 and encoded == [4] * 4
    # a record that two handlers heard is one
    told = {
        id(r) for r in caplog.records if "nothing of the frozen blocks is kept" in r.getMessage()
    }
    assert len(told) == 1
    train_site(site, last_blocks(train=precise(augment=False), **more), first, 0)
    assert len(site.cache) > 0 and set(encoded[4:]) == {1}
