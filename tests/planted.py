"""A name that stands for a patient, planted wherever names are, and a search for its traces."""

import re
import struct
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import nibabel
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

CANARY = "ZZPHI^CANARY^1953"
WORDS = (CANARY, CANARY.lower(), "ZZPHI", "CANARY")  # parts of it are as bad
PACKED = re.compile(rb"x[\x01\x5e\x9c\xda]|\x1f\x8b\x08|PK\x03\x04", re.DOTALL)
LARGEST = 2**24  # bytes that are unpacked of one stream


def _in_base64(word: bytes) -> Iterator[tuple[str, bytes]]:
    """The letters that only `word` decides, for each place that it can begin at in three bytes."""
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            text = encode(bytes(before) + word + bytes(3))
            first, last = -(-before * 8 // 6), (before + len(word)) * 8 // 6
            yield f"base64 at {before}", text[first:last]


def _forms() -> dict[bytes, str]:
    forms = {}
    for word in WORDS:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            plain = word.encode(encoding)
            forms[plain] = encoding
            forms[plain.hex().encode()] = forms[plain.hex().upper().encode()] = f"hex of {encoding}"
            forms |= {text: f"{how} of {encoding}" for how, text in _in_base64(plain)}
        forms.setdefault(quote(word).encode(), "as in an address")
    return forms


FORMS = _forms()


def traces(data: bytes, depth: int = 2) -> list[str]:
    """In which forms the name is in `data`, also within packed streams; empty when it is not."""
    found = {how for form, how in FORMS.items() if form in data}
    for match in PACKED.finditer(data) if depth else ():
        begin, bits = match.start(), 47  # zlib or gzip, by its head
        if match[0] == b"PK\x03\x04" and len(data) >= begin + 30:
            name, more = struct.unpack("<HH", data[begin + 26 : begin + 30])
            begin, bits = begin + 30 + name + more, -15
        unpack = zlib.decompressobj(bits)
        try:
            unpacked = unpack.decompress(memoryview(data)[begin : begin + LARGEST], LARGEST)
        except zlib.error:
            continue
        found |= {f"packed {how}" for how in traces(unpacked, depth - 1)}
    return sorted(found)


def plant_images(root: Path, count: int, size: int = 64) -> list[str]:
    """A data set `folder` whose file names, texts, EXIF and patients are the name; its case ids."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    cases = [f"{CANARY}_{number}" for number in range(count)]
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = CANARY  # description, artist
    for number, case in enumerate(cases):
        pixels = np.random.default_rng(number).integers(0, 80, (size, size, 3), np.uint8)
        levels = np.zeros((size, size), np.uint8)
        corner = 8 + 2 * (number % 8)
        levels[corner : corner + size // 3, corner : corner + size // 3] = 255
        pixels[levels > 0] += 120
        text = PngInfo()
        text.add_text("PatientName", CANARY)
        text.add_text("Comment", CANARY, zip=True)
        Image.fromarray(pixels).save(root / "images" / f"{case}.png", pnginfo=text, exif=exif)
        Image.fromarray(levels).save(root / "masks" / f"{case}.png", pnginfo=text)
    rows = [f"{case},site_a,{CANARY}-{number}" for number, case in enumerate(cases)]
    (root / "sites.csv").write_text("\n".join(["image_id,site,patient", *rows]) + "\n")
    return cases


def plant_volumes(root: Path, count: int, size: int = 48) -> list[Path]:
    """A data set `btcv` (spleen) with the name in `descrip` and as patient; its images."""
    images = []
    for number in range(1, count + 1):
        voxels = np.random.default_rng(number).integers(-100, 0, (size, size, 6)).astype(np.int16)
        labels = np.zeros(voxels.shape, np.int16)
        labels[10:30, 12:34, 1:5] = 1
        voxels[labels > 0] += 150
        for name, content in (("img", voxels), ("label", labels)):
            path = root / "RawData" / "Training" / name / f"{name}{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(content, np.diag([2, 2, 3, 1]))
            image.header["descrip"] = image.header["db_name"] = CANARY.encode()
            nibabel.save(image, path)
        images.append(root / "RawData" / "Training" / "img" / f"img{number:04d}.nii.gz")
    rows = [f"img{number:04d},site_a,{CANARY}-{number}" for number in range(1, count + 1)]
    (root / "sites.csv").write_text("\n".join(["image_id,site,patient", *rows]) + "\n")
    return images
