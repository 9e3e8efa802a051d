"""`medsa-predict` on volumes: the masks of evaluation, in any orientation, on the file's voxels."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import medsa_model.evaluate_volumes
from medsa_model.data.dicom import read_series
from medsa_model.data.hounsfield import to_grey
from medsa_model.data.nifti import read_volume, write_labels
from medsa_model.data.sample import Case, Sample
from medsa_model.errors import DataError
from medsa_model.evaluate_volumes import follow_rows
from medsa_model.prompts import Box, ByClass
from medsa_model.trained import build_trained, read_trained
from tests.medsa_model.data.dicom_files import body, write_series
from tests.medsa_model.data.test_dicom_seg import STUDY
from tests.medsa_model.predict.made_up_adapters import (
    AFFINE,
    VOLUME,
    WINDOW,
    in_axes,
    organ,
    predict,
    save_nifti,
    scan,
    task_of,
    write_adapter,
)


@pytest.fixture(scope="module")
def organs(tmp_path_factory) -> Path:
    """An adapter that learnt the names of two structures of volumes."""
    task = task_of(("liver", "spleen"), ("box", "class"), named=True, volumes=True)
    return write_adapter(tmp_path_factory.mktemp("organs"), task)


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Path:
    return save_nifti(tmp_path_factory.mktemp("ct") / "scan.nii.gz", scan())


def labels(out: Path, case: str = "scan") -> NDArray[np.uint8]:
    return np.asarray(nibabel.load(out / f"masks/{case}.nii.gz").dataobj)


def evaluated(adapter: Path, ct: Path, kind: object) -> NDArray[np.bool_]:
    """What evaluation finds of the first structure, the organ, in the file's axes."""
    voxels, geometry = read_volume(ct, "scan")
    truth = torch.from_numpy(geometry.to_frame(organ()))
    mask = torch.stack([truth, torch.zeros_like(truth)])
    sample = Sample(to_grey(voxels, WINDOW), mask, "scan", "scan", geometry.spacing_mm)
    case = Case("scan", "scan", None, None, lambda: sample, volume=True)
    model = build_trained(read_trained(adapter), None, torch.device("cpu")).model
    kinds = [kind]
    (found,) = medsa_model.evaluate_volumes.predict_volume(
        model, case, kinds, 0, "float32", VOLUME,  # type: ignore[arg-type]
    )  # fmt: skip
    return geometry.from_frame(found.found[0].numpy())


def test_a_rough_mask_asks_on_its_slices_and_the_file_lies_on_the_image(organs, ct, tmp_path):
    rough = save_nifti(tmp_path / "rough.nii.gz", organ().astype(np.uint8))
    out = tmp_path / "out"
    assert predict(organs, ct, out, "--rough", str(rough)) == 0
    expected = evaluated(organs, ct, Box())
    assert expected.any() and np.array_equal(labels(out) == 1, expected)
    written, image = nibabel.load(out / "masks/scan.nii.gz"), nibabel.load(ct)
    assert written.shape == image.shape and np.array_equal(written.affine, image.affine)
    assert written.get_data_dtype() == np.uint8
    (row,) = csv.DictReader((out / "volumes.csv").read_text().splitlines())
    found = labels(out) == 1
    assert int(row["voxels"]) == found.sum()
    assert float(row["volume_mm3"]) == pytest.approx(found.sum() * 2 * 2.5 * 4, rel=1e-5)
    largest = int(row["largest_slice"])
    areas = found.sum((0, 1))
    assert areas[largest] == areas.max()
    assert float(row["area_mm2"]) == pytest.approx(areas.max() * 2 * 2.5, rel=1e-5)
    assert row["prompt"] == "boxes of the rough mask on 4 slices"


def test_a_wrong_label_does_not_cost_the_dicom_seg_nor_the_other_way_round(
    organs, tmp_path, capsys, monkeypatch
):
    source, truth, segmented = tmp_path / "studies", tmp_path / "truth", []
    truth.mkdir()
    for number, case in enumerate(("label", "object", "both")):
        write_series(source / case, body(number))
        _, geometry = read_series(source / case, case)
        numbers = torch.zeros(geometry.in_frame().shape, dtype=torch.uint8)
        numbers[1, 2:6, 2:6] = 1 if case == "object" else 7
        write_labels(truth / f"{case}.nii.gz", numbers, geometry)

    def write(place: Path, folder: Path, case: str, *_: object) -> bool:
        segmented.append(case)
        if case != "label":
            raise DataError(f"case {case}: its DICOM SEG cannot be written")
        return True

    monkeypatch.setattr("medsa_model.predict.run.check_installed", lambda: None)
    monkeypatch.setattr("medsa_model.predict.case.write_segmentation", write)
    out, words = tmp_path / "out", ("--dicom-seg", "--no-overlays", "--structure", "liver")
    assert predict(organs, source, out, "--labels", str(truth), *words) == 1
    assert segmented == ["both", "label", "object"]
    assert len(list((out / "masks").iterdir())) == 3
    failed = json.loads((out / "prediction.json").read_text())["failed"]
    assert failed["object"] == "case object: its DICOM SEG cannot be written"
    assert failed["label"].count("case label") == 1 and "DICOM SEG" not in failed["label"]
    assert failed["both"].count("case both") == 2 and "; case both: its DICOM" in failed["both"]
    scores = json.loads((out / "summary.json").read_text())["metric_per_case"]
    assert [each["reference_file"] for each in scores] == ["object.nii.gz"]
    assert scores[0]["metrics"]["1"]["n_ref"] == 16


def test_a_box_is_followed_as_in_evaluation(organs, ct, tmp_path, monkeypatch):
    areas = organ().sum((0, 1))
    place = int(areas.argmax())
    xs, ys = (np.flatnonzero(organ()[:, :, place].any(axis)) for axis in (1, 0))
    asked = []
    follow = medsa_model.evaluate_volumes.follow_rows

    def listened(rows, shape, decode):
        asked.append(rows)
        return follow(rows, shape, decode)

    monkeypatch.setattr("medsa_model.predict.segment.follow_rows", listened)
    monkeypatch.setattr("medsa_model.evaluate_volumes.follow_rows", listened)
    box = f"{xs[0]},{ys[0]},{xs[-1]},{ys[-1]},{place}"
    words = ("--box", box, "--structure", "liver", "--no-overlays")
    assert predict(organs, ct, tmp_path / "out", *words) == 0
    evaluated(organs, ct, Box(followed=True))
    (mine,), (theirs,) = ([*rows.items()] for rows in asked)
    assert mine[0] == theirs[0]
    # evaluation draws the box around whole pixels of the frame, here it is exact
    assert np.abs(np.subtract(mine[1][2], theirs[1][2])).max() <= 0.5 + 1e-9
    assert (labels(tmp_path / "out") == 1).any()


def test_prompts_on_several_slices_meet_between_them():
    asked = []

    def decode(places, rows, structure):
        asked.append((places[0], rows[0]))
        logits = torch.full((1, 8, 8), -1.0)
        logits[0, 2 : 4 + rows[0][1].count(1), 1:7] = 1.0  # higher where it was clicked
        return logits

    clicks = {2: ([(3.0, 3.0)], [1], None), 7: ([(4.0, 3.0)], [1], None)}
    logits = follow_rows(clicks, (10, 8, 8), decode)
    assert [place for place, _ in asked] == [2, 7, 3, 4, 1, 0, 8, 9, 6, 5]
    assert (logits > 0).flatten(1).any(1).all()
    after = {place: row for place, row in asked if place not in clicks}
    assert after[3][2] == after[8][2] == after[6][2] == (1.0, 2.0, 6.0, 4.0)
    assert after[4][2] == (1.0, 2.0, 6.0, 3.0)


def test_names_need_no_prompt(organs, ct, tmp_path):
    out = tmp_path / "out"
    assert predict(organs, ct, out, "--structure", "liver") == 0
    expected = evaluated(organs, ct, ByClass())
    assert expected.any() and np.array_equal(labels(out) == 1, expected)
    assert (labels(out) <= 1).all()
    with Image.open(out / "overlays/scan.png") as shown:
        assert max(shown.size) >= 512


@pytest.mark.parametrize(
    "codes",
    ["LPS", "PIR", *(pytest.param(other, marks=pytest.mark.thorough) for other in ("LAS", "RAS"))],
)
def test_the_same_patient_in_other_axes_gets_the_same_mask(organs, ct, tmp_path, codes):
    image = in_axes(scan(), codes)
    nibabel.save(image, tmp_path / "scan.nii")
    back = np.linalg.inv(image.affine) @ AFFINE  # from voxels of LAS to those of the file

    def moved(*voxel: float) -> list[int]:
        return np.rint(back @ (*voxel, 1))[:3].astype(int).tolist()

    click, off = moved(8, 11, 3), moved(20, 4, 3)
    corners = np.array([moved(4, 7, 2), moved(12, 15, 2)])
    along = next(axis for axis in range(3) if codes[axis] in "IS")
    first, second = (axis for axis in range(3) if axis != along)
    (x0, y0), (x1, y1) = np.sort(corners, axis=0)[:, [first, second]]
    prompts = tmp_path / "prompts.json"
    box = [int(x0), int(y0), int(x1), int(y1), int(corners[0, along])]
    entries = {
        "scan": [
            {"structure": "liver", "click": click, "not": off},
            {"structure": "spleen", "box": box},
        ]
    }
    prompts.write_text(json.dumps(entries))
    plain = tmp_path / "plain.json"
    entries["scan"] = [
        {"structure": "liver", "click": [8, 11, 3], "not": [20, 4, 3]},
        {"structure": "spleen", "box": [4, 7, 12, 15, 2]},
    ]
    plain.write_text(json.dumps(entries))
    words = ("--no-overlays", "--prompts")
    assert predict(organs, tmp_path / "scan.nii", tmp_path / "other", *words, str(prompts)) == 0
    assert predict(organs, ct, tmp_path / "LAS", *words, str(plain)) == 0
    other = nibabel.load(tmp_path / "other/masks/scan.nii.gz")
    assert np.array_equal(other.affine, image.affine) and other.shape == image.shape
    expected = labels(tmp_path / "LAS")
    assert {1, 2} <= set(np.unique(expected))
    found = np.asarray(other.dataobj)
    for voxel in np.ndindex(expected.shape):
        assert found[tuple(moved(*voxel))] == expected[voxel]


def test_dicom_series_beside_other_files(organs, ct, tmp_path, capsys):
    source = tmp_path / "studies"
    write_series(source / "first", body())
    write_series(source / "second", body(1))
    (source / "second" / "IM0001").unlink()
    (source / "papers").mkdir()
    (source / "scan.nii.gz").write_bytes(ct.read_bytes())
    out = tmp_path / "out"
    assert predict(organs, source, out, "--no-overlays") == 1
    shown = capsys.readouterr()
    assert "1 in all: papers/" in shown.err and "case second" in shown.err
    assert sorted(path.name for path in (out / "masks").iterdir()) == [
        "first.nii.gz", "scan.nii.gz",
    ]  # fmt: skip
    _, geometry = read_series(source / "first", "first")
    written = nibabel.load(out / "masks/first.nii.gz")
    assert written.shape == geometry.shape and np.allclose(written.affine, geometry.affine)


@pytest.mark.thorough
def test_dicom_seg_is_written_beside_the_mask(organs, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    write_series(tmp_path / "first", body(), **STUDY)
    out = tmp_path / "out"
    words = ("--box", "1,3,8,10,1", "--structure", "spleen", "--dicom-seg", "--no-overlays")
    assert predict(organs, tmp_path / "first", out, *words) == 0
    found = labels(out, "first")
    volume = highdicom.seg.segread(out / "masks/first.dcm").get_volume(combine_segments=True)
    assert (found == 2).any() and (volume.array > 0).sum() == (found == 2).sum()


def test_what_a_volume_cannot_be_asked(organs, ct, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (20, 10)).save(picture)
    empty = save_nifti(tmp_path / "scan.nii.gz", np.zeros((24, 20, 6), np.uint8))
    for source, words, said in (
        (ct, ("--click", "1,2", "--structure", "liver"), "expected I,J,K for a volume"),
        (ct, ("--click", "1,2,6", "--structure", "liver"), "24 x 20 x 6 voxels (i x j x k)"),
        (ct, ("--rough", str(empty)), "the rough mask shows none of [liver, spleen]"),
        (picture, (), "1 case(s) of images (PNG, JPEG, BMP, TIFF), but the adapter was trained on "
         "volumes"),
    ):  # fmt: skip
        out = tmp_path / "out"
        assert predict(organs, source, out, *words, "--overwrite") == 1
        assert said in capsys.readouterr().err
        assert not list(out.glob("masks/*"))
