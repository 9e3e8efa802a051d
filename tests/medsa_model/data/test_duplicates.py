"""Copies and near copies of images are found, other images are not."""

import hashlib
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medsa_model.data.duplicates import (
    ALIKE,
    Fingerprint,
    Seen,
    find_duplicates,
    fingerprint,
    shown,
)
from medsa_model.data.synthetic import Synthetic


def picture(seed: int, size: int = 96) -> Image.Image:
    """Coarse coloured patches, smoothly enlarged: a picture with structure, like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def volume(seed: int) -> Tensor:
    grey = torch.rand(1, 9, 20, 24, generator=torch.Generator().manual_seed(seed)) * 255
    return grey.expand(3, -1, -1, -1)


def seen(case: str, part: str, image: Tensor) -> Seen:
    found = fingerprint(image)
    assert found is not None
    return Seen(case, part, found)


def apart(one: Tensor, other: Tensor) -> float:
    """Root mean square difference of the means, in grey levels."""
    first, second = fingerprint(one), fingerprint(other)
    assert first is not None and first.means is not None
    assert second is not None and second.means is not None
    return float((first.means - second.means).square().mean().sqrt())


def test_the_means_are_those_of_the_fields() -> None:
    """Against Pillow, whose box filter is the mean of a field."""
    image = picture(0)
    found = fingerprint(tensor(image))
    assert found is not None and found.means is not None
    small = image.convert("L").resize((16, 16), Image.Resampling.BOX)
    assert np.allclose(found.means.reshape(16, 16), np.array(small, np.float32), atol=1.01)


def test_the_means_of_a_volume() -> None:
    """Of 16 x 32 x 16 voxels each field has 2 x 2 x 1."""
    grey = torch.rand(1, 16, 32, 16) * 255
    found = fingerprint(grey.expand(3, -1, -1, -1))
    assert found is not None and found.means is not None
    naive = [
        grey[0, 2 * d : 2 * d + 2, 2 * h : 2 * h + 2, w].mean()
        for d, h, w in itertools.product(range(8), range(16), range(16))
    ]
    assert torch.allclose(found.means, torch.stack(naive), atol=1e-3)


@pytest.mark.parametrize("image", [tensor(picture(1)), volume(1)], ids=["2D", "3D"])
def test_one_pixel_makes_another_image(image: Tensor) -> None:
    image = image.contiguous()
    other = image.clone()
    other[-1, ..., -1, -1] = 255 - other[-1, ..., -1, -1]
    first, same, second = (fingerprint(each) for each in (image, image.clone(), other))
    assert first and same and second
    assert first.exact == same.exact != second.exact


def test_the_shape_counts() -> None:
    """The same bytes in another shape are another image."""
    image = torch.arange(48.0).reshape(3, 2, 8)
    one, other = fingerprint(image), fingerprint(image.reshape(3, 4, 4))
    assert one and other and one.exact != other.exact


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 4, 8, 8)])
def test_a_blank_image_is_no_copy_of_another(shape: tuple[int, ...]) -> None:
    assert fingerprint(torch.full(shape, 7.0)) is None
    colour = torch.tensor([1.0, 2.0, 3.0]).view(3, *[1] * (len(shape) - 1)).expand(shape)
    assert fingerprint(colour.contiguous()) is None
    image = torch.zeros(shape)
    image[..., -1, -1] = 1
    found = fingerprint(image)
    assert found and found.means is None  # too little contrast for likeness


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_jpeg_stays_alike(quality: int) -> None:
    for seed in range(5):
        image, buffer = picture(seed), io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        assert 0 < apart(tensor(image), tensor(Image.open(buffer))) < ALIKE / 2


@pytest.mark.parametrize("size", [64, 80, 192])
def test_another_size_stays_alike(size: int) -> None:
    for seed in range(5):
        image = picture(seed)
        resized = image.resize((size, size), Image.Resampling.BICUBIC)
        assert 0 < apart(tensor(image), tensor(resized)) < ALIKE / 2


def test_a_grey_copy_stays_alike() -> None:
    assert apart(tensor(picture(3)), tensor(picture(3).convert("L"))) < 0.6


def test_generated_images_are_not_alike() -> None:
    images = [case.load().image for case in Synthetic(sites=2, cases_per_site=20, size=64).open()]
    found = find_duplicates(
        seen(f"{number}", ("train", "test")[number % 2], image)
        for number, image in enumerate(images)
    )
    assert found == find_duplicates([]) and not found.alike


def test_pairs_are_sorted_out_by_part() -> None:
    image, again, other = (tensor(picture(seed)) for seed in (0, 1, 2))
    near = again.clone()
    near[0, 0, 0] = 255 - near[0, 0, 0]
    found = find_duplicates(
        [
            seen("t3", "train", image), seen("t1", "train", image), seen("t2", "train", again),
            seen("e1", "test", image), seen("e2", "test", near), seen("v1", "val", other),
            seen("v2", "val", other),
        ]
    )  # fmt: skip
    assert found.across == (("e1", "t1"), ("e1", "t3"))
    assert found.within == (("t1", "t3"), ("v1", "v2"))
    assert found.alike == (("e2", "t2"),)


def test_likeness_is_measured_between_all_parts_and_in_blocks() -> None:
    """Against every pair by itself, for more rows than are compared at a time."""
    rng = torch.Generator().manual_seed(0)
    means = torch.rand(1300, 256, generator=rng) * 255
    means[1200:1250] = means[:50] + 2.9 * torch.sign(torch.randn(50, 256, generator=rng))
    means[1250:] = means[50:100] + 3.1 * torch.sign(torch.randn(50, 256, generator=rng))
    cases = [
        Seen(f"{n:04d}", "test" if n >= 1100 else "train",
             Fingerprint(hashlib.sha256(b"%d" % n).hexdigest(), row))
        for n, row in enumerate(means)
    ]  # fmt: skip
    expected = tuple((f"{n:04d}", f"{n - 1200:04d}") for n in range(1200, 1250))
    assert find_duplicates(cases).alike == expected


def test_images_and_volumes_are_not_compared() -> None:
    assert not find_duplicates(
        [seen("a", "train", volume(0)), seen("b", "test", tensor(picture(0)))]
    ).alike


def test_pairs_in_a_message() -> None:
    assert shown([("b", "c"), ("a", "d")]) == "a = d, b = c"
    assert shown([(f"{n}", "x") for n in range(11)]).endswith(", ...")
