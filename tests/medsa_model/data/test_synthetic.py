"""Generated sites: what every image promises, and that sites differ while seeds repeat."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medsa_model.data.sample import Sample
from medsa_model.data.synthetic import LEAST_SHARE, NAMES, Synthetic
from medsa_model.data.synthetic_sites import SITES


def load(section: Synthetic) -> list[Sample]:
    return [case.load() for case in section.open()]


def test_cases_sites_and_ids() -> None:
    cases = Synthetic(sites=3, cases_per_site=2).open()
    assert [case.case for case in cases] == [
        f"site_{letter}_0000{index}" for letter in "abc" for index in range(2)
    ]
    assert [case.site for case in cases] == ["site_a"] * 2 + ["site_b"] * 2 + ["site_c"] * 2
    assert {case.part for case in cases} == {None}
    assert len({case.patient for case in cases}) == len(cases)


def test_all_twelve_sites_keep_the_promises() -> None:
    for sample in load(Synthetic(sites=12, cases_per_site=3, size=96)):
        height, width = sample.image.shape[1:]
        assert max(height, width) == 96
        assert min(height, width) >= 72
        assert sample.image.dtype == torch.float32
        assert sample.image.min() >= 0
        assert sample.image.max() <= 255
        assert torch.equal(sample.image, sample.image.round())
        assert sample.mask.shape == (3, height, width)
        assert sample.mask.sum(0).max() == 1  # disjoint
        assert sample.mask.float().mean((1, 2)).min() >= LEAST_SHARE


@pytest.mark.parametrize("structures", [1, 2, 6])
def test_any_number_of_structures(structures: int) -> None:
    section = Synthetic(structures=structures, cases_per_site=3, size=96)
    assert section.classes == NAMES[:structures]
    for sample in load(section):
        assert len(sample.mask) == structures
        assert sample.mask.float().mean((1, 2)).min() >= LEAST_SHARE


def test_the_core_lies_in_the_body() -> None:
    body, core = NAMES.index("body"), NAMES.index("core")
    for sample in load(Synthetic(cases_per_site=5)):
        grown = torch.nn.functional.max_pool2d(sample.mask[core].float()[None], 3, 1, 1)[0].bool()
        ring = grown & ~sample.mask[core]
        assert (sample.mask[body] & ring).sum() > 0.4 * ring.sum()


def test_a_case_is_a_function_of_seed_site_and_index() -> None:
    few = Synthetic(sites=2, cases_per_site=2, seed=4).open()
    many = {case.case: case for case in Synthetic(sites=5, cases_per_site=9, seed=4).open()}
    for case in few:
        first, second = case.load(), many[case.case].load()
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.mask, second.mask)
    other = Synthetic(sites=2, cases_per_site=2, seed=5).open()[0].load()
    assert (
        not torch.equal(other.mask[0], few[0].load().mask[0])
        or other.mask.shape[1:] != (few[0].load().mask.shape[1:])
    )


def test_sites_look_different() -> None:
    """The site can be told from three plain statistics of an image."""
    samples = [sample.image for sample in load(Synthetic(cases_per_site=12, size=96))]
    features = np.array(
        [[*image.mean((1, 2)).tolist(), float(image.std())] for image in samples]
    ).reshape(4, 12, 4)
    centres = features[:, :6].mean(1)
    distance = np.linalg.norm(features[:, 6:, None] - centres, axis=-1)
    assert (distance.argmin(-1) == np.arange(4)[:, None]).mean() > 0.9
    assert len({site.look for site in SITES[:4]}) == 4


def test_the_halo_belongs_to_the_structure() -> None:
    """Half way through the halo an image differs from its surroundings, but less than inside."""
    from scipy import ndimage

    inner, rim = [], []
    for sample in load(Synthetic(sites=1, cases_per_site=20)):
        nodule, grey = sample.mask[0].numpy(), sample.image.mean(0).numpy()
        depth = ndimage.distance_transform_edt(nodule)
        outside = ndimage.distance_transform_edt(~sample.mask.any(0).numpy())
        ground = np.median(grey[outside > 6])
        inner.append(abs(np.median(grey[depth > 0.6 * depth.max()]) - ground))
        rim.append(abs(np.median(grey[(depth > 2) & (depth < 0.2 * depth.max() + 2)]) - ground))
    assert np.mean(rim) > 8
    assert np.mean(rim) < 0.75 * np.mean(inner)


@pytest.mark.parametrize(
    "wrong", [{"sites": 13}, {"sites": 0}, {"structures": 7}, {"size": 10}, {"case": 1}]
)
def test_limits(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Synthetic.model_validate({"kind": "synthetic", **wrong})
