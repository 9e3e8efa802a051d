"""The official ISIC folders of three years."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from medsa_model.data.isic import PARTS, Isic
from medsa_model.errors import DataError

MASK_SUFFIX = {2016: "_Segmentation.png", 2017: "_segmentation.png", 2018: "_segmentation.png"}


def add(root: Path, year: int, part: str, number: int, mask: bool = True) -> str:
    """Write one case; returns its id."""
    case = f"ISIC_{number:07d}"
    image_folder, mask_folder = (root / name for name in PARTS[year][part])
    image_folder.mkdir(parents=True, exist_ok=True)
    mask_folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 100, 50)).save(image_folder / f"{case}.jpg")
    if mask:
        levels = np.zeros((6, 8), np.uint8)
        levels[2:4, 2:6] = 255
        Image.fromarray(levels).save(mask_folder / f"{case}{MASK_SUFFIX[year]}")
    return case


@pytest.mark.parametrize("year", [2016, 2017, 2018])
def test_official_layouts(tmp_path: Path, year: Literal[2016, 2017, 2018]) -> None:
    for number, part in enumerate(PARTS[year]):
        add(tmp_path, year, part, 10 - number)
    cases = Isic(year=year).open(tmp_path)
    assert [case.case for case in cases] == sorted(case.case for case in cases)
    assert {case.part for case in cases} == set(PARTS[year])
    assert all(case.site is None and case.patient == case.case for case in cases)
    sample = cases[0].load()
    assert sample.image.shape == (3, 6, 8)
    assert sample.mask.shape == (1, 6, 8)
    assert int(sample.mask.sum()) == 8


def test_folder_names_are_the_official_ones() -> None:
    assert PARTS[2016]["train"] == (
        "ISBI2016_ISIC_Part1_Training_Data",
        "ISBI2016_ISIC_Part1_Training_GroundTruth",
    )
    assert PARTS[2017]["test"] == (
        "ISIC-2017_Test_v2_Data",
        "ISIC-2017_Test_v2_Part1_GroundTruth",
    )
    assert PARTS[2018]["val"] == (
        "ISIC2018_Task1-2_Validation_Input",
        "ISIC2018_Task1_Validation_GroundTruth",
    )


def test_other_files_are_ignored_and_extensions_have_no_case(tmp_path: Path) -> None:
    add(tmp_path, 2018, "train", 1)
    images, masks = (tmp_path / name for name in PARTS[2018]["train"])
    for name in ("ATTRIBUTION.txt", "LICENSE.txt", "ISIC_0000001_superpixels.png", "._x.jpg"):
        (images / name).write_bytes(b"x")
    (images / "ISIC_0000001.jpg").rename(images / "ISIC_0000001.JPG")
    (masks / "ISIC_0000001_segmentation.png").rename(masks / "ISIC_0000001_Segmentation.PNG")
    assert [case.case for case in Isic().open(tmp_path)] == ["ISIC_0000001"]


def test_sites_and_lesions(tmp_path: Path) -> None:
    add(tmp_path, 2018, "train", 1)
    add(tmp_path, 2018, "train", 2)
    text = "image_id,site,lesion_id\nISIC_0000001,north,L1\nISIC_0000002,south,L1\n"
    (tmp_path / "sites.csv").write_text(text)
    cases = Isic(root=tmp_path).open()
    assert [(case.site, case.patient) for case in cases] == [("north", "L1"), ("south", "L1")]
    assert cases[0].load().patient == "L1"


def test_image_without_a_site(tmp_path: Path) -> None:
    case = add(tmp_path, 2018, "train", 1)
    (tmp_path / "sites.csv").write_text("image_id,site\n")
    with pytest.raises(DataError, match=f"1 of 1 images have no row: {case}"):
        Isic().open(tmp_path)


def test_unpaired_files(tmp_path: Path) -> None:
    add(tmp_path, 2018, "train", 1)
    add(tmp_path, 2018, "train", 2, mask=False)
    with pytest.raises(DataError) as error:
        Isic().open(tmp_path)
    text = str(error.value)
    assert "1 image(s) of 2 in ISIC2018_Task1-2_Training_Input have no mask" in text
    assert "ISIC_0000002" in text
    assert str(tmp_path) not in text


def test_empty_folders(tmp_path: Path) -> None:
    for name in PARTS[2018]["train"]:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="no image and no mask"):
        Isic().open(tmp_path)


def test_no_official_folder_lists_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        Isic(year=2016).open(tmp_path)
    text = str(error.value)
    assert all(name in text for folders in PARTS[2016].values() for name in folders)
    assert "Set data.root" in text
    assert str(tmp_path) not in text


def test_folders_of_another_year_are_recognised(tmp_path: Path) -> None:
    add(tmp_path, 2016, "train", 1)
    with pytest.raises(DataError, match=r"Folders of ISIC 2016 are there: set data\.year"):
        Isic().open(tmp_path)


def test_images_without_mask_folder(tmp_path: Path) -> None:
    (tmp_path / PARTS[2018]["train"][0]).mkdir()
    with pytest.raises(DataError, match="folder ISIC2018_Task1_Training_GroundTruth is missing"):
        Isic().open(tmp_path)


def test_a_case_in_two_parts_is_leakage(tmp_path: Path) -> None:
    add(tmp_path, 2018, "train", 1)
    case = add(tmp_path, 2018, "test", 1)
    with pytest.raises(DataError, match=f"part test are in an earlier part too: {case}"):
        Isic().open(tmp_path)


def test_a_truncated_image_names_the_case(tmp_path: Path) -> None:
    case = add(tmp_path, 2018, "train", 1)
    image = tmp_path / PARTS[2018]["train"][0] / f"{case}.jpg"
    image.write_bytes(image.read_bytes()[:400])
    opened = Isic().open(tmp_path)
    with pytest.raises(DataError, match=f"case {case}: the image file is"):
        opened[0].load()
