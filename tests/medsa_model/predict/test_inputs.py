"""Which files are cases, under which names, and that nothing is left out without a word."""

import pytest
from PIL import Image

from medsa_model.errors import DataError
from medsa_model.predict.inputs import case_of, find_inputs, find_masks
from tests.medsa_model.data.dicom_files import body, write_series


def test_a_case_is_named_as_its_file(tmp_path):
    for name, case in (
        ("a.png", "a"), ("scan.nii.gz", "scan"), ("scan.v2.NII", "scan.v2"), ("x.tar.jpg", "x.tar"),
    ):  # fmt: skip
        assert case_of(tmp_path / name) == case


def test_a_folder_of_slices_is_one_series_and_a_folder_of_such_folders_several(tmp_path):
    for name in ("one", "two"):
        write_series(tmp_path / name, body())
    (tmp_path / "readme.md").write_text("none")
    (tmp_path / ".hidden").mkdir()
    found = find_inputs(tmp_path, volumes=True)
    assert [(each.case, each.kind) for each in found.inputs] == [
        ("one", "series"), ("two", "series"),
    ]  # fmt: skip
    assert found.left_out == ("readme.md",)
    (alone,) = find_inputs(tmp_path / "one", volumes=True).inputs
    assert (alone.case, alone.path, alone.kind) == ("one", tmp_path / "one", "series")
    (single,) = (tmp_path / "one").glob("*3")
    with pytest.raises(DataError, match="one DICOM file; expected the folder"):
        find_inputs(single, volumes=True)


def test_files_of_the_other_kind_are_left_out_by_name_or_refused(tmp_path):
    for name in ("a.png", "b.nii.gz", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = find_inputs(tmp_path, volumes=False)
    assert [each.case for each in found.inputs] == ["a"]
    assert found.left_out == ("b.nii.gz", "b.txt")
    with pytest.raises(DataError, match=r"of volumes \(NIfTI.*trained on images \(PNG"):
        find_inputs(tmp_path / "b.nii.gz", volumes=False)
    with pytest.raises(DataError, match=r"nothing that can be segmented.*Left out: b\.txt"):
        find_inputs(tmp_path / "b.txt", volumes=False)


def test_two_files_of_one_case_are_refused(tmp_path):
    for name in ("a.png", "a.bmp"):
        Image.new("L", (2, 2)).save(tmp_path / name)
    with pytest.raises(DataError, match="more than one file: a"):
        find_inputs(tmp_path, volumes=False)
    with pytest.raises(DataError, match="more than one file: a"):
        find_masks(tmp_path, "--labels")
    with pytest.raises(DataError, match="no such file or folder"):
        find_masks(tmp_path / "nothing", "--rough")
