"""The contract of every data set: each member of the union `DataSet` is held to it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from medsa_model.data import VOLUMES, Case, DataSet, Sample

ADAPTER: TypeAdapter[DataSet] = TypeAdapter(DataSet)


def pair(image: Path, mask: Path, largest: int = 255) -> None:
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 100, 50)).save(image)
    levels = np.zeros((6, 8), np.uint8)
    levels[2:4, 2:6] = largest
    Image.fromarray(levels).save(mask)


def make_isic(root: Path) -> None:
    for number in (3, 1, 2):
        case = f"ISIC_{number:07d}"
        pair(
            root / "ISIC2018_Task1-2_Training_Input" / f"{case}.jpg",
            root / "ISIC2018_Task1_Training_GroundTruth" / f"{case}_segmentation.png",
        )


def make_folder(root: Path) -> None:
    for case in ("c", "a", "b"):
        pair(root / "images" / f"{case}.png", root / "masks" / f"{case}.png")


def make_ph2(root: Path) -> None:
    for case in ("IMD003", "IMD002"):
        folder = root / "PH2Dataset" / "PH2 Dataset images" / case
        pair(
            folder / f"{case}_Dermoscopic_Image" / f"{case}.bmp",
            folder / f"{case}_lesion" / f"{case}_lesion.bmp",
        )


def make_btcv(root: Path) -> None:
    for number in (2, 1):
        for name, largest in (("img", 200), ("label", 6)):
            path = root / "RawData" / "Training" / name / f"{name}{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            voxels = np.full((4, 5, 3), largest, np.int16)
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2, 3, 5, 1])), path)


def make_nothing(root: Path) -> None:
    """Generated data needs no files."""


MAKE: dict[str, Callable[[Path], None]] = {
    "isic": make_isic,
    "folder": make_folder,
    "ph2": make_ph2,
    "synthetic": make_nothing,
    "btcv": make_btcv,
    "phantom": make_nothing,
}
MEMBERS = get_args(get_args(DataSet)[0])
KINDS = [member.model_fields["kind"].default for member in MEMBERS]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataSet, list[Case]]:
    """A section as read from a configuration file, and its cases."""
    MAKE[request.param](tmp_path)
    section = ADAPTER.validate_python({"kind": request.param})
    return section, section.open(tmp_path)


def test_every_member_is_tried() -> None:
    assert set(KINDS) == set(MAKE)


def test_cases_are_sorted_unique_and_repeatable(
    opened: tuple[DataSet, list[Case]], tmp_path: Path
) -> None:
    section, cases = opened
    ids = [case.case for case in cases]
    assert ids == sorted(set(ids))
    assert len(ids) >= 2
    assert [(case.case, case.patient, case.site, case.part) for case in section.open(tmp_path)] == [
        (case.case, case.patient, case.site, case.part) for case in cases
    ]


def test_samples_keep_the_contract(opened: tuple[DataSet, list[Case]]) -> None:
    section, cases = opened
    for case in cases[:2]:
        sample = case.load()
        assert isinstance(sample, Sample)
        assert (sample.case, sample.patient) == (case.case, case.patient)
        assert sample.image.dtype == torch.float32
        assert sample.image.shape[0] == 3
        assert sample.image.min() >= 0
        assert 1 < sample.image.max() <= 255
        assert sample.mask.dtype == torch.bool
        assert sample.mask.shape == (len(section.classes), *sample.image.shape[1:])
        assert sample.mask.any()
        assert case.volume == (section.kind in VOLUMES)
        axes = 3 if case.volume else 2  # slice, row, column
        assert sample.image.ndim == 1 + axes
        if case.volume:
            assert sample.image.stride(0) == 0
            assert sample.spacing_mm is not None
            assert len(sample.spacing_mm) == axes
            assert min(sample.spacing_mm) > 0
        assert sample.labelled is None or len(sample.labelled) == len(section.classes)


def test_cases_travel_to_worker_processes(opened: tuple[DataSet, list[Case]]) -> None:
    case = opened[1][0]
    copy = pickle.loads(pickle.dumps(case))
    assert torch.equal(copy.load().image, case.load().image)


def test_the_configured_root_is_used(opened: tuple[DataSet, list[Case]], tmp_path: Path) -> None:
    section, cases = opened
    configured = section.model_copy(update={"root": tmp_path})
    assert [case.case for case in configured.open()] == [case.case for case in cases]


def test_unknown_kinds_and_keys_are_errors() -> None:
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        ADAPTER.validate_python({"kind": "nothing"})
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ADAPTER.validate_python({"kind": "isic", "yaer": 2018})
