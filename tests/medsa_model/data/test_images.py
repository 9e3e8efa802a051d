"""Reading files: what is accepted, and the message for everything that is not."""

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from medsa_model.data import images
from medsa_model.data.images import UPRIGHT, read_image, read_mask, read_pair
from medsa_model.errors import DataError

CASE = "case_7"
PATIENT = "ZZPHI_CANARY_1953"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name must never appear in a message."""
    place = tmp_path / PATIENT
    place.mkdir()
    return place


def colours(height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(array: NDArray[np.generic], path: Path, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def message(error: pytest.ExceptionInfo[DataError]) -> str:
    """The text of an error, after checking what holds for every message."""
    text = str(error.value)
    assert CASE in text
    assert PATIENT not in "".join(traceback.format_exception(error.value))
    return text


def refused_image(path: Path) -> str:
    with pytest.raises(DataError) as error:
        read_image(path, CASE)
    return message(error)


def refused_mask(path: Path, size: tuple[int, int] = (6, 8)) -> str:
    with pytest.raises(DataError) as error:
        read_mask(path, CASE, size, UPRIGHT)
    return message(error)


def turned(orientation: int | None) -> dict[str, Image.Exif]:
    """Options of `save` for a file with this EXIF orientation; `None`: no EXIF at all."""
    if orientation is None:
        return {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def structure(size: int = 6) -> NDArray[np.uint8]:
    """A square mask that looks different in every orientation."""
    levels = np.zeros((size, size), np.uint8)
    levels[0, :2] = levels[1, 0] = levels[0, 3] = 255
    return levels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_rgb_pixels_are_kept(folder: Path, suffix: str) -> None:
    pixels = colours()
    image, orientation = read_image(save(pixels, folder / f"a.{suffix}"), CASE)
    assert orientation == UPRIGHT
    assert image.shape == (3, 6, 8)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1).float())


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_become_rgb(folder: Path, mode: str) -> None:
    picture = Image.fromarray(colours()).convert(mode)
    picture.save(folder / "a.png")
    image, _ = read_image(folder / "a.png", CASE)
    assert torch.equal(image, torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
    assert image.max() > 1


def test_cmyk_becomes_rgb(folder: Path) -> None:
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(folder / "a.jpg")  # red ink
    red, green, blue = read_image(folder / "a.jpg", CASE)[0].mean((1, 2)).tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_exif_orientation_is_applied(folder: Path) -> None:
    pixels = colours()
    image, orientation = read_image(save(pixels, folder / "a.png", **turned(6)), CASE)
    assert orientation == 6  # a quarter turn clockwise
    upright = np.rot90(pixels, -1).copy()
    assert torch.equal(image, torch.from_numpy(upright).permute(2, 0, 1).float())


def test_opaque_alpha_is_accepted(folder: Path) -> None:
    pixels = np.dstack([colours(), np.full((6, 8), 255, np.uint8)])
    image, _ = read_image(save(pixels, folder / "a.png"), CASE)
    assert torch.equal(image, torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1).float())


def test_transparency_is_refused(folder: Path) -> None:
    pixels = np.dstack([colours(), np.full((6, 8), 255, np.uint8)])
    pixels[:3, :, 3] = 0
    text = refused_image(save(pixels, folder / "a.png"))
    assert "50 % of the image's pixels are transparent" in text
    assert "save it without alpha" in text


def test_transparent_palette_entry_is_refused(folder: Path) -> None:
    picture = Image.new("P", (8, 6), 1)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.save(folder / "a.png", transparency=1)
    assert "100 % of the image's pixels are transparent" in refused_image(folder / "a.png")


def test_16_bit_grey_is_refused(folder: Path) -> None:
    text = refused_image(save(np.full((6, 8), 40_000, np.uint16), folder / "a.png"))
    assert "more than 8 bits" in text
    assert "expected 8 bits" in text


def test_16_bit_colour_is_refused(folder: Path) -> None:
    # Pillow would silently keep the high byte. It cannot write such a file, so by hand:
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(8 * 6)) * 6)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    (folder / "a.png").write_bytes(file + chunk(b"IEND", b""))
    assert "more than 8 bits" in refused_image(folder / "a.png")


def test_float_tiff_is_refused(folder: Path) -> None:
    path = save(np.ones((6, 8), np.float32), folder / "a.tif")
    assert "more than 8 bits in a channel (mode F)" in refused_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file_is_refused(folder: Path, suffix: str) -> None:
    path = save(colours(64, 64), folder / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:-200])
    text = refused_image(path)
    assert "the image file is truncated" in text
    assert "Copy or export it again" in text


def test_other_content_is_refused(folder: Path) -> None:
    (folder / "a.png").write_text(f"{PATIENT} is no picture")
    text = refused_image(folder / "a.png")
    assert "no picture by its content" in text
    assert "PNG, JPEG, BMP, TIFF" in text


def test_missing_file_is_refused(folder: Path) -> None:
    assert "the image file is missing" in refused_image(folder / "a.png")


def test_several_pages_are_refused(folder: Path) -> None:
    pages = [Image.fromarray(colours()) for _ in range(2)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    assert "several pages" in refused_image(folder / "a.tif")


def test_unknown_colour_mode_is_refused(folder: Path) -> None:
    Image.new("LAB", (8, 6)).save(folder / "a.tif")
    assert "colour mode LAB; expected grey or RGB" in refused_image(folder / "a.tif")


def test_caps_hold_before_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(colours(), folder / "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 40)
    assert "8 x 6 pixels; expected at most" in refused_image(path)
    monkeypatch.setattr(images, "MOST_BYTES", 10)
    assert "expected at most 0 MB" in refused_image(path)


def test_pillows_own_cap_gives_the_same_kind_of_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(colours(), folder / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "far more than 80 million pixels" in refused_image(path)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 0), (255, 255)])
def test_binary_masks(folder: Path, values: tuple[int, int]) -> None:
    levels = np.full((6, 8), values[0], np.uint8)
    levels[2:4, 3:7] = values[1]
    mask = read_mask(save(levels, folder / "m.png"), CASE, (6, 8), UPRIGHT)
    assert mask.shape == (6, 8)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, torch.from_numpy(levels > 0))


def test_equal_channels_and_1_bit_masks(folder: Path) -> None:
    levels = np.zeros((6, 8), np.uint8)
    levels[1:3] = 255
    save(np.repeat(levels[..., None], 3, 2), folder / "rgb.png")
    Image.fromarray(levels).convert("1").save(folder / "bit.bmp")
    for name in ("rgb.png", "bit.bmp"):
        mask = read_mask(folder / name, CASE, (6, 8), UPRIGHT)
        assert torch.equal(mask, torch.from_numpy(levels > 0))


def test_smoothly_resized_mask_is_refused(folder: Path) -> None:
    levels = np.zeros((6, 8), np.uint8)
    levels[:, 4:] = 255
    levels[:, 4] = [60, 70, 80, 90, 100, 110]
    text = refused_mask(save(levels, folder / "m.png"))
    assert "6 value(s) besides 0 and 255 on 12.5 % of its pixels (60, 70, 80, 90, 100, ...)" in text
    assert "nearest neighbour" in text


def test_mask_of_ones_is_ambiguous(folder: Path) -> None:
    text = refused_mask(save(np.ones((6, 8), np.uint8), folder / "m.png"))
    assert "every pixel of the mask is 1" in text


def test_mixed_codes_are_refused(folder: Path) -> None:
    levels = np.zeros((6, 8), np.uint8)
    levels[0], levels[1] = 1, 255
    assert "1 value(s) besides 0 and 255" in refused_mask(save(levels, folder / "m.png"))


def test_coloured_mask_is_refused(folder: Path) -> None:
    assert "channels that differ" in refused_mask(save(colours(), folder / "m.png"))


def test_16_bit_mask_is_refused(folder: Path) -> None:
    path = save(np.full((6, 8), 65_535, np.uint16), folder / "m.png")
    assert "the mask has more than 8 bits" in refused_mask(path)


def test_other_size_names_both(folder: Path) -> None:
    text = refused_mask(save(np.zeros((5, 8), np.uint8), folder / "m.png"))
    assert "the image is 8 x 6 pixels (width x height), its mask 8 x 5" in text


def test_a_pair_is_a_sample(folder: Path) -> None:
    image = save(colours(), folder / "a.png")
    mask = save(np.full((6, 8), 255, np.uint8), folder / "m.png")
    sample = read_pair(image, mask, CASE, "p1")
    assert (sample.case, sample.patient, sample.spacing_mm) == (CASE, "p1", None)
    assert sample.image.shape == (3, 6, 8)
    assert sample.mask.shape == (1, 6, 8)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("of_mask", [None, 1])
def test_a_turned_image_with_a_mask_that_is_not_is_refused(
    folder: Path, orientation: int, suffix: str, of_mask: int | None
) -> None:
    image = save(colours(6, 6), folder / f"a.{suffix}", **turned(orientation))
    mask = save(structure(), folder / "m.png", **turned(of_mask))
    with pytest.raises(DataError) as error:
        read_pair(image, mask, CASE, "p1")
    text = message(error)
    assert f"the image has EXIF orientation {orientation} (" in text
    assert "its mask 1 (as stored); expected the same" in text
    assert "Write the image with its rotation applied, so that image and mask have the" in text


def test_the_orientation_is_named_before_the_size(folder: Path) -> None:
    image = save(colours(6, 8), folder / "a.jpg", **turned(6))  # 6 pixels wide when upright
    mask = save(np.zeros((6, 8), np.uint8), folder / "m.png")
    with pytest.raises(DataError, match=r"orientation 6 \(turned by a quarter, clockwise\)"):
        read_pair(image, mask, CASE, "p1")


def test_a_turned_mask_of_an_image_that_is_not_is_refused(folder: Path) -> None:
    image = save(colours(6, 6), folder / "a.png")
    mask = save(structure(), folder / "m.png", **turned(3))
    with pytest.raises(DataError, match=r"its mask 3 \(turned by 180 degrees\).* Write the mask"):
        read_pair(image, mask, CASE, "p1")


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_same_orientation_is_applied_to_both(
    folder: Path, orientation: int, suffix: str
) -> None:
    levels = structure()
    grey = np.repeat(levels[..., None], 3, 2)  # the image shows its mask
    image = save(grey, folder / f"a.{suffix}", **turned(orientation))
    mask = save(levels, folder / f"m.{suffix}", **turned(orientation))
    sample = read_pair(image, mask, CASE, "p1")
    assert torch.equal(sample.image[0] > 0, sample.mask[0])
    assert torch.equal(sample.mask[0], torch.from_numpy(levels > 0)) == (orientation == 1)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_exif_does_not_know_is_none(folder: Path, orientation: int) -> None:
    pixels = colours(6, 6)
    image = save(pixels, folder / "a.png", **turned(orientation))
    sample = read_pair(image, save(structure(), folder / "m.png"), CASE, "p1")
    assert torch.equal(sample.image, torch.from_numpy(pixels).permute(2, 0, 1).float())
