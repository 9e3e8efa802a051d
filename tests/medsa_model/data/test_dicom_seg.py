"""DICOM SEG: read by highdicom, every found voxel lies where it lies in the series."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from medsa_model.data import dicom_seg
from medsa_model.data.dicom import read_series
from medsa_model.data.dicom_seg import write_segmentation
from medsa_model.data.organs import ORGANS
from medsa_model.errors import ConfigError, DataError
from tests.medsa_model.data.dicom_files import CANARY, ORIGIN, body, write_slice

highdicom = pytest.importorskip("highdicom")

STUDY = {
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.7", "StudyDate": "", "StudyTime": "",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.8", "AccessionNumber": "", "StudyID": "",
    "ReferringPhysicianName": "", "PatientBirthDate": "", "PatientSex": "", "SeriesNumber": 1,
    "PositionReferenceIndicator": "", "SliceThickness": 4,
}  # fmt: skip
DIRECTIONS = [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0, -1, 0, 1, 0, 0)]
NAMES = ("spleen", "right_kidney", "left_kidney", "lesion of ours")


def series(folder: Path, directions: tuple[int, ...], **tags: object) -> Path:
    folder.mkdir(parents=True)
    along, down = np.array(directions[:3]), np.array(directions[3:])
    normal = np.cross(along, down)
    for n in (2, 0, 3, 1):
        position = ORIGIN + 4.0 * n * normal
        write_slice(folder / f"IM{9 - n}", body()[n], position,
                    **{**STUDY, "ImageOrientationPatient": list(directions), **tags})  # fmt: skip
    return folder


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_every_voxel_is_where_it_was_found(tmp_path: Path, directions: tuple[int, ...]) -> None:
    folder = series(tmp_path / "ct", directions)
    voxels, geometry = read_series(folder, "ct")
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 0, 2, 4], voxels.shape))
    path = tmp_path / "ct.dcm"
    assert write_segmentation(path, folder, "ct", labels, geometry, NAMES)
    found = highdicom.seg.segread(path)
    assert [each.segment_label for each in found.SegmentSequence] == [
        "right kidney", "lesion of ours",
    ]  # fmt: skip
    organ, own = (each.SegmentedPropertyTypeCodeSequence[0] for each in found.SegmentSequence)
    assert (organ.CodingSchemeDesignator, own.CodingSchemeDesignator) == ("SCT", "99FEDMEDSA")
    assert own.CodeValue == dicom_seg.own_code("lesion of ours") != dicom_seg.own_code("edema")
    of_segment = {1: 2, 2: 4}
    volume = found.get_volume(combine_segments=True)
    written = {
        tuple((volume.affine @ (*index, 1))[:3].round(3)): of_segment[int(volume.array[index])]
        for index in np.ndindex(volume.array.shape)
        if volume.array[index]
    }
    expected = {}
    affine = geometry.in_frame().affine
    for index in np.ndindex(voxels.shape):
        right, front, head = (affine @ (*index, 1))[:3]
        if number := int(labels[index]):
            expected[tuple(np.round([-right, -front, head], 3))] = number
    assert written == expected and len(expected) > 100


def test_it_belongs_to_the_patient_and_the_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", DIRECTIONS[0])
    voxels, geometry = read_series(folder, "ct")
    path = tmp_path / "ct.dcm"
    write_segmentation(path, folder, "ct", torch.ones(voxels.shape).long(), geometry, NAMES)
    found = highdicom.seg.segread(path)
    assert str(found.PatientName) == CANARY and found.StudyInstanceUID == STUDY["StudyInstanceUID"]
    sources = {uid for _, _, uid in found.get_source_image_uids()}
    files = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert found.Modality == "SEG" and sources == {each.SOPInstanceUID for each in files}


def test_organs_have_their_terms_and_sides(tmp_path: Path) -> None:
    assert set(dicom_seg.ORGANS) == set(ORGANS)
    folder = series(tmp_path / "ct", DIRECTIONS[0])
    voxels, geometry = read_series(folder, "ct")
    labels = torch.arange(voxels.size).reshape(voxels.shape) % (len(ORGANS) + 1)
    path = tmp_path / "ct.dcm"
    write_segmentation(path, folder, "ct", labels, geometry, ORGANS)
    for organ, each in zip(ORGANS, highdicom.seg.segread(path).SegmentSequence, strict=True):
        (term,) = each.SegmentedPropertyTypeCodeSequence
        side = getattr(term, "SegmentedPropertyTypeModifierCodeSequence", None)
        told = f"{side[0].CodeMeaning.lower()}_" if side else ""
        noun = term.CodeMeaning.lower().replace(" ", "_")
        assert f"{told}{noun}" == organ or organ == "portal_and_splenic_vein"
        assert term.CodingSchemeDesignator == "SCT"


def test_nothing_found_is_no_object(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", DIRECTIONS[0])
    voxels, geometry = read_series(folder, "ct")
    path = tmp_path / "ct.dcm"
    labels = torch.zeros(voxels.shape).long()
    assert not write_segmentation(path, folder, "ct", labels, geometry, NAMES)
    assert [*tmp_path.iterdir()] == [folder]


def test_slices_without_a_study_are_refused_without_their_texts(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", DIRECTIONS[0], StudyInstanceUID="1")
    voxels, geometry = read_series(folder, "ct")
    for path in folder.iterdir():
        without = pydicom.dcmread(path)
        del without.StudyInstanceUID
        without.save_as(path)
    labels = torch.ones(voxels.shape).long()
    with pytest.raises(
        DataError, match=r"its DICOM SEG cannot be written \(no tag StudyInstanceUID\)"
    ) as error:
        write_segmentation(tmp_path / "ct.dcm", folder, "ct", labels, geometry, NAMES)
    assert CANARY not in str(error.value)
    assert [*tmp_path.iterdir()] == [folder]


def test_without_the_extra_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dicom_seg.check_installed()
    monkeypatch.setattr(dicom_seg, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"highdicom.*dicom"):
        dicom_seg.check_installed()
