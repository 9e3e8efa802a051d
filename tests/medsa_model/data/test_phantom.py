"""The painted abdomen: organs where they belong, sites that differ, and seeds that repeat."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from medsa_model.data.organs import ORGANS, Organ
from medsa_model.data.phantom import Phantom
from medsa_model.data.phantom_anatomy import SHAPES
from medsa_model.data.phantom_sites import PHASES, SCANNERS
from medsa_model.data.sample import Sample


def load(**options: Any) -> list[Sample]:
    return [case.load() for case in Phantom(**options).open()]


def middle(sample: Sample, organ: Organ) -> list[float]:
    """(slice, row, column) in mm from the first voxel."""
    voxels = sample.mask[ORGANS.index(organ)].nonzero().double().mean(0)
    return (voxels * torch.tensor(sample.spacing_mm)).tolist()


def millilitres(sample: Sample) -> dict[str, float]:
    assert sample.spacing_mm is not None
    counts = sample.mask.flatten(1).sum(1).double() * float(np.prod(sample.spacing_mm)) / 1000
    return dict(zip(ORGANS, counts.tolist(), strict=True))


@pytest.fixture(scope="module")
def bodies() -> list[Sample]:
    """Two cases of each of the six sites."""
    return load(sites=6, cases_per_site=2)


def test_cases_sites_and_ids() -> None:
    cases = Phantom(sites=2, cases_per_site=2).open()
    assert [(case.case, case.site) for case in cases] == [
        ("site_a_00000", "site_a"), ("site_a_00001", "site_a"),
        ("site_b_00000", "site_b"), ("site_b_00001", "site_b"),
    ]  # fmt: skip
    assert all(case.volume and case.part is None and case.patient == case.case for case in cases)


def test_the_tables_know_every_organ() -> None:
    assert set(SHAPES) == set(ORGANS)
    assert {len(values) for values in PHASES.values()} == {len(ORGANS)}


def test_volumes_keep_the_promises(bodies: list[Sample]) -> None:
    for sample in bodies:
        assert sample.image.shape == (3, 24, 96, 96)
        assert sample.image.dtype == torch.float32
        assert sample.image.stride(0) == 0
        assert 0 <= sample.image.min() < 1
        assert 200 < sample.image.max() <= 255
        assert sample.mask.shape == (13, 24, 96, 96)
        assert sample.mask.sum(0).max() == 1  # a label map
        assert sample.mask.flatten(1).any(1).all()
        assert sample.labelled is None


def test_organs_lie_where_they_belong(bodies: list[Sample]) -> None:
    for sample in bodies:
        at = {organ: middle(sample, organ) for organ in ORGANS}
        right_to_left = [
            "liver", "inferior_vena_cava", "aorta", "stomach", "spleen",
        ]  # fmt: skip
        columns = [at[organ][2] for organ in right_to_left]
        assert columns == sorted(columns)
        assert at["right_kidney"][2] < at["right_adrenal_gland"][2] < at["aorta"][2]
        assert at["aorta"][2] < at["left_adrenal_gland"][2] < at["left_kidney"][2]
        assert at["gallbladder"][1] < at["pancreas"][1] < at["right_kidney"][1]  # front to back
        assert at["stomach"][1] < at["aorta"][1]
        for side in ("right", "left"):
            assert at[f"{side}_kidney"][0] < at[f"{side}_adrenal_gland"][0]
        assert at["gallbladder"][0] < at["liver"][0]
        assert at["stomach"][0] < at["esophagus"][0]


def test_organs_are_of_plausible_size(bodies: list[Sample]) -> None:
    limits = {
        "spleen": (80, 400), "right_kidney": (70, 300), "left_kidney": (70, 300),
        "gallbladder": (8, 70), "esophagus": (4, 60), "liver": (600, 2500), "stomach": (150, 600),
        "aorta": (30, 180), "inferior_vena_cava": (40, 200), "portal_and_splenic_vein": (10, 70),
        "pancreas": (25, 150), "right_adrenal_gland": (1, 14), "left_adrenal_gland": (1, 14),
    }  # fmt: skip
    volumes = [millilitres(sample) for sample in bodies]
    for organ, (least, most) in limits.items():
        found = [volume[organ] for volume in volumes]
        assert least < min(found)
        assert max(found) < most
        assert np.std(found) > 0.05 * np.mean(found)  # individuals


def test_some_organs_touch(bodies: list[Sample]) -> None:
    touching = 0
    for sample in bodies:
        liver = sample.mask[ORGANS.index("liver")].numpy()
        rim = ndimage.binary_dilation(liver) & ~liver
        others = sample.mask.any(0).numpy() & rim
        touching += 20 < others.sum() < 0.5 * rim.sum()
    assert touching > len(bodies) / 2


def test_the_body_has_air_around_it_lungs_above_and_a_spine(bodies: list[Sample]) -> None:
    for sample in bodies:
        grey = sample.image[0]
        edge = torch.cat([grey[:, 0].flatten(), grey[:, -1].flatten()])
        assert edge.mean() < 10
        inside = slice(30, 66), slice(20, 76)
        air = (grey < 20).float()
        assert air[-1][inside].mean() > air[4][inside].mean() + 0.1  # lungs
        aorta = sample.mask[ORGANS.index("aorta")]
        row = int(aorta[2].nonzero().double().mean(0)[0])
        column = int(aorta[2].nonzero().double().mean(0)[1])
        behind = grey[:, row + 6 : row + 10, column - 2 : column + 2]
        assert (behind.flatten(1).median(1).values > 180).float().mean() > 0.5  # vertebrae


def test_a_case_is_a_function_of_seed_site_and_index() -> None:
    small: dict[str, Any] = {"size": 32, "slices": 8}
    few = Phantom(sites=2, cases_per_site=2, seed=4, **small).open()
    many = {c.case: c for c in Phantom(sites=5, cases_per_site=9, seed=4, **small).open()}
    for case in few:
        first, second = case.load(), many[case.case].load()
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.mask, second.mask)
    other = Phantom(sites=2, cases_per_site=2, seed=5, **small).open()[0].load()
    assert not torch.equal(other.mask, few[0].load().mask)
    assert not torch.equal(few[1].load().mask, few[0].load().mask)


def test_a_finer_grid_sees_the_same_body() -> None:
    coarse = load(sites=1, cases_per_site=1, size=64, slices=16)[0]
    fine = load(sites=1, cases_per_site=1, size=128, slices=32)[0]
    assert coarse.spacing_mm is not None
    assert fine.spacing_mm == pytest.approx([step / 2 for step in coarse.spacing_mm])
    liver = ORGANS.index("liver")
    grown = coarse.mask[liver].repeat_interleave(2, 0).repeat_interleave(2, 1)
    grown = grown.repeat_interleave(2, 2)
    shared = (grown & fine.mask[liver]).sum() / (grown | fine.mask[liver]).sum()
    assert shared > 0.85


def test_no_organ_is_lost_on_a_coarse_grid() -> None:
    for sample in load(sites=6, cases_per_site=5, size=32, slices=8):
        assert sample.mask.flatten(1).any(1).all()


def test_classes_are_channels_in_their_order() -> None:
    options: dict[str, Any] = {"sites": 1, "cases_per_site": 1, "size": 48, "slices": 12}
    everything = load(**options)[0]
    some = load(classes=("aorta", "spleen"), **options)[0]
    assert torch.equal(some.image, everything.image)
    assert torch.equal(some.mask, everything.mask[[7, 0]])


def test_scanners_differ(bodies: list[Sample]) -> None:
    """Aorta against liver tells an early contrast phase, and spacings tell the scanner."""
    spacings = [sample.spacing_mm for sample in bodies]
    assert len({round(s[0] / s[1], 2) for s in spacings if s}) >= 5

    def contrast(sample: Sample) -> float:
        grey = sample.image[0]
        levels = [grey[sample.mask[ORGANS.index(o)]].median() for o in ("aorta", "liver")]
        return float(levels[0] - levels[1])

    by_site = np.array([contrast(sample) for sample in bodies]).reshape(6, 2)
    assert [scanner.phase for scanner in SCANNERS[:2]] == ["portal", "arterial"]
    assert by_site[1].min() > by_site[0].max() > by_site[4].max()  # native: hardly any


def test_sites_annotate_what_they_want() -> None:
    section = Phantom(sites=5, cases_per_site=2, size=32, slices=8, annotated_per_site=3, seed=2)
    labelled = []
    for case in section.open():
        sample = case.load()
        assert sample.labelled is not None
        assert sum(sample.labelled) == 3
        assert sample.mask.flatten(1).any(1).tolist() == list(sample.labelled)
        labelled.append(sample.labelled)
    assert labelled[::2] == labelled[1::2]  # the same at one site
    assert len(set(labelled)) == 5
    assert np.any(labelled, 0).all()  # every organ somewhere
    other = section.model_copy(update={"seed": 3}).open()[0].load()
    assert other.labelled != labelled[0]


@pytest.mark.parametrize("each", [2, 3, 5, 8, 13])
def test_every_organ_is_annotated_somewhere(each: int) -> None:
    sites = min(6, -(-13 // each))
    classes = ORGANS[: each * sites]
    for seed in range(5):
        section = Phantom(
            sites=sites, cases_per_site=1, size=32, slices=8, classes=classes, seed=seed,
            annotated_per_site=each,
        )  # fmt: skip
        marks = [case.load().labelled for case in section.open()]
        assert all(mark is not None and sum(mark) == each for mark in marks)
        assert np.any([mark for mark in marks if mark], 0).all()


@pytest.mark.parametrize(
    "values",
    [
        {"sites": 7},
        {"sites": 0},
        {"size": 16},
        {"slices": 4},
        {"classes": ("heart",)},
        {"classes": ("liver", "liver")},
        {"annotated_per_site": 0},
        {"annotated_per_site": 14},
        {"annotated_per_site": 4, "sites": 3},  # 12 of 13
        {"annotated_per_site": 2, "classes": ("liver",)},
        {"case": 1},
    ],
)
def test_limits(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Phantom.model_validate({"kind": "phantom", **values})
