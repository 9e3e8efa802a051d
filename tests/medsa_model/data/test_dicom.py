"""DICOM series: voxels end where their positions say, in HU; series that are not whole do not."""

import ast
import itertools
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from medsa_model.data import dicom, dicom_checks
from medsa_model.data.btcv import Btcv
from medsa_model.data.dicom import read_series
from medsa_model.data.nifti import read_volume
from medsa_model.errors import DataError
from tests.medsa_model.data.dicom_files import (
    CANARY,
    ORIGIN,
    SERIES,
    body,
    write_series,
    write_slice,
)

CASE = "ct_7"
AXES = [  # directions along a row and along a column: 24 ways to lie on the axes
    (*(a * np.eye(3)[i]), *(b * np.eye(3)[j]))
    for i, j in itertools.permutations(range(3), 2)
    for a, b in itertools.product((1, -1), repeat=2)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder below one whose name must never appear in a message."""
    place = tmp_path / CANARY / CASE
    place.mkdir(parents=True)
    return place


def refused(folder: Path) -> str:
    """The message for a series, after checking what holds for every message."""
    with pytest.raises(DataError) as error:
        read_series(folder, CASE)
    told = "".join(traceback.format_exception(error.value))
    assert CANARY not in told and SERIES not in told and "IM0" not in str(error.value)
    assert str(error.value).startswith(f"case {CASE}: ")
    return str(error.value)


def test_an_axial_series_is_in_the_frame_already(folder: Path) -> None:
    """Columns lead to the left, rows to the back, and slices are ordered by position."""
    stored = body()
    write_series(folder, stored)
    voxels, geometry = read_series(folder, CASE)
    assert voxels.dtype == np.float32 and np.array_equal(voxels, stored - 1024.0)
    assert geometry.spacing_mm == (5, 2, 3)
    assert geometry.shape == (10, 12, 4) and geometry.orientation == "LPS"
    assert geometry.affine[:3, 3].tolist() == [10, 20, 100]  # right, front, head


@pytest.mark.parametrize("directions", AXES)
def test_every_voxel_is_where_its_position_says(
    folder: Path, directions: tuple[float, ...]
) -> None:
    """Each number tells its own place, which the tags give by the formula of the standard."""
    along, down = np.array(directions[:3]), np.array(directions[3:])
    normal = np.cross(along, down)
    places = {}
    for n in np.random.default_rng(1).permutation(4):
        position = ORIGIN - 4 * n * normal
        plane = np.zeros((6, 5), np.uint16)
        for row, column in np.ndindex(6, 5):
            plane[row, column] = 2000 + 30 * n + 5 * row + column
            place = position + along * 3 * column + down * 2 * row
            places[tuple(place.round(3))] = int(plane[row, column]) - 1024
        write_slice(folder / f"{n}", plane, position, ImageOrientationPatient=list(directions))
    voxels, geometry = read_series(folder, CASE)
    x, y, z = (sorted({place[axis] for place in places}) for axis in range(3))
    expected = [[[places[a, b, c] for a in x] for b in y] for c in z]
    assert np.array_equal(voxels, expected)
    framed = geometry.in_frame()
    assert framed.shape == voxels.shape
    for index in np.ndindex(voxels.shape):  # mm to the right, front and head
        right, front, head = (framed.affine @ (*index, 1))[:3]
        assert places[tuple(np.round([-right, -front, head], 3))] == voxels[index]


def test_an_oblique_series_has_the_affine_of_its_tags(folder: Path) -> None:
    angle = np.radians(20)
    directions = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    normal = np.cross(directions[:3], directions[3:])
    for n in range(3):
        tags = {"ImageOrientationPatient": [round(step, 6) for step in directions]}
        write_slice(folder / f"{n}", body()[n], ORIGIN + 5 * n * normal, **tags)
    _, geometry = read_series(folder, CASE)
    flip = np.diag([-1, -1, 1])
    for column, row, n in ((0, 0, 0), (9, 0, 0), (0, 11, 0), (9, 11, 2)):
        place = ORIGIN + np.multiply(directions[:3], 3 * column) + 5 * n * normal
        place = place + np.multiply(directions[3:], 2 * row)
        found = (geometry.affine @ (column, row, n, 1))[:3]
        assert found == pytest.approx(flip @ place, abs=1e-4)
    assert geometry.spacing_mm == pytest.approx((5, 2, 3), abs=1e-4)


def test_each_slice_has_its_own_scale(folder: Path) -> None:
    planes = np.full((3, 4, 4), 100, np.uint16)
    for n, (slope, intercept) in enumerate([(1, -1024), (2, 0), ("0.5", "-1e1")]):
        write_slice(folder / f"{n}", planes[n], (0, 0, n), RescaleSlope=slope,
                    RescaleIntercept=intercept)  # fmt: skip
    voxels, _ = read_series(folder, CASE)
    assert voxels[:, 0, 0].tolist() == [-924, 200, 40]


def test_twelve_signed_bits_with_others_above_them(folder: Path) -> None:
    """Old scanners keep overlays in the upper bits."""
    planes = np.array([[[-5, 7]], [[-2048, 2047]]], np.int16)
    overlaid = (planes & 0x0FFF) | 0x3000
    write_series(folder, overlaid, BitsStored=12, HighBit=11, RescaleIntercept=0)
    assert np.array_equal(read_series(folder, CASE)[0], planes)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_plain_encodings(folder: Path, syntax: str) -> None:
    stored = body()
    kind = ">i2" if syntax == ExplicitVRBigEndian else "<i2"
    for n, plane in enumerate(stored):
        write_slice(folder / f"{n}", plane, (0, 0, n), TransferSyntaxUID=syntax,
                    PixelData=plane.astype(kind).tobytes())  # fmt: skip
    assert np.array_equal(read_series(folder, CASE)[0], stored - 1024.0)


def test_what_pydicom_itself_can_unpack(folder: Path) -> None:
    stored = body()
    for path in write_series(folder, stored):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    assert np.array_equal(read_series(folder, CASE)[0], stored - 1024.0)


def test_hidden_files_and_the_index_are_ignored(folder: Path) -> None:
    write_series(folder, body())
    for name in (".DS_Store", "DICOMDIR"):
        (folder / name).write_bytes(b"x")
    assert read_series(folder, CASE)[0].shape == (4, 12, 10)


def test_positions_may_be_rounded(folder: Path) -> None:
    for n, plane in enumerate(body()):
        write_slice(folder / f"{n}", plane, (0, 0, round(n * 2 / 3, 2)))
    assert read_series(folder, CASE)[1].spacing_mm[0] == pytest.approx(2 / 3, abs=0.01)


Spoil = Callable[[Path], Any]


def again(name: str = "IM0001", **tags: Any) -> Spoil:
    """One slice of the series is written with other tags."""

    def spoil(folder: Path) -> None:
        position = [*pydicom.dcmread(folder / name).ImagePositionPatient]
        stored = body()[0]
        if "Rows" in tags:
            stored = stored[: tags["Rows"]]
        write_slice(folder / name, stored, position, **tags)

    return spoil


def every(**tags: Any) -> Spoil:
    """The whole series is written with other tags."""
    return lambda folder: write_series(folder, body(), **tags)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def single(folder: Path) -> None:
    empty(folder)
    write_slice(folder / "a", body()[0], (0, 0, 0))


def gap(folder: Path) -> None:
    empty(folder)
    for n in (0, 1, 2, 3, 6, 7, 8):
        write_slice(folder / f"{n}", body()[0], (0, 0, 5 * n))


def uneven(folder: Path) -> None:
    empty(folder)
    for z in (0, 5, 11.5, 15, 20):
        write_slice(folder / f"{z}", body()[0], (0, 0, z))


def tilted(folder: Path) -> None:
    empty(folder)
    for n in range(4):
        write_slice(folder / f"{n}", body()[0], (0, n, 5 * n))


def linked(folder: Path) -> None:
    path = folder / "IM0001"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def cut(folder: Path) -> None:
    path = folder / "IM0001"
    path.write_bytes(path.read_bytes()[:-9])


def deflate(folder: Path) -> None:
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)


def declared(syntax: str) -> Spoil:
    """Files of a compression that has no decoder here; their pixels are never looked at."""

    def spoil(folder: Path) -> None:
        for path in folder.iterdir():
            content = path.read_bytes()
            old = b"1.2.840.10008.1.2.1\0"
            new = syntax.encode().ljust(len(old) + 2, b"\0")
            start = content.index(b"\x02\x00\x10\x00UI")
            header = content[: start + 6] + len(new).to_bytes(2, "little") + new
            path.write_bytes(header + content[start + 8 + len(old) :])

    return spoil


SPOILED: list[tuple[str, Spoil, str]] = [
    ("empty", empty, "it holds no file"),
    ("folders", lambda folder: (folder / "sub").mkdir(), "1 folder(s), or links to n"),
    ("dead link", lambda folder: (folder / "a").symlink_to(folder / "b"), "1 folder(s), or link"),
    ("text", lambda folder: (folder / "a.txt").write_text(CANARY),
     "1 of 5 files is no DICOM image that can be read: a .txt of "),
    ("no header", lambda folder: (folder / "IM0001").write_bytes(b""),
     "1 of 4 files is no DICOM image that can be read: one without an ending of 0 bytes"),
    ("one slice", single, "it holds 1 slice; expected two or more"),
    ("gap", gap, "about 2 slice(s) are missing in 1 gap(s) of up to 15 mm between 7 slices"),
    ("uneven", uneven, "1 of 5 slices are up to 1.5 mm away from equal distances of 5 mm"),
    ("tilted", tilted, "displaced against each other by 11.3 degrees (a tilted gantry)"),
    ("twice", lambda folder: (folder / "a").write_bytes((folder / "IM0001").read_bytes()),
     "1 of 5 slices lie where another one does"),
    ("series", again(SeriesInstanceUID=f"{SERIES}.2"), "its 4 files are of 2 series"),
    ("no series", again(SeriesInstanceUID=None), "1 of 4 files have no usable SeriesInstanceUID"),
    ("size", again(Rows=6), "its 4 slices have 2 sizes in pixels"),
    ("spacing", again(PixelSpacing=[2, 3.1]), "1 of 4 slices have another pixel spacing"),
    ("orientation", again(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
     "of 4 slices have another orientation than the first"),
    ("shear", every(ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]), "4 of 4 files have rows and c"),
    ("no position", again(ImagePositionPatient=None), "1 of 4 files have no usable ImagePosition"),
    ("no orientation", every(ImageOrientationPatient=None), "4 of 4 files have no usable ImageOri"),
    ("no spacing", every(PixelSpacing=None), "4 of 4 files have no usable PixelSpacing"),
    ("spacing 0", every(PixelSpacing=[0, 2]), "pixels of no size"),
    ("no modality", every(Modality=None), "no usable Modality"),
    ("MR", every(Modality="MR"), "4 of 4 files are of modality MR; expected CT"),
    ("name as modality", every(Modality=CANARY[:9]), "of modality another; expected CT"),
    ("no slope", again(RescaleSlope=None), "1 of 4 files have no rescale slope"),
    ("no intercept", every(RescaleIntercept=None), "4 of 4 files have no rescale slope above 0 w"),
    ("slope 0", every(RescaleSlope=0), "4 of 4 files have no rescale slope above 0"),
    ("unit", every(RescaleType="US"), "4 of 4 files declare a RescaleType other than HU"),
    ("inverted", every(PhotometricInterpretation="MONOCHROME1"), "4 of 4 files are MONOCHROME1"),
    ("palette", every(PhotometricInterpretation="PALETTE COLOR"), "4 of 4 files are pictures in"),
    ("frames", again(NumberOfFrames=3), "1 of 4 files hold several frames (multi-frame)"),
    ("no pixels", again(PixelData=None), "1 of 4 slices have no pixels that can be decoded"),
    ("truncated", cut, "1 of 4 slices have no pixels that can be decoded, as if truncated"),
    ("link", linked, "1 of 4 files are links to another place"),
    ("deflated", deflate, "(Deflated Explicit VR Little Endian); expected slices without compress"),
    ("JPEG", declared(JPEGLosslessSV1), "4 of 4 files are compressed in a way that cannot be und"),
    ("private", declared("1.2.3.19531953195"), "cannot be undone here (another)"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), [row[1:] for row in SPOILED],
                         ids=[row[0] for row in SPOILED])  # fmt: skip
def test_series_that_are_refused(folder: Path, spoil: Spoil, said: str) -> None:
    write_series(folder, body())
    spoil(folder)
    assert said in refused(folder)


def test_limits_hold_before_pixels_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(folder, body())
    monkeypatch.setattr(dicom, "_decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(dicom_checks, "MOST_VOXELS", 479)
    assert "million voxels; expected at most" in refused(folder)
    monkeypatch.setattr(dicom, "MOST_BYTES", 1000)
    assert "0.0 GB, the largest 0 MB; expected at most 1e-06 GB in slices of 32" in refused(folder)
    monkeypatch.undo()
    with (folder / "IM0001").open("r+b") as file:
        file.truncate(33_000_000)  # needs no room on the disk
    assert "the largest 33 MB; expected at most 2 GB in slices of 32 MB" in refused(folder)
    monkeypatch.setattr(dicom, "MOST_FILES", 3)
    assert "it holds 4 files; expected at most 3" in refused(folder)


def test_no_name_is_ever_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every file the tags that are needed, and no other."""
    write_series(folder, body())
    read = pydicom.dcmread
    tags: set[str] = set()

    def heard(*given: Any, **options: Any) -> Any:
        found = read(*given, **options)
        tags.update(element.keyword for element in found)
        return found

    monkeypatch.setattr(pydicom, "dcmread", heard)
    read_series(folder, CASE)
    assert "PixelData" in tags and tags <= {*dicom.HEADER, "PixelData", "SpecificCharacterSet"}


def test_what_pydicom_says_stays_inside(
    folder: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Its warnings quote values."""
    write_series(folder, body(), SeriesInstanceUID=f"1.2.{CANARY}", SpecificCharacterSet="ZZPHI")
    caplog.clear()
    assert read_series(folder, CASE)[0].shape == (4, 12, 10)
    path = folder / "IM0002"
    path.write_bytes(path.read_bytes().replace(b"-1024.0 ", b"-10x4.0 "))
    assert "1 of 4 files is no DICOM image that can be read" in refused(folder)
    assert caplog.text == "" and not recwarn.list


def test_without_pydicom_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, body())
    monkeypatch.setattr(dicom, "find_spec", lambda _: None)
    assert 'pip install "fed-medsa[dicom]"' in refused(folder)


def test_one_door() -> None:
    """pydicom is imported in the two modules of DICOM, inside their functions."""
    root = Path(dicom.__file__).parents[2]
    doors = set()
    for package in ("client", "medsa_model", "server", "sim"):
        for path in (root / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any("pydicom" in ast.unparse(node) for node in ast.walk(tree)
                   if isinstance(node, ast.Import | ast.ImportFrom)):  # fmt: skip
                doors.add(path.name)
                assert not any("pydicom" in ast.unparse(node) for node in tree.body
                               if isinstance(node, ast.Import | ast.ImportFrom))  # fmt: skip
    assert doors == {"dicom.py", "dicom_seg.py"}


def btcv(root: Path, shift: float = 0.0) -> Path:
    """A case as series and label, the same voxels as NIfTI, and the list of both."""
    stored = body()
    write_series(root / "imagesTr" / "ct_a", stored)
    (root / "labelsTr").mkdir()
    # as dcm2niix writes: columns to the left, rows to the front, slices to the head
    affine = np.array([[-3, 0, 0, 10], [0, 2, 0, 20 - 22], [0, 0, 5, 100 + shift], [0, 0, 0, 1.0]])
    upright = stored[:, ::-1].transpose(2, 1, 0)
    labels = (upright > 1200).astype(np.uint8) * 6
    nibabel.save(nibabel.Nifti1Image(upright - np.int16(1024), affine),
                 root / "imagesTr" / "ct_b.nii.gz")  # fmt: skip
    for name in "ab":
        nibabel.save(nibabel.Nifti1Image(labels, affine), root / "labelsTr" / f"ct_{name}.nii.gz")
    entries = [
        {"image": "imagesTr/ct_a", "label": "labelsTr/ct_a.nii.gz"},
        {"image": "imagesTr/ct_b.nii.gz", "label": "labelsTr/ct_b.nii.gz"},
    ]
    (root / "dataset_0.json").write_text(json.dumps({"training": entries}))
    return root


def test_a_series_is_a_case_like_any_other(tmp_path: Path) -> None:
    """Read from DICOM and from a NIfTI copy with mirrored rows: one sample."""
    one, other = (case.load() for case in Btcv().open(btcv(tmp_path)))
    assert (one.case, other.case) == ("ct_a", "ct_b")
    assert one.image.equal(other.image) and one.mask.equal(other.mask)
    assert one.spacing_mm == other.spacing_mm and one.mask[5].any()


@pytest.mark.parametrize(("shift", "accepted"), [(0.09, True), (0.11, False), (5, False)])
def test_labels_lie_on_the_series(tmp_path: Path, shift: float, accepted: bool) -> None:
    case = Btcv().open(btcv(tmp_path, shift))[0]
    if accepted:
        assert case.load().mask[5].any()
    else:
        with pytest.raises(DataError, match=rf"up to {shift:.3g} mm apart .* at most 0\.1 mm"):
            case.load()


def test_nifti_images_are_still_read_as_such(tmp_path: Path) -> None:
    voxels, geometry = read_volume(btcv(tmp_path) / "imagesTr" / "ct_b.nii.gz", CASE)
    assert voxels.shape == (4, 12, 10) and geometry.orientation == "LAS"


def test_a_folder_named_like_a_file_is_no_series(tmp_path: Path) -> None:
    btcv(tmp_path)
    (tmp_path / "imagesTr" / "ct_b.nii.gz").unlink()
    (tmp_path / "imagesTr" / "ct_b.nii.gz").mkdir()
    with pytest.raises(DataError, match=r"1 of 4 listed files are not there: ct_b\.nii\.gz"):
        Btcv().open(tmp_path)


def test_strangers_are_described_by_ending_and_size_and_never_by_name(folder: Path) -> None:
    """What stands behind a dot may be a name as well."""
    write_series(folder, body())
    for name in (f"1.{CANARY}", "2.PDF", "3", "4.txt", "5.txt"):
        (folder / name).write_bytes(b"x" * int(name[0]))
    said = refused(folder)
    assert (
        "5 of 9 files are no DICOM images that can be read: one with another ending of 1 bytes, "
        "a .pdf of 2 bytes, one without an ending of 3 bytes, 2 more; expected"
    ) in said
    assert CANARY not in said
