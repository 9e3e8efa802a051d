"""Volumes: every orientation ends in one frame and finds its way back; bad files are refused."""

import gzip
import itertools
import traceback
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsa_model.data import nifti, nifti_checks
from medsa_model.data.geometry import Geometry
from medsa_model.data.nifti import read_labels, read_volume, write_labels
from medsa_model.errors import DataError

CASE = "img0007"
PATIENT = "ZZPHI_CANARY_1953"
ORGANS = ("spleen", "liver")
RAS = np.diag([2.0, 3.0, 5.0, 1.0])  # mm for one voxel to the right, to the front, upwards
OBLIQUE = np.array(
    [[1.8, -0.6, 0.4, -90.5], [0.7, 2.7, -1.1, 12.25], [-0.3, 0.9, 4.6, 700.75], [0, 0, 0, 1]]
)
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name must never appear in a message."""
    place = tmp_path / PATIENT
    place.mkdir()
    return place


def save(
    path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] = RAS, **header: Any
) -> Path:
    """A NIfTI file with fields of its header as given, even if they are wrong."""
    image = nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    fields = np.frombuffer(content, image.header.template_dtype, 1)
    for name, value in header.items():
        fields[name] = value
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def patient() -> NDArray[np.int16]:
    """Voxels (right, anterior, superior) of sizes 4, 5, 6: each has a value of its own."""
    return np.arange(120, dtype=np.int16).reshape(4, 5, 6)


def turned(codes: str, affine: NDArray[np.float64]) -> nibabel.Nifti1Image:
    """The patient, scanned with `affine`, as a file whose axes lead to `codes`."""
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(("R", "A", "S")), nibabel.orientations.axcodes2ornt(codes)
    )
    return nibabel.Nifti1Image(patient(), affine).as_reoriented(turn)


def refused(path: Path, what: str = "image") -> str:
    """The message for a file, after checking what holds for every message."""
    image = Geometry((4, 5, 6), RAS)
    with pytest.raises(DataError) as error:
        read_volume(path, CASE) if what == "image" else read_labels(path, CASE, image, ORGANS)
    text = str(error.value)
    assert text.startswith(f"case {CASE}: the {what} file {path.name} ")
    assert PATIENT not in "".join(traceback.format_exception(error.value))
    return text


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("affine", [RAS, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_there_and_back(
    folder: Path, codes: str, affine: NDArray[np.float64]
) -> None:
    source = turned(codes, affine)
    nibabel.save(source, folder / "a.nii")
    voxels, geometry = read_volume(folder / "a.nii", CASE)
    # lowest slice first, then the front row, then the patient's right
    expected = patient().transpose(2, 1, 0)[:, ::-1, ::-1]
    assert voxels.dtype == np.float32
    assert np.array_equal(voxels, expected)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    assert geometry.spacing_mm == pytest.approx((lengths[2], lengths[1], lengths[0]), rel=1e-6)
    assert geometry.orientation == codes

    labels = torch.from_numpy(np.ascontiguousarray(expected % 3))
    write_labels(folder / "l.nii.gz", labels, geometry)
    written = nibabel.load(folder / "l.nii.gz")
    assert written.shape == source.shape
    assert np.allclose(written.affine, source.affine, atol=1e-5)
    assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(source.dataobj) % 3)
    assert written.get_data_dtype() == np.uint8
    again = read_labels(folder / "l.nii.gz", CASE, geometry, ORGANS)
    assert np.array_equal(again, labels.numpy())


def test_slices_rows_and_columns_lead_where_the_frame_says(folder: Path) -> None:
    """Three marks in a file of axes R, A, S: the patient's right is column 0."""
    voxels = np.zeros((4, 5, 6), np.int16)
    voxels[3, 2, 2] = 10  # the right
    voxels[2, 4, 2] = 20  # the front
    voxels[2, 2, 5] = 30  # the top
    found, _ = read_volume(save(folder / "a.nii", voxels), CASE)
    assert np.argwhere(found == 10).tolist() == [[2, 2, 0]]
    assert np.argwhere(found == 20).tolist() == [[2, 0, 1]]
    assert np.argwhere(found == 30).tolist() == [[5, 2, 1]]


def test_the_qform_alone_is_enough(folder: Path) -> None:
    image = turned("LAS", RAS)
    image.set_qform(image.affine, 1)
    image.set_sform(None, 0)
    nibabel.save(image, folder / "a.nii")
    voxels, geometry = read_volume(folder / "a.nii", CASE)
    assert np.array_equal(voxels, patient().transpose(2, 1, 0)[:, ::-1, ::-1])
    assert geometry.orientation == "LAS"


def test_scale_and_intercept_are_applied(folder: Path) -> None:
    path = save(folder / "a.nii", patient(), scl_slope=2.0, scl_inter=-1024.0)
    voxels, _ = read_volume(path, CASE)
    assert voxels[0, 0, 0] == 2 * patient()[3, 4, 0] - 1024


@pytest.mark.parametrize("kind", ["big-endian", "nifti 2", "float64", "not compressed, named .gz"])
def test_other_kinds_of_the_format(folder: Path, kind: str) -> None:
    path = folder / "a.nii.gz"
    if kind == "big-endian":
        image = nibabel.Nifti1Image(patient(), RAS, nibabel.Nifti1Header(endianness=">"))
        nibabel.save(image, path)
    elif kind == "nifti 2":
        nibabel.save(nibabel.Nifti2Image(patient(), RAS), path)
    elif kind == "float64":
        save(path, patient().astype(np.float64))
    else:
        save(folder / "a.nii", patient()).rename(path)
    voxels, _ = read_volume(path, CASE)
    assert np.array_equal(voxels, patient().transpose(2, 1, 0)[:, ::-1, ::-1])


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_length_1_are_dropped_and_written_again(
    folder: Path, extra: tuple[int, ...]
) -> None:
    path = save(folder / "a.nii.gz", patient().reshape(4, 5, 6, *extra))
    voxels, geometry = read_volume(path, CASE)
    assert voxels.shape == (6, 5, 4)
    write_labels(folder / "l.nii.gz", torch.ones(6, 5, 4, dtype=torch.int64), geometry)
    assert nibabel.load(folder / "l.nii.gz").shape == (4, 5, 6, *extra)
    # the labels of such an image may have three axes, and the reverse
    assert read_labels(folder / "l.nii.gz", CASE, Geometry((4, 5, 6), RAS), ORGANS).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5, 6, 2), "has 4 x 5 x 6 x 2 voxels; expected one volume of three axes"),
        ((4, 5, 6, 1, 3), "has 4 x 5 x 6 x 1 x 3 voxels; expected one volume"),
        ((4, 5), "has 4 x 5 voxels; expected a volume of three axes"),
    ],
)
def test_other_numbers_of_axes(folder: Path, shape: tuple[int, ...], expected: str) -> None:
    assert expected in refused(save(folder / "a.nii.gz", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("length", [0, -3])
def test_axes_of_no_length(folder: Path, length: int) -> None:
    path = save(folder / "a.nii", patient(), dim=[3, 4, length, 6, 1, 1, 1, 1])
    assert f"has 4 x {length} x 6 voxels; expected at least one voxel" in refused(path)


@pytest.mark.parametrize("step", [0.0, -2.0])
def test_voxels_of_no_size(folder: Path, step: float) -> None:
    path = save(folder / "a.nii", patient(), pixdim=[1, 2, step, 5, 0, 0, 0, 0])
    text = refused(path)
    assert f"has the voxel size 2, {step:g}, 5; expected millimetres above 0" in text
    assert "Correct pixdim" in text


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((np.nan, 3, 0, 0), "affine that is not finite"),
        ((0, np.inf, 0, 0), "affine that is not finite"),
        ((0, 0, 0, 0), "singular affine: a voxel has no size"),
        ((0, 3, 5, 0), "singular affine: its axes lie in one plane"),
    ],
)
def test_affines_that_say_nothing(folder: Path, row: tuple[float, ...], expected: str) -> None:
    path = save(folder / "a.nii", patient(), srow_y=row, srow_z=row)
    assert expected in refused(path)


def test_a_file_without_orientation_is_refused(folder: Path) -> None:
    """nibabel would assume one, and kidneys could change sides."""
    text = refused(save(folder / "a.nii", patient(), sform_code=0, qform_code=0))
    assert "does not say how its axes lie in the patient" in text


def test_another_unit_is_refused(folder: Path) -> None:
    text = refused(save(folder / "a.nii", patient(), xyzt_units=1))
    assert "measures in the unit meter; expected an affine in mm" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["image", "label"])
def test_voxels_that_are_not_finite(folder: Path, value: float, what: str) -> None:
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[1, 2, 3] = value
    assert "has 1 voxel(s) that are not finite" in refused(save(folder / "a.nii", voxels), what)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_truncated_files(folder: Path, share: float, ending: str) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20), np.int16)
    path = save(folder / f"a.{ending}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    text = refused(path)
    assert "truncated" in text
    assert "Copy or export it again" in text


def test_a_changed_byte_does_not_go_unnoticed(folder: Path) -> None:
    path = folder / "a.nii.gz"
    image = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), RAS)
    content = bytearray(gzip.compress(image.to_bytes(), 0))  # stored: only the checksum can tell
    content[8_000] ^= 1
    path.write_bytes(content)
    assert "cannot be read (BadGzipFile)" in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x1f\x8b", f"{PATIENT} is no volume".encode() * 50, bytes(400)]
)
def test_other_content(folder: Path, content: bytes) -> None:
    path = folder / "a.nii.gz"
    path.write_bytes(content)
    text = refused(path)
    assert "is no NIfTI file" in text or "is truncated" in text


def test_headers_that_make_no_sense(folder: Path) -> None:
    """Damage of any field of the header is ours to report, or changes nothing that is used."""
    content = save(folder / "a.nii", patient()).read_bytes()
    random = np.random.default_rng(0)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(content)
        first = int(random.integers(4, 340))
        damaged[first : first + 8] = random.bytes(8)
        (folder / "a.nii").write_bytes(damaged)
        try:
            voxels, _ = read_volume(folder / "a.nii", CASE)
        except DataError:
            refusals += 1
        else:
            assert np.isfinite(voxels).all()
    assert refusals > 30


def test_voxels_in_a_second_file(folder: Path) -> None:
    path = save(folder / "a.nii", patient(), magic=b"ni1")
    assert "(voxels in a second file)" in refused(path)


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_of_several_numbers(folder: Path, dtype: Any) -> None:
    path = save(folder / "a.nii", np.zeros((4, 5, 6), dtype))
    assert "(voxels that are no plain numbers)" in refused(path)


def test_missing_file(folder: Path) -> None:
    assert "is missing; was it moved" in refused(folder / "a.nii.gz")


def test_limits_of_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(folder / "a.nii.gz", patient())
    monkeypatch.setattr(nifti_checks, "MOST_VOXELS", 100)
    assert "has 4 x 5 x 6 voxels; expected at most 0.0001 million" in refused(path)
    monkeypatch.setattr(nifti, "MOST_BYTES", 500)
    assert "GB; expected less" in refused(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.4, "1 value(s) that stand for no structure (0.4) in 0.833 % of its voxels"),
        (0.4, "use nearest neighbour"),
        (-1, "stand for no structure (-1)"),
        (3, "(3) in 0.833 % of its voxels; expected 0 background, 1 spleen, 2 liver"),
        (3, "Renumber the structures"),
        (70_000, "(70000)"),
    ],
)
def test_values_that_stand_for_nothing(folder: Path, value: float, expected: str) -> None:
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[1, 2, 3] = value
    assert expected in refused(save(folder / "l.nii", voxels), "label")


def test_whole_numbers_may_be_floats(folder: Path) -> None:
    path = save(folder / "l.nii", (patient() % 3).astype(np.float64))
    labels = read_labels(path, CASE, Geometry((4, 5, 6), RAS), ORGANS)
    assert np.bincount(labels.ravel()).tolist() == [40, 40, 40]


def test_labels_of_another_shape(folder: Path) -> None:
    text = refused(save(folder / "l.nii", np.zeros((4, 6, 5), np.uint8)), "label")
    assert "has 4 x 6 x 5 voxels, the image 4 x 5 x 6; expected the same" in text


@pytest.mark.parametrize(("shift", "accepted"), [(0.0008, True), (0.0012, False), (2, False)])
def test_labels_elsewhere(folder: Path, shift: float, accepted: bool) -> None:
    moved = RAS.copy()
    moved[0, 3] += shift
    path = save(folder / "l.nii", np.zeros((4, 5, 6), np.uint8), moved)
    if accepted:
        assert not read_labels(path, CASE, Geometry((4, 5, 6), RAS), ORGANS).any()
    else:
        assert f"up to {shift:.3g} mm apart" in refused(path, "label")


def test_mirrored_labels_are_named_so(folder: Path) -> None:
    mirrored = RAS.copy()
    mirrored[0, 0] *= -1
    path = save(folder / "l.nii", np.zeros((4, 5, 6), np.uint8), mirrored)
    assert "(axes LAS and RAS)" in refused(path, "label")


def test_what_nibabel_says_stays_inside(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would log that the code has no meaning."""
    path = save(folder / "a.nii", patient(), qform_code=77)
    read_volume(path, CASE)
    assert caplog.records == []


@pytest.mark.parametrize("labels", [torch.zeros(6, 5, 4), -torch.ones(6, 5, 4, dtype=torch.int64)])
def test_labels_to_write_are_integers_from_0_on(folder: Path, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected integers from 0 on"):
        write_labels(folder / "l.nii", labels, Geometry((4, 5, 6), RAS))


def test_numbers_beyond_255_are_written(folder: Path) -> None:
    labels = torch.full((6, 5, 4), 300)
    write_labels(folder / "l.nii", labels, Geometry((4, 5, 6), RAS))
    assert (np.asanyarray(nibabel.load(folder / "l.nii").dataobj) == 300).all()


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    with pytest.raises(DataError, match=r"file l\.nii\.gz: it cannot be written") as error:
        write_labels(
            folder / "none" / "l.nii.gz", torch.zeros(6, 5, 4).int(), Geometry((4, 5, 6), RAS)
        )
    assert PATIENT not in "".join(traceback.format_exception(error.value))


def test_nothing_is_left_beside_what_was_written(folder: Path) -> None:
    write_labels(folder / "l.nii.gz", torch.zeros(6, 5, 4).int(), Geometry((4, 5, 6), RAS))
    assert [path.name for path in folder.iterdir()] == ["l.nii.gz"]
