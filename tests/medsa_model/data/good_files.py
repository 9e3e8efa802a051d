"""Small data sets in every layout, right in all respects, with a patient's name where one hides."""

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.medsa_model.data.dicom_files import CANARY, body, write_series

AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])
SHAPE = (10, 12, 4)


def pixels(seed: int, size: int = 24) -> NDArray[np.uint8]:
    """A picture like no other, (size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def square(size: int = 24, level: int = 255) -> NDArray[np.uint8]:
    """A mask, (size, size)."""
    mask = np.zeros((size, size), np.uint8)
    mask[4:12, 6:14] = level
    return mask


def save(picture: NDArray[Any] | Image.Image, path: Path, **options: Any) -> Path:
    """A picture file; the name stands in its text and its EXIF tags."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        text = PngInfo()
        text.add_text("PatientName", CANARY)
        options["pnginfo"] = text
    if "exif" not in options and path.suffix in (".png", ".jpg"):
        exif = Image.Exif()
        exif[0x010E] = CANARY  # description
        options["exif"] = exif
    image.save(path, **options)
    return path


def pictures(root: Path) -> None:
    """`folder`: four pairs, p0 to p3."""
    for number in range(4):
        save(pixels(number), root / "images" / f"p{number}.png")
        save(square(), root / "masks" / f"p{number}.png")


def labelled(root: Path) -> None:
    """`folder` with dataset.json: a tumour is 1, an organ 2."""
    for number in range(4):
        save(pixels(number), root / "imagesTr" / f"p{number}_0000.png")
        save(square(level=1), root / "labelsTr" / f"p{number}.png")
    write_json(root / "dataset.json", labels={"background": 0, "tumour": 1, "organ": 2})


def isic(root: Path) -> None:
    """`isic` of 2018: three training images, one for testing."""
    for number in range(4):
        part = "Test" if number == 3 else "Training"
        images, masks = f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth"
        save(pixels(number), root / images / f"ISIC_000000{number}.jpg")
        save(square(), root / masks / f"ISIC_000000{number}_segmentation.png")


def ph2(root: Path) -> None:
    """`ph2`: four cases, IMD001 to IMD004."""
    for number in range(1, 5):
        case = f"IMD00{number}"
        place = root / "PH2 Dataset images" / case
        save(pixels(number), place / f"{case}_Dermoscopic_Image" / f"{case}.bmp")
        save(square(), place / f"{case}_lesion" / f"{case}_lesion.bmp")


def volume(
    path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] = AFFINE, **header: Any
) -> Path:
    """A NIfTI file with fields of its header as given, even if they are wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = image.header["db_name"] = CANARY.encode()
    content = bytearray(image.to_bytes())
    fields = np.frombuffer(content, image.header.template_dtype, 1)
    for name, value in header.items():
        fields[name] = value
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def ct(seed: int) -> NDArray[np.int16]:
    """HU of a body with air, axes to the right, the front and the head."""
    return np.ascontiguousarray(body(seed).transpose(2, 1, 0) - np.int16(1024))


def organs() -> NDArray[np.uint8]:
    """Labels: the spleen (1) and the liver (6)."""
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[2:5, 3:6, 1:3], numbers[6:9, 5:9, 1:4] = 1, 6
    return numbers


def synapse(root: Path) -> None:
    """`btcv` in the layout of Synapse: four cases, img0001 to img0004."""
    for number in range(1, 5):
        volume(image(root, number), ct(number))
        volume(label(root, number), organs())


def image(root: Path, number: int = 2) -> Path:
    """The image of a case of `synapse`."""
    return root / "RawData" / "Training" / "img" / f"img000{number}.nii.gz"


def label(root: Path, number: int = 2) -> Path:
    """The labels of a case of `synapse`."""
    return root / "RawData" / "Training" / "label" / f"label000{number}.nii.gz"


def monai(root: Path) -> None:
    """`btcv` in MONAI's layout: four DICOM series, ct_0 to ct_3."""
    series = np.diag([-3.0, -2.0, 5.0, 1.0])
    series[:3, 3] = 10, 20, 100
    entries = []
    for number in range(4):
        write_series(root / "imagesTr" / f"ct_{number}", body(number))
        volume(root / "labelsTr" / f"ct_{number}.nii.gz", organs(), series)
        entries.append({"image": f"imagesTr/ct_{number}", "label": f"labelsTr/ct_{number}.nii.gz"})
    write_json(root / "dataset_0.json", training=entries)


def write_json(path: Path, **content: Any) -> None:
    """Write a list, or what is declared."""
    path.write_text(json.dumps(content), encoding="utf-8")
