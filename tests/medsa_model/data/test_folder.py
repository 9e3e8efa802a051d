"""Plain folders and the nnU-Net / Decathlon layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from medsa_model.data.folder import Folder
from medsa_model.errors import DataError


def image(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 6), (200, 100, 50)).save(path)


def label(path: Path, *values: int) -> None:
    """Rows of the given grey values, then zeros."""
    path.parent.mkdir(exist_ok=True)
    levels = np.zeros((6, 8), np.uint8)
    levels[: len(values)] = np.array(values, np.uint8)[:, None]
    Image.fromarray(levels).save(path)


def declare(root: Path, labels: object) -> None:
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def test_images_and_masks(tmp_path: Path) -> None:
    image(tmp_path / "images" / "b.JPG")
    image(tmp_path / "images" / "a.tif")
    label(tmp_path / "masks" / "b.png", 255)
    label(tmp_path / "masks" / "a.bmp", 1, 1)
    (tmp_path / "images" / "Thumbs.db").touch()
    cases = Folder().open(tmp_path)
    assert [case.case for case in cases] == ["a", "b"]
    assert [int(case.load().mask.sum()) for case in cases] == [16, 8]
    assert {case.part for case in cases} == {None}


def test_sites_and_patients(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    label(tmp_path / "masks" / "a.png", 255)
    (tmp_path / "sites.csv").write_text("image_id,site,patient\na,north,p1\n")
    (case,) = Folder(root=tmp_path).open()
    assert (case.site, case.patient, case.load().patient) == ("north", "p1", "p1")


def test_unpaired_files(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "b.png")
    label(tmp_path / "masks" / "a.png", 255)
    label(tmp_path / "masks" / "c.png", 255)
    with pytest.raises(DataError) as error:
        Folder().open(tmp_path)
    text = str(error.value)
    assert "1 image(s) of 2 in images have no mask in masks: b" in text
    assert "1 mask(s) of 2 in masks have no image in images: c" in text
    assert str(tmp_path) not in text


def test_two_images_of_one_name(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "a.jpg")
    label(tmp_path / "masks" / "a.png", 255)
    with pytest.raises(DataError, match="more than one file: a"):
        Folder().open(tmp_path)


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder images and masks; expected .*dataset\.json"):
        Folder().open(tmp_path)
    declare(tmp_path, {"background": 0, "object": 1})
    with pytest.raises(DataError, match="no folder imagesTr and labelsTr"):
        Folder().open(tmp_path)


def test_volumes_are_refused(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii.gz").touch()
    with pytest.raises(DataError, match="NIfTI volumes; expected pictures"):
        Folder().open(tmp_path)


def test_one_name_for_plain_masks(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    label(tmp_path / "masks" / "a.png", 255)
    assert Folder(classes=("polyp",)).open(tmp_path)
    with pytest.raises(DataError, match=r"2 names \(cup, disc\) for masks/"):
        Folder(classes=("cup", "disc")).open(tmp_path)


@pytest.mark.parametrize("classes", [(), ("cup", "cup")])
def test_names_are_checked_when_the_configuration_is_read(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Folder(classes=classes)


@pytest.mark.parametrize(
    "labels", [{"background": 0, "disc": 1, "cup": 2}, {"0": "background", "1": "disc", "2": "cup"}]
)
@pytest.mark.parametrize("name", ["eye_1_0000.png", "eye_1.png"])
def test_labels_become_channels(tmp_path: Path, labels: object, name: str) -> None:
    image(tmp_path / "imagesTr" / name)
    label(tmp_path / "labelsTr" / "eye_1.png", 1, 2, 2)
    declare(tmp_path, labels)
    section = Folder(classes=("cup", "disc"))
    (case,) = section.open(tmp_path)
    assert case.case == "eye_1"
    sample = case.load()
    assert sample.mask.shape == (2, 6, 8)
    assert sample.mask.sum((1, 2)).tolist() == [16, 8]


def test_a_name_that_ends_like_a_channel(tmp_path: Path) -> None:
    image(tmp_path / "imagesTr" / "scan_0001.png")
    label(tmp_path / "labelsTr" / "scan_0001.png", 1)
    declare(tmp_path, {"0": "background", "1": "object"})
    assert [case.case for case in Folder().open(tmp_path)] == ["scan_0001"]


def test_several_channel_files(tmp_path: Path) -> None:
    for channel in range(2):
        image(tmp_path / "imagesTr" / f"eye_1_000{channel}.png")
    label(tmp_path / "labelsTr" / "eye_1.png", 1)
    declare(tmp_path, {"background": 0, "object": 1})
    with pytest.raises(DataError, match=r"several channel files .*: eye_1; expected one"):
        Folder().open(tmp_path)


def test_undeclared_values(tmp_path: Path) -> None:
    image(tmp_path / "imagesTr" / "eye_1_0000.png")
    label(tmp_path / "labelsTr" / "eye_1.png", 1, 7, 255)
    declare(tmp_path, {"background": 0, "disc": 1})
    (case,) = Folder(classes=("disc",)).open(tmp_path)
    with pytest.raises(DataError) as error:
        case.load()
    text = str(error.value)
    assert text.startswith("case eye_1: the label file has the value(s) 7, 255; expected 0 back")
    assert "1 disc" in text
    assert str(tmp_path) not in text


def test_classes_must_be_declared(tmp_path: Path) -> None:
    image(tmp_path / "imagesTr" / "eye_1.png")
    label(tmp_path / "labelsTr" / "eye_1.png", 1)
    declare(tmp_path, {"background": 0, "disc": 1, "cup": 2})
    with pytest.raises(DataError, match=r"data\.classes: object .* expected some of \[disc, cup\]"):
        Folder().open(tmp_path)


@pytest.mark.parametrize("ending", ["webp", "gif", "GIF", "dcm", "nii.gz"])
@pytest.mark.parametrize(("refused", "other"), [("images", "masks"), ("masks", "images")])
@pytest.mark.parametrize("partner", ["png", "webp"])
def test_half_a_pair_with_an_unsupported_ending(
    tmp_path: Path, ending: str, refused: str, other: str, partner: str
) -> None:
    image(tmp_path / "images" / "c00.png")
    label(tmp_path / "masks" / "c00.png", 255)
    (tmp_path / refused / f"c03.{ending}").touch()
    (tmp_path / other / f"c03.{partner}").touch()
    expected = r"is not a supported picture; expected PNG, JPEG, BMP or TIFF"
    with pytest.raises(DataError, match=expected) as error:
        Folder().open(tmp_path)
    if partner == "png":
        assert str(error.value).startswith(f"folder {refused}: c03.{ending} is not")
    assert str(tmp_path) not in str(error.value)


def test_other_files_and_second_copies_are_left_alone(tmp_path: Path) -> None:
    image(tmp_path / "images" / "c00.png")
    label(tmp_path / "masks" / "c00.png", 255)
    for name in ("images/c00.webp", "images/notes.pdf", "images/Thumbs.db", "masks/Thumbs.db"):
        (tmp_path / name).touch()
    assert [case.case for case in Folder().open(tmp_path)] == ["c00"]


def test_an_unsupported_ending_behind_a_channel_number(tmp_path: Path) -> None:
    image(tmp_path / "imagesTr" / "eye_1_0000.png")
    (tmp_path / "imagesTr" / "eye_2_0000.webp").touch()
    label(tmp_path / "labelsTr" / "eye_1.png", 1)
    label(tmp_path / "labelsTr" / "eye_2.png", 1)
    declare(tmp_path, {"background": 0, "object": 1})
    with pytest.raises(DataError, match=r"folder imagesTr: eye_2_0000\.webp is not a supported"):
        Folder().open(tmp_path)


def test_masks_named_after_their_images(tmp_path: Path) -> None:
    image(tmp_path / "images" / "c00.png")
    label(tmp_path / "masks" / "c00_mask.png", 255)
    with pytest.raises(DataError, match="names must be equal: rename c00_mask to c00"):
        Folder().open(tmp_path)


@pytest.mark.parametrize("of_label", [None, 3])
def test_a_turned_image_needs_a_label_turned_alike(tmp_path: Path, of_label: int | None) -> None:
    image(tmp_path / "imagesTr" / "eye_1.png")
    label(tmp_path / "labelsTr" / "eye_1.png", 1)
    declare(tmp_path, {"background": 0, "object": 1})
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    for path in ("imagesTr/eye_1.png", "labelsTr/eye_1.png")[: 2 if of_label else 1]:
        with Image.open(tmp_path / path) as picture:
            picture.load()
        picture.save(tmp_path / path, exif=exif)
    (case,) = Folder().open(tmp_path)
    if of_label:
        assert case.load().mask[0].any(1).tolist() == [False] * 5 + [True]
    else:
        with pytest.raises(DataError, match="case eye_1: the image has EXIF orientation 3"):
            case.load()


def test_a_root_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    image(tmp_path / "set" / "images" / "a.png")
    label(tmp_path / "set" / "masks" / "a.png", 255)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [case.case for case in Folder(root=Path("~/set")).open()] == ["a"]
