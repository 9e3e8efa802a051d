"""Small DICOM series for tests: the formula of PS3.3 C.7.6.2.1.1, one voxel after the other."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

CANARY = "ZZPHI^CANARY^1953"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES = "1.2.826.0.1.3680043.8.498.1953"
ORIGIN = np.array([-10.0, -20.0, 100.0])  # mm to the left, back and head


def write_slice(path: Path, stored: NDArray[Any], position: Sequence[float], **tags: Any) -> Path:
    """A CT slice of 16 bits whose HU are `stored` - 1024; `tags` replace, `None` removes one.

    Pixels are 2 mm between rows and 3 mm between columns.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    syntax = meta.TransferSyntaxUID = UID(tags.pop("TransferSyntaxUID", ExplicitVRLittleEndian))
    data = FileDataset(
        str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128,
        is_implicit_VR=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian,
    )  # fmt: skip
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName = data.PatientID = data.StudyDescription = CANARY
    data.Modality, data.SeriesInstanceUID = "CT", SERIES
    data.Rows, data.Columns = stored.shape
    data.PixelSpacing = [2, 3]
    data.ImageOrientationPatient = list(AXIAL)
    data.ImagePositionPatient = [round(float(step), 6) for step in position]
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are wrong on purpose
        for name, value in tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, stored: NDArray[Any], step: float = 5.0, **tags: Any) -> list[Path]:
    """`stored (D, H, W)` as axial slices from the feet to the head; file names are in no order."""
    number = len(stored)
    names = np.random.default_rng(0).permutation(number)
    return [
        write_slice(
            folder / f"IM{names[n]:04d}", plane, np.add(ORIGIN, (0, 0, n * step)),
            InstanceNumber=number - n, **tags,
        )
        for n, plane in enumerate(stored)
    ]  # fmt: skip


def body(seed: int = 0, shape: tuple[int, int, int] = (4, 12, 10)) -> NDArray[np.int16]:
    """Stored numbers of a volume like no other: air and soft tissue, (D, H, W) int16."""
    rng = np.random.default_rng(seed)
    stored = rng.integers(900, 1250, shape, dtype=np.int16)
    stored[:, :2] = 24  # air, -1000 HU
    return stored
