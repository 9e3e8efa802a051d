"""BTCV in the layouts of Synapse and MONAI, on volumes of a few voxels."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medsa_model.data import btcv
from medsa_model.data.btcv import Btcv
from medsa_model.data.organs import ORGANS
from medsa_model.errors import DataError

MONAI = ("spleen", "rkid", "lkid", "gall", "eso", "liver", "sto", "aorta", "IVC", "veins",
         "pancreas", "rad", "lad")  # fmt: skip


def volume(path: Path, largest: int, affine: Any = None) -> None:
    """(4, 3, 5) voxels, the numbers from 0 to `largest` from the patient's left to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(60).reshape(4, 3, 5) * largest // 59
    affine = np.diag([2.0, 3.0, 5.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), affine), path)


def synapse(root: Path, *numbers: int) -> Path:
    """`root` with cases of these numbers; CT numbers from 0 to 200, all organs in the labels."""
    for number in numbers:
        volume(root / f"RawData/Training/img/img{number:04d}.nii.gz", 200)
        volume(root / f"RawData/Training/label/label{number:04d}.nii.gz", 13)
    return root


def entry(number: int) -> dict[str, str]:
    return {
        "image": f"imagesTr/img{number:04d}.nii.gz",
        "label": f"labelsTr/label{number:04d}.nii.gz",
    }


def monai(root: Path, **content: object) -> Path:
    """`root` with every listed file and the list; by default cases 1, 2 and 35."""
    content = {
        "labels": {"0": "background", **{str(n): word for n, word in enumerate(MONAI, 1)}},
        "": {"0": "CT"}, "numTraining": 80,
        "training": [entry(2), entry(1)], "validation": [entry(35)],
        "test": ["imagesTs/img0061.nii.gz"],
    } | content  # fmt: skip
    for number in (1, 2, 35):
        for path, largest in zip(entry(number).values(), (200, 13), strict=True):
            volume(root / path, largest)
    (root / "dataset_0.json").write_text(json.dumps(content))
    return root


def refused(root: Path) -> str:
    with pytest.raises(DataError) as error:
        Btcv().open(root)
    assert str(root) not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("below", ["", "RawData"])
def test_the_layout_of_synapse(tmp_path: Path, below: str) -> None:
    synapse(tmp_path, 21, 1)
    volume(tmp_path / "RawData/Testing/img/img0061.nii.gz", 200)
    cases = Btcv().open(tmp_path / below)
    assert [case.case for case in cases] == ["img0001", "img0021"]
    assert all(
        (case.patient, case.site, case.part, case.volume) == (case.case, None, None, True)
        for case in cases
    )


def test_nothing_is_read_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synapse(tmp_path, 1)
    read: list[str] = []
    monkeypatch.setattr(btcv, "read_volume", lambda path, case: read.append(case))
    assert len(Btcv().open(tmp_path)) == 1
    assert read == []


def test_a_sample(tmp_path: Path) -> None:
    (case,) = Btcv().open(synapse(tmp_path, 1))
    sample = case.load()
    assert sample.image.shape == (3, 5, 3, 4)
    assert sample.image.dtype == torch.float32
    assert sample.image.stride(0) == 0  # three channels, one memory
    assert sample.mask.shape == (13, 5, 3, 4)
    assert sample.mask.dtype == torch.bool
    assert sample.spacing_mm == (5, 3, 2)
    assert sample.labelled is None
    # the file runs from left to right, so its last voxel, organ 13, is in column 0
    assert sample.mask[12].nonzero().tolist() == [[4, 0, 0]]
    assert sample.image[0, 4, 0, 0] == pytest.approx(255 * (200 + 175) / (250 + 175))


def test_the_window_clips(tmp_path: Path) -> None:
    (case,) = Btcv(window=(50.0, 150.0)).open(synapse(tmp_path, 1))
    numbers = np.arange(60).reshape(4, 3, 5) * 200 // 59
    expected = (numbers.clip(50, 150) - 50) * 2.55
    assert np.allclose(case.load().image[1], expected.transpose(2, 1, 0)[:, ::-1, ::-1], atol=1e-3)


def test_some_organs_in_any_order(tmp_path: Path) -> None:
    synapse(tmp_path, 1)
    everything = Btcv().open(tmp_path)[0].load().mask
    some = Btcv(classes=("liver", "spleen")).open(tmp_path)[0].load().mask
    assert torch.equal(some, everything[[5, 0]])


def test_organs_that_were_not_annotated_are_unknown(tmp_path: Path) -> None:
    section = Btcv(classes=("liver", "spleen", "aorta"), annotated=("spleen", "liver", "pancreas"))
    sample = section.open(synapse(tmp_path, 1))[0].load()
    assert sample.labelled == (True, True, False)
    assert sample.mask.flatten(1).any(1).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "values",
    [
        {"classes": ()},
        {"classes": ("liver", "liver")},
        {"classes": ("Liver",)},
        {"annotated": ("liver", "liver")},
        {"annotated": ()},
        {"classes": ("liver",), "annotated": ("spleen",)},
        {"window": (250, -175)},
        {"window": (0, 0)},
        {"window": (float("nan"), 1)},
    ],
)
def test_sections_that_make_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Btcv(**values)


def test_the_numbering() -> None:
    assert len(ORGANS) == 13
    assert [ORGANS[number - 1] for number in (1, 2, 6, 11, 13)] == [
        "spleen", "right_kidney", "liver", "pancreas", "left_adrenal_gland",
    ]  # fmt: skip


def test_sites_and_patients(tmp_path: Path) -> None:
    synapse(tmp_path, 1, 2)
    (tmp_path / "sites.csv").write_text("image_id,site,patient\nimg0001,north,p\nimg0002,south,p\n")
    cases = Btcv(root=tmp_path).open()
    assert [(case.site, case.patient) for case in cases] == [("north", "p"), ("south", "p")]
    assert cases[0].load().patient == "p"


def test_unpaired_files(tmp_path: Path) -> None:
    synapse(tmp_path, 1, 2, 3)
    (tmp_path / "RawData/Training/label/label0002.nii.gz").unlink()
    (tmp_path / "RawData/Training/img/img0003.nii.gz").unlink()
    text = refused(tmp_path)
    assert "1 image(s) of 2 in Training/img have no mask in Training/label: img0002" in text
    assert "have no image in Training/img: img0003" in text


def test_two_files_of_one_number(tmp_path: Path) -> None:
    synapse(tmp_path, 1)
    volume(tmp_path / "RawData/Training/img/img0001.nii", 200)
    assert "more than one file: img0001" in refused(tmp_path)


def test_volumes_of_other_names_are_not_left_out_silently(tmp_path: Path) -> None:
    synapse(tmp_path, 1)
    (tmp_path / "RawData/Training/img/notes.txt").touch()
    assert len(Btcv().open(tmp_path)) == 1
    volume(tmp_path / "RawData/Training/img/DOE_JOHN.nii.gz", 200)
    text = refused(tmp_path)
    assert "1 NIfTI file(s) of 2 have another name than img0001.nii.gz" in text
    assert "DOE" not in text


@pytest.mark.parametrize("made", [(), ("RawData/Training/img",), ("imagesTr",)])
def test_missing_folders(tmp_path: Path, made: tuple[str, ...]) -> None:
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    text = refused(tmp_path)
    assert "expected RawData/Training/img/img0001.nii.gz" in text
    assert "dataset_0.json with imagesTr and labelsTr" in text
    assert ("no folder label" in text) == ("RawData/Training/img" in made)


def test_empty_folders(tmp_path: Path) -> None:
    for name in ("img", "label"):
        (tmp_path / "RawData/Training" / name).mkdir(parents=True)
    assert "expected at least one pair" in refused(tmp_path)


def test_a_label_of_no_organ(tmp_path: Path) -> None:
    synapse(tmp_path, 1)
    volume(tmp_path / "RawData/Training/label/label0001.nii.gz", 14)
    (case,) = Btcv().open(tmp_path)
    with pytest.raises(DataError) as error:
        case.load()
    text = str(error.value)
    assert text.startswith("case img0001: the label file label0001.nii.gz has 1 value(s)")
    assert "1 spleen" in text and "13 left_adrenal_gland" in text
    assert str(tmp_path) not in text


def test_the_layout_of_monai(tmp_path: Path) -> None:
    """What the list calls validation is what the field tests on."""
    cases = Btcv().open(monai(tmp_path))
    assert [(case.case, case.part) for case in cases] == [
        ("img0001", "train"), ("img0002", "train"), ("img0035", "test"),
    ]  # fmt: skip
    assert cases[0].load().mask.flatten(1).any(1).all()


def test_labelled_test_cases_make_validation_what_it_says(tmp_path: Path) -> None:
    monai(tmp_path, training=[entry(1)], validation=[entry(2)], test=[entry(35)])
    assert [case.part for case in Btcv().open(tmp_path)] == ["train", "val", "test"]


def test_only_listed_cases_count(tmp_path: Path) -> None:
    assert [case.case for case in Btcv().open(monai(tmp_path, validation=[]))] == [
        "img0001", "img0002",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"training": []}, "no list 'training'"),
        ({"validation": "x"}, "no list 'validation'"),
        ({"training": ["imagesTr/img0001.nii.gz"]}, "training[0] is not an image with its label"),
        ({"training": [entry(1), {"image": entry(2)["image"]}]}, "training[1] is not an image"),
        ({"training": [entry(1) | {"image": "/etc/img0001.nii.gz"}]}, "training[0] is not inside"),
        (
            {"training": [entry(1) | {"image": "../imagesTr/img0001.nii.gz"}]},
            "training[0] is not inside the folder of the list: a path begins at the top",
        ),
        ({"training": [entry(1) | {"label": "labelsTr/../../a.nii"}]}, "training[0] is not inside"),
        ({"training": [entry(1) | {"label": 1}]}, "training[0] is not an image with its label"),
        ({"training": [entry(1) | {"image": "imagesTr/ct.png"}]}, "training[0] has a file that do"),
        ({"training": [entry(1) | {"image": "imagesTr/a\nb.nii.gz"}]}, "cannot be printed"),
        (
            {"training": [entry(1), entry(1) | {"image": "imagesTr/ct_b.nii.gz"}]},
            "1 file(s) are listed twice: label0001.nii.gz",
        ),
        (
            {"training": [entry(1), {"image": "b/img0001.nii", "label": "b/label0001.nii"}]},
            "1 case(s) are listed twice: img0001",
        ),
        ({"training": [entry(1) | {"label": entry(2)["label"]}]}, "image 0001 with label 0002"),
        ({"validation": [entry(2), entry(35)]}, "1 case(s) are listed twice: img0002"),
        ({"validation": [entry(36)]}, "2 of 6 listed files are not there: img0036.nii.gz, label"),
        ({"labels": {"0": "background", "10": "pancreas"}}, "labels declares 10 pancreas"),
        ({"labels": {"14": "duodenum"}}, "labels declares 14 duodenum"),
        ({"labels": ["spleen"]}, "labels declares"),
    ],
)
def test_lists_that_do_not_fit(tmp_path: Path, content: dict[str, Any], expected: str) -> None:
    text = refused(monai(tmp_path, **content))
    assert text.startswith("dataset_0.json: ")
    assert expected in text


@pytest.mark.parametrize("text", ["", "{", "\x00", "[" * 100_000])
def test_lists_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    monai(tmp_path)
    (tmp_path / "dataset_0.json").write_text(text)
    assert "dataset_0.json: it cannot be read" in refused(tmp_path)


@pytest.mark.parametrize(
    "labels", [None, {"background": 0, "liver": 6}, {"2": "Right Kidney", "9": "postcava"}]
)
def test_other_words_for_the_same_numbers(tmp_path: Path, labels: dict[str, Any] | None) -> None:
    assert len(Btcv().open(monai(tmp_path, labels=labels))) == 3


def test_listed_files_may_have_any_name(tmp_path: Path) -> None:
    """The image's name is the case, by which sites.csv knows it."""
    pairs = [("ct_a.nii.gz", "ct_a.nii.gz"), ("Fall 7.v2.nii", "seg7.nii.gz")]
    for image, label in pairs:
        volume(tmp_path / "imagesTr" / image, 200)
        volume(tmp_path / "labelsTr" / label, 6)
    entries = [{"image": f"./imagesTr/{i}", "label": f"labelsTr/{n}"} for i, n in pairs]
    monai(tmp_path, training=entries)
    (tmp_path / "sites.csv").write_text("image_id,site\nct_a,n\nFall 7.v2,s\nimg0035,s\n")
    cases = Btcv().open(tmp_path)
    assert [(case.case, case.site, case.part) for case in cases] == [
        ("Fall 7.v2", "s", "train"), ("ct_a", "n", "train"), ("img0035", "s", "test"),
    ]  # fmt: skip
    assert [case.load().mask[6].any().item() for case in cases] == [False, False, True]


def test_a_list_that_is_missing_is_all_that_is_asked_for(tmp_path: Path) -> None:
    monai(tmp_path)
    (tmp_path / "dataset_0.json").unlink()
    text = refused(tmp_path)
    assert "imagesTr and labelsTr are there, dataset_0.json alone is missing in data.root" in text
    assert '{"training": [{"image": "imagesTr/img0001.nii.gz", "label": "labelsTr/label000' in text
    assert "RawData" not in text


@pytest.mark.parametrize(
    ("lost", "named"),
    [([], "dataset_0.json (MONAI)"), (["dataset_0.json"], "imagesTr with labelsTr (MONAI)")],
)
def test_both_layouts_in_one_folder(tmp_path: Path, lost: list[str], named: str) -> None:
    synapse(monai(tmp_path), 7)
    for name in lost:
        (tmp_path / name).unlink()
    text = refused(tmp_path)
    assert "both layouts, RawData/Training (Synapse) and " in text and named in text
    assert len(Btcv().open(tmp_path / "RawData")) == 1


def test_an_implausible_volume_says_why(tmp_path: Path) -> None:
    """CT numbers from 0 to 200 hold no air; half a millimetre beside 30."""
    root = synapse(tmp_path, 1, 2)
    for name, largest in (("img", 200), ("label", 13)):
        volume(root / f"RawData/Training/{name}/{name}0002.nii.gz", largest, np.diag([1, 1, 30, 1]))
    one, other = (case.load().remarks for case in Btcv().open(root))
    assert len(one) == 1 and "no voxel is below -500 HU (the lowest is 0)" in one[0]
    assert len(other) == 2 and "30 x 1 x 1 mm, expected 0.1 to 20 mm" in other[1]
