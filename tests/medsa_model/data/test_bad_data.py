"""What hospitals have on their disks: every case ends in a message, or is counted and warned of.

Each is a small data set in which one thing is wrong, opened and read as `client/run.py --check`
does. Messages never hold a path but the data root, nor the name that is planted in the files and
in the folder above the root.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from client.config import SiteConfig, load_site
from client.opened import Checked, check_cases, examine, open_site
from client.preflight import data
from medsa_model.errors import MedsaError
from tests.medsa_model.data.dicom_files import CANARY, SERIES, body, write_series, write_slice
from tests.medsa_model.data.good_files import (
    AFFINE,
    SHAPE,
    ct,
    image,
    isic,
    label,
    labelled,
    monai,
    organs,
    ph2,
    pictures,
    pixels,
    save,
    square,
    synapse,
    volume,
    write_json,
)

Do = Callable[[Path], Any]
BTCV: dict[str, Any] = {"kind": "btcv", "classes": ["spleen", "liver"]}
SECTIONS: dict[Do, dict[str, Any]] = {
    pictures: {"kind": "folder"},
    labelled: {"kind": "folder", "classes": ["tumour"]},
    isic: {"kind": "isic"},
    ph2: {"kind": "ph2"},
    synapse: BTCV,
    monai: BTCV,
}


@dataclass(frozen=True)
class Bad:
    """What is wrong in `layout` after `spoil`, and words that the message or the warning has."""

    name: str
    layout: Do
    spoil: Do
    words: tuple[str, ...]
    more: dict[str, Any] | None = None


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, which Pillow would not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    text = chunk(b"tEXt", b"PatientName\0" + CANARY.encode())
    body = chunk(b"IHDR", header) + text + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def picture(array: Any, name: str = "images/p1.png", **options: Any) -> Do:
    """One picture is another one; a lossy or a TIFF file replaces the PNG."""

    def spoil(root: Path) -> None:
        (root / name).with_suffix(".png").unlink()
        save(array, root / name, **options)

    return spoil


def mask(array: Any, **options: Any) -> Do:
    return picture(array, "masks/p1.png", **options)


def content(name: str, data: bytes) -> Do:
    return lambda root: (root / name).write_bytes(data)


def cut(name: str, bytes_: int) -> Do:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-bytes_])


def remove(*names: str) -> Do:
    def spoil(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()

    return spoil


def pair(name: str, ending: str = ".png") -> Do:
    """One more pair with this file name."""

    def spoil(root: Path) -> None:
        for folder in ("images", "masks"):
            (root / folder / f"{name}{ending}").write_bytes((root / folder / "p0.png").read_bytes())

    return spoil


def outside(name: str) -> Do:
    """A file or folder becomes a link to where it is moved, beside the data root."""

    def spoil(root: Path) -> None:
        (root / name).rename(root.parent / "elsewhere")
        (root / name).symlink_to(root.parent / "elsewhere")

    return spoil


def dangling(root: Path) -> None:
    (root / "images" / "p1.png").unlink()
    (root / "images" / "p1.png").symlink_to(root.parent / "nowhere.png")


def large(root: Path) -> None:
    with (root / "images" / "p1.png").open("r+b") as file:
        file.truncate(600_000_000)  # needs no room on the disk


def all_empty(root: Path) -> None:
    for number in range(4):
        save(square(level=0), root / "masks" / f"p{number}.png")


def copies(root: Path) -> None:
    """All four images are one, by other names and compressions."""
    for number in range(4):
        (root / "images" / f"p{number}.png").unlink()
        Image.fromarray(pixels(0)).save(root / "images" / f"p{number}.bmp")


def ct_copies(root: Path) -> None:
    for number in range(1, 5):
        volume(image(root, number), ct(1))


def alike(root: Path) -> None:
    """All four images are JPEG files of one, of other qualities."""
    source = Image.fromarray(pixels(0, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    for number in range(4):
        (root / "images" / f"p{number}.png").unlink()
        source.save(root / "images" / f"p{number}.jpg", quality=95 - 10 * number)
        save(square(64), root / "masks" / f"p{number}.png")


def csv(text: str | bytes) -> Do:
    raw = text if isinstance(text, bytes) else text.encode()
    return lambda root: (root / "sites.csv").write_bytes(raw)


def scan(array: Any, affine: Any = AFFINE, **header: Any) -> Do:
    return lambda root: volume(image(root), array, affine, **header)


def labels(array: Any, affine: Any = AFFINE, **header: Any) -> Do:
    return lambda root: volume(label(root), array, affine, **header)


def at(array: Any, value: Any, dtype: Any = None) -> Any:
    """A copy with `value` in one voxel."""
    changed = array.astype(dtype or array.dtype)
    changed[3, 4, 2] = value
    return changed


def bomb(root: Path) -> None:
    """A few hundred bytes that promise 32 GB."""
    volume(image(root), np.zeros((1, 1, 1), np.float64), dim=(3, 2000, 2000, 1000, 1, 1, 1, 1))


def flipped(root: Path) -> None:
    raw = bytearray(image(root).read_bytes())
    raw[-6] ^= 1  # in the checksum
    image(root).write_bytes(raw)


def series(**tags: Any) -> Do:
    """The series ct_1 is written anew with these tags."""

    def spoil(root: Path) -> None:
        shutil.rmtree(root / "imagesTr" / "ct_1")
        write_series(root / "imagesTr" / "ct_1", body(1), **tags)

    return spoil


def one_slice(position: float, name: str = "one", **tags: Any) -> Do:
    """One more slice lies in the series, which has them at 100, 105, 110 and 115 mm."""
    return lambda root: write_slice(
        root / "imagesTr" / "ct_1" / name, body(9)[0], (-10, -20, position), **tags
    )


def entries(root: Path, change: Callable[[list[dict[str, str]]], Any]) -> None:
    listed = json.loads((root / "dataset_0.json").read_text())["training"]
    change(listed)
    write_json(root / "dataset_0.json", training=listed)


def singular() -> Any:
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0]
    return affine


def moved() -> Any:
    affine = AFFINE.copy()
    affine[0, 3] = 4
    return affine


noise = np.random.default_rng(5).integers(0, 256, (24, 24, 3), dtype=np.uint8)
turned = Image.Exif()
turned[0x0112] = 6
clear = np.dstack([pixels(1), np.full((24, 24), 255, np.uint8)])
clear[0, 0, 3] = 0

CASES = [
    # the folder and its pairs
    Bad("missing mask", pictures, remove("masks/p1.png"),
        ("1 image(s) of 4 in images have no mask in masks: p1", "Add the missing files")),
    Bad("missing image", pictures, remove("images/p2.png"),
        ("1 mask(s) of 4 in masks have no image in images: p2",)),
    Bad("mask of another name", pictures,
        lambda root: (root / "masks/p1.png").rename(root / "masks/p1_mask.png"),
        ("names must be equal: rename p1_mask to p1",)),
    Bad("empty folders", pictures, remove(*(f"{f}/p{n}.png" for f in ("images", "masks")
                                            for n in range(4))),
        ("folders images and masks: no image and no mask", "expected at least one pair")),
    Bad("no folders", pictures, remove("images", "masks"),
        ("no folder images and masks", "Set data.root to the folder above them")),
    Bad("no root", pictures, remove("images"), ("does not exist: there is no such folder",),
        {"root": "nowhere"}),
    Bad("root is a file", pictures, lambda root: (root.parents[1] / "file").touch(),
        ("is a file; expected the folder of the data set",), {"root": "file"}),
    Bad("too few", pictures, remove(*(f"{f}/p{n}.png" for f in ("images", "masks")
                                      for n in (1, 2, 3))),
        ("1 cases of 1 patients give", "add patients")),
    Bad("folder named like a picture", pictures,
        lambda root: (remove("images/p1.png")(root), (root / "images/p1.png").mkdir()),
        ("1 mask(s) of 4 in masks have no image in images: p1",)),
    Bad("two pictures of a case", pictures, lambda root: save(pixels(7), root / "images/p1.jpg"),
        ("1 case(s) have more than one file: p1", "Remove or rename the others")),
    Bad("ending that is not read", pictures, pair("p7", ".webp"),
        ("p7.webp is not a supported picture", "Convert to 8-bit PNG")),
    Bad("volumes among pictures", pictures,
        lambda root: [path.rename(path.with_suffix(".nii.gz")) for path in
                      (root / "images").iterdir()],
        ("it holds NIfTI volumes; expected pictures",)),
    Bad("line break in a name", pictures, pair("a\nb"),
        ("characters that cannot be printed", "Rename it", r"'a\nb'...")),
    Bad("right-to-left mark in a name", pictures, pair("a\u202eb"), ("cannot be printed",)),
    Bad("very long name", pictures, pair("x" * 200), ("more than 128 of them ('xxxx",)),
    Bad("linked picture", pictures, outside("images/p1.png"),
        ("1 case(s) of 4 are links to a place outside of it: p1", "Copy them in")),
    Bad("linked folder", pictures, outside("masks"),
        ("4 case(s) of 4 are links to a place outside of it: p0, p1, p2, p3",)),
    Bad("link to nothing", pictures, dangling, ("have no image in images: p1",)),
    # pictures
    Bad("image and mask of two sizes", pictures, mask(square(20)),
        ("case p1: the image is 24 x 24 pixels", "its mask 20 x 20; expected the same size")),
    Bad("16 bits, grey", pictures, picture(np.full((24, 24), 40_000, np.uint16)),
        ("case p1: the image has more than 8 bits in a channel", "expected 8 bits")),
    Bad("16 bits, colour", pictures,
        content("images/p1.png", png(24, 24, 16, 2, (b"\0" + bytes(144)) * 24)),
        ("case p1: the image has more than 8 bits in a channel",)),
    Bad("floats", pictures, picture(np.ones((24, 24), np.float32), "images/p1.tif"),
        ("(mode F)", "scale it to 0..255")),
    Bad("transparency", pictures, picture(clear),
        ("0.174 % of the image's pixels are transparent", "expected an opaque picture")),
    Bad("transparent colour of a palette", pictures,
        picture(Image.fromarray(pixels(1)).quantize(4), transparency=1), ("are transparent",)),
    Bad("several pages", pictures,
        picture(pixels(1), "images/p1.tif", save_all=True, append_images=[
            Image.fromarray(pixels(2))]), ("a TIFF of several pages", "Save each page as its own")),
    Bad("colours of Lab", pictures,
        picture(Image.new("LAB", (24, 24)), "images/p1.tif"), ("colour mode LAB; expected grey",)),
    Bad("truncated JPEG", pictures,
        lambda root: (picture(pixels(1), "images/p1.jpg")(root), cut("images/p1.jpg", 60)(root)),
        ("case p1: the image file is truncated; expected a complete", "Copy or export it again")),
    Bad("truncated PNG", pictures, cut("images/p1.png", 400), ("p1: the image file is truncated",)),
    Bad("truncated mask", pictures, cut("masks/p1.png", 90), ("case p1: the mask file is",)),
    Bad("no picture", pictures, content("images/p1.png", CANARY.encode() * 9),
        ("case p1: the image file is empty, or no picture by its content",)),
    Bad("empty file", pictures, content("images/p1.png", b""), ("case p1: the image file is",)),
    Bad("bomb of pixels", pictures, content("images/p1.png", png(40_000, 40_000, 8, 0, b"")),
        ("case p1: the image's header claims far more than 80 million pixels",)),
    Bad("too many pixels", pictures, content("images/p1.png", png(9_001, 9_000, 8, 0, b"")),
        ("9001 x 9000 pixels; expected at most 80 million", "Export a smaller version")),
    Bad("too many bytes", pictures, large, ("600 MB; expected at most 500 MB",)),
    Bad("turned image, mask as stored", pictures, picture(pixels(1), exif=turned),
        ("the image has EXIF orientation 6", "its mask 1", "look at both together")),
    # masks
    Bad("smooth mask", pictures,
        mask(Image.fromarray(square()).resize((11, 11)).resize((24, 24))),
        ("value(s) besides 0 and 255", "nearest neighbour")),
    Bad("mask as JPEG", pictures,
        picture(square(), "masks/p1.jpg", quality=20), ("value(s) besides 0 and 255",)),
    Bad("two codes in a mask", pictures, mask(np.where(pixels(3)[..., 0] > 99, square(), 1)),
        ("case p1: the mask has 1 value(s) besides 0 and 255",)),
    Bad("mask of ones", pictures, mask(np.ones((24, 24), np.uint8)),
        ("every pixel of the mask is 1, which may mean all or nothing",)),
    Bad("coloured mask", pictures, mask(pixels(3)), ("a colour picture with channels that",)),
    Bad("mask of 16 bits", pictures, mask(np.full((24, 24), 255, np.uint16)),
        ("case p1: the mask has more than 8 bits",)),
    Bad("all masks empty", pictures, all_empty,
        ("none of its 2 training cases has a structure", "check the export of the masks")),
    # duplicates
    Bad("one image in two parts", pictures, copies,
        ("pair(s) of cases in two of the parts train, val and test have the same image", "p0 = ",
         "Put both under one patient in sites.csv")),
    Bad("one volume in two parts", synapse, ct_copies, ("have the same image: img0001 = ",)),
    # tables and lists
    Bad("site of no case", pictures, csv("image_id,site\np0,a\np1,a\np2,a\n"),
        ("sites.csv in data.root: 1 of 4 images have no row: p3",)),
    Bad("semicolons", pictures, csv("image_id;site\np0;a\np1;a\np2;a\n"),
        ("sites.csv in data.root: 1 of 4 images have no row: p3",)),
    Bad("a case twice in the table", pictures, csv("image_id,site\np0,a\np0,b\n"),
        ("1 image_id(s) appear more than once: p0",)),
    Bad("table in another encoding", pictures, csv(b"image_id,site\np0,M\xfcnchen\n"),
        ("it cannot be read (UnicodeDecodeError); expected a CSV text file in UTF-8",)),
    Bad("table without the column", pictures, csv("id,hospital\np0,a\n"),
        ("no column image_id and site; found id, hospital",)),
    Bad("label that is not declared", labelled,
        lambda root: save(square(level=3), root / "labelsTr/p1.png"),
        ("case p1: the label file has the value(s) 3", "0 background, 1 tumour, 2 organ")),
    Bad("labels that are no JSON", labelled, content("dataset.json", b"{"),
        ("dataset.json: it cannot be read (JSONDecodeError)",)),
    Bad("regions", labelled, lambda root: write_json(root / "dataset.json", labels={"a": [1, 2]}),
        ("regions made of several labels are not supported",)),
    Bad("several channels", labelled, lambda root: save(pixels(8), root / "imagesTr/p1_0001.png"),
        ("1 case(s) have several channel files", "Merge the channels into RGB")),
    Bad("part without masks", isic, remove("ISIC2018_Task1_Test_GroundTruth"),
        ("folder ISIC2018_Task1_Test_GroundTruth is missing beside",)),
    Bad("case in two parts", isic,
        lambda root: [
            (root / f"ISIC2018_{middle}_Test_{kind}" / f"ISIC_0000003{end}").rename(
                root / f"ISIC2018_{middle}_Test_{kind}" / f"ISIC_0000000{end}")
            for middle, kind, end in (("Task1-2", "Input", ".jpg"),
                                      ("Task1", "GroundTruth", "_segmentation.png"))
        ], ("1 case(s) of part test are in an earlier part too: ISIC_0000000",)),
    Bad("linked case", ph2, outside("PH2 Dataset images/IMD002"),
        ("1 case(s) of 4 are links to a place outside of it: IMD002",)),
    Bad("empty case", ph2, remove(*(f"PH2 Dataset images/IMD002/IMD002_{name}"
                                    for name in ("Dermoscopic_Image", "lesion"))),
        ("1 of 4 case folders hold neither image nor mask: IMD002",)),
    # NIfTI
    Bad("truncated NIfTI", synapse, cut("RawData/Training/img/img0002.nii.gz", 40),
        ("case img0002: the image file img0002.nii.gz is truncated", "Copy or export it again")),
    Bad("changed NIfTI", synapse, flipped, ("cannot be read (BadGzipFile)",)),
    Bad("no NIfTI", synapse, lambda root: image(root).write_bytes(CANARY.encode() * 40),
        ("case img0002: the image file img0002.nii.gz is no NIfTI file",)),
    Bad("bomb", synapse, bomb, ("has over 2 GB; expected less: its header promises 32 GB",)),
    Bad("four dimensions", synapse, scan(np.zeros((*SHAPE, 2), np.int16)),
        ("has 10 x 12 x 4 x 2 voxels; expected one volume", "Save the phase")),
    Bad("two dimensions", synapse, scan(np.zeros((10, 12), np.int16)),
        ("has 10 x 12 voxels; expected a volume of three axes",)),
    Bad("not a number", synapse, scan(at(ct(2), np.nan, np.float32)),
        ("has 1 voxel(s) that are not finite", "Set them to the value of air")),
    Bad("infinite", synapse, scan(at(ct(2), np.inf, np.float32)), ("has 1 voxel(s) that are not",)),
    Bad("spacing 0", synapse, scan(ct(2), pixdim=(1, 2, 0, 5, 1, 1, 1, 1)),
        ("has the voxel size 2, 0, 5; expected millimetres above 0",)),
    Bad("spacing below 0", synapse, scan(ct(2), pixdim=(1, 2, -3, 5, 1, 1, 1, 1)),
        ("has the voxel size 2, -3, 5",)),
    Bad("spacing that is no number", synapse, scan(ct(2), pixdim=(1, 2, np.nan, 5, 1, 1, 1, 1)),
        ("has the voxel size 2, nan, 5",)),
    Bad("singular affine", synapse, scan(ct(2), srow_y=(0, 0, 0, 0), qform_code=0),
        ("has a singular affine",)),
    Bad("no orientation", synapse, scan(ct(2), sform_code=0, qform_code=0),
        ("does not say how its axes lie in the patient",)),
    Bad("metres", synapse, scan(ct(2), xyzt_units=1), ("measures in the unit meter",)),
    Bad("complex numbers", synapse, scan(ct(2).astype(np.complex64)),
        ("voxels that are no plain numbers",)),
    Bad("voxels elsewhere", synapse, scan(ct(2), magic=b"ni1"), ("voxels in a second file",)),
    Bad("labels of another shape", synapse, labels(np.zeros((10, 12, 5), np.uint8)),
        ("case img0002: the label file label0002.nii.gz has 10 x 12 x 5 voxels, the image 10 x",)),
    Bad("labels elsewhere", synapse, labels(organs(), moved()),
        ("lies elsewhere than the image: up to 4 mm apart", "expected at most 0.001 mm")),
    Bad("labels mirrored", synapse, labels(organs(), np.diag([-2.0, 3.0, 5.0, 1.0])),
        ("(axes LAS and RAS)",)),
    Bad("label 300", synapse, labels(at(organs(), 300, np.int16)),
        ("1 value(s) that stand for no structure (300)", "Renumber the structures")),
    Bad("label -1", synapse, labels(at(organs(), -1, np.int16)), ("structure (-1)",)),
    Bad("label 0.99", synapse, labels(at(organs(), 0.99, np.float32)),
        ("structure (0.99)", "use nearest neighbour")),
    Bad("volume of another name", synapse,
        lambda root: image(root).rename(image(root).with_name(f"{CANARY}.nii.gz")),
        ("1 NIfTI file(s) of 4 have another name than img0001.nii.gz",)),
    # DICOM
    Bad("DICOM without slope", monai, series(RescaleSlope=None),
        ("case ct_1: the folder of its DICOM series: 4 of 4 files have no rescale slope",)),
    Bad("DICOM that is white on black", monai, series(PhotometricInterpretation="MONOCHROME1"),
        ("4 of 4 files are MONOCHROME1",)),
    Bad("MR", monai, series(Modality="MR"), ("4 of 4 files are of modality MR; expected CT",)),
    Bad("two series", monai, one_slice(120, SeriesInstanceUID=f"{SERIES}.2"),
        ("its 5 files are of 2 series",)),
    Bad("slice twice", monai, one_slice(105), ("1 of 5 slices lie where another one does",)),
    Bad("missing slices", monai, one_slice(130), ("about 2 slice(s) are missing in 1 gap(s)",)),
    Bad("localizer", monai, one_slice(120, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        ("1 of 5 slices have another orientation",)),
    Bad("several frames", monai, one_slice(120, NumberOfFrames=2), ("1 of 5 files hold several",)),
    Bad("DICOM without pixels", monai, series(PixelData=None),
        ("4 of 4 slices have no pixels that can be decoded",)),
    Bad("report in the series", monai, content("imagesTr/ct_1/report.txt", CANARY.encode()),
        ("1 of 5 files is no DICOM image that can be read: a .txt of ",)),
    Bad("labels of another series", monai,
        lambda root: volume(root / "labelsTr/ct_1.nii.gz", organs(), AFFINE),
        ("lies elsewhere than the image", "expected at most 0.1 mm")),
    Bad("linked series", monai, outside("imagesTr/ct_1"),
        ("1 case(s) of 4 are links to a place outside of it: ct_1",)),
    Bad("list that leads out", monai,
        lambda root: entries(root, lambda e: e[1].update(image="../ct_1.nii.gz")),
        ("dataset_0.json: training[1] is not inside the folder of the list",)),
    Bad("line break in a label's name", monai,
        lambda root: entries(root, lambda e: e[1].update(label="labelsTr/a\nb.nii.gz")),
        ("dataset_0.json: training[1]: a file name holds characters that cannot be printed",)),
    Bad("listed twice", monai, lambda root: entries(root, lambda e: e.append(e[0])),
        ("1 case(s) are listed twice: ct_0",)),
    Bad("listed and not there", monai, remove("labelsTr/ct_1.nii.gz"),
        ("1 of 8 listed files are not there: ct_1.nii.gz",)),
]  # fmt: skip

COUNTED = [
    (Bad("empty mask", pictures, mask(square(level=0)), ()), Checked(1, 0, 0, 0)),
    (Bad("black image", pictures, picture(np.zeros((24, 24, 3), np.uint8)),
         ("case p1: every pixel of the image has the same colour",)),
     Checked(0, 1, 0, 0)),
    (Bad("grey image of one level", labelled,
         lambda root: save(np.full((24, 24), 9, np.uint8), root / "imagesTr/p1_0000.png"),
         ("case p1: every pixel of the image has the same colour",)),
     Checked(0, 1, 0, 0)),
    (Bad("constant volume", synapse, scan(np.full(SHAPE, 40, np.int16)),
         ("case img0002: every voxel has the same value (40)",)), Checked(0, 1, 0, 0)),
    (Bad("stored numbers instead of HU", synapse, scan(ct(2) + np.int16(1024)),
         ("no voxel is below -500 HU",)), Checked(0, 1, 0, 0)),
    (Bad("voxels of 30 mm", synapse, lambda root: (
        scan(ct(2), np.diag([2.0, 3.0, 30.0, 1.0]))(root),
        labels(organs(), np.diag([2.0, 3.0, 30.0, 1.0]))(root)), ("expected 0.1 to 20 mm",)),
     Checked(0, 1, 0, 0)),
    (Bad("labels nearly whole", synapse,
         labels(np.where(organs(), organs() - np.float32(1e-4), 0).astype(np.float32)), ()),
     Checked(0, 0, 0, 0)),
]  # fmt: skip


def opened(tmp_path: Path, bad: Bad) -> SiteConfig:
    """The site of a spoiled data set, which lies in a folder with a patient's name."""
    root = tmp_path / CANARY / "data"
    root.mkdir(parents=True)
    bad.layout(root)
    bad.spoil(root)
    section = SECTIONS[bad.layout] | {"root": str(root.relative_to(tmp_path))} | (bad.more or {})
    content = {"site": "north", "coordinator": {"address": "a:1"}, "device": "cpu", "data": section}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return load_site(tmp_path / "site.yaml")


def harmless(text: str, tmp_path: Path, config: SiteConfig) -> None:
    """Neither the patient's name nor a path, but that of the data root."""
    assert config.data.root is not None
    without = text.replace(str(config.data.root), "")
    assert str(tmp_path) not in without
    assert "CANARY" not in without.upper() and SERIES not in without


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.setattr("medsa_model.logs.logger.propagate", True)  # set_up() turns it off
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def told(config: SiteConfig) -> str:
    """What `--check` says about the data."""
    return data(config)[0]


def test_there_are_many() -> None:
    names = [bad.name for bad in CASES] + [bad.name for bad, _ in COUNTED]
    assert len(CASES) >= 45 and len(set(names)) == len(names)


@pytest.mark.parametrize("layout", SECTIONS, ids=lambda layout: layout.__name__)
def test_the_sets_are_right_before_they_are_spoiled(
    tmp_path: Path, layout: Do, heard: Callable[[], str]
) -> None:
    """Else a message would be about something else."""
    config = opened(tmp_path, Bad("", layout, lambda root: None, ()))
    assert examine(open_site(config, settled=False)) == Checked(0, 0, 0, 0)
    assert "2 train, 1 val, 1 test cases" in told(config) and heard() == ""


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_bad_data_is_refused(tmp_path: Path, bad: Bad, heard: Callable[[], str]) -> None:
    config = opened(tmp_path, bad)
    with pytest.raises(MedsaError) as caught:
        check_cases(open_site(config, settled=False))
    text = str(caught.value)
    assert [word for word in bad.words if word not in text] == [], text
    error: BaseException | None = caught.value
    while error is not None:  # what a traceback would show
        harmless(str(error), tmp_path, config)
        error = error.__cause__ or error.__context__
    harmless(heard(), tmp_path, config)
    with pytest.raises(MedsaError, match=r"\w") as again:  # what `--check` shows
        told(config)
    assert str(again.value) == text


@pytest.mark.parametrize(("bad", "expected"), COUNTED, ids=lambda row: getattr(row, "name", ""))
def test_odd_data_is_counted(
    tmp_path: Path, bad: Bad, expected: Checked, heard: Callable[[], str]
) -> None:
    config = opened(tmp_path, bad)
    assert examine(open_site(config, settled=False)) == expected
    said = heard()
    assert [word for word in bad.words if word not in said] == [] and bool(said) == bool(bad.words)
    harmless(said, tmp_path, config)
    shown = told(config)
    assert ("1 without any" in shown) == bool(expected.empty)
    assert ("1 implausible, as logged" in shown) == bool(expected.odd)


def test_copies_within_a_part_are_counted(tmp_path: Path, heard: Callable[[], str]) -> None:
    """Under one patient they are in one part: here all are, and others are there to be tested."""
    bad = Bad("", pictures, lambda root: (
        [save(pixels(0), root / "images" / f"{name}.png") for name in ("a", "b", "c")],
        [save(square(), root / "masks" / f"{name}.png") for name in ("a", "b", "c")],
        csv("image_id,site,patient\na,n,x\nb,n,x\nc,n,x\np0,n,x\np1,n,y\np2,n,z\np3,n,w\n")(root),
    ), ())  # fmt: skip
    config = opened(tmp_path, bad)
    assert examine(open_site(config, settled=False)) == Checked(0, 0, 3, 0)
    assert "3 case(s) have the image of another case of their part" in heard()
    assert "a = b, b = c, c = p0" in heard()
    assert "3 copies of another in their part" in told(config)


def test_near_copies_in_two_parts_are_counted(tmp_path: Path, heard: Callable[[], str]) -> None:
    config = opened(tmp_path, Bad("", pictures, alike, ()))
    found = examine(open_site(config, settled=False))
    assert found == Checked(0, 0, 0, 5)  # all pairs of four but the one within the training part
    assert "5 pair(s) of cases in two parts have nearly the same image" in heard()
    assert "put both under one patient in sites.csv" in heard()
    assert "5 pairs in two parts nearly alike" in told(config)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_are_converted(tmp_path: Path, mode: str, heard: Callable[[], str]) -> None:
    """Without a choice: nothing is lost that a training run uses."""
    name = "images/p1.jpg" if mode == "CMYK" else "images/p1.png"
    bad = Bad("", pictures, picture(Image.fromarray(noise).convert(mode), name), ())
    assert examine(open_site(opened(tmp_path, bad), settled=False)) == Checked(0, 0, 0, 0)
    assert heard() == ""


def test_a_root_that_is_a_link_is_read(tmp_path: Path) -> None:
    """It was named on purpose; so was a link within the root to another place in it."""

    def spoil(root: Path) -> None:
        (root.parents[1] / "link").symlink_to(root)
        (root / "images" / "p1.png").rename(root / "other.png")
        (root / "images" / "p1.png").symlink_to(root / "other.png")

    config = opened(tmp_path, Bad("", pictures, spoil, (), {"root": "link"}))
    assert examine(open_site(config, settled=False)) == Checked(0, 0, 0, 0)


def test_all_faults_are_told_at_once(tmp_path: Path, heard: Callable[[], str]) -> None:
    """Of every case, and of the site as a whole."""

    def spoil(root: Path) -> None:
        cut("images/p0.png", 400)(root)
        mask(square(20))(root)
        content("images/p2.png", b"")(root)
        content("masks/p3.png", b"x")(root)

    config = opened(tmp_path, Bad("", pictures, spoil, ()))
    few = config.limits.model_copy(update={"least_training_cases": 9})
    with pytest.raises(MedsaError) as caught:
        told(config.model_copy(update={"limits": few}))
    first, *lines = str(caught.value).splitlines()
    assert first == "2 training cases, limits.least_training_cases is 9"
    assert lines[0] == "4 problems in the data:"
    assert sorted(line[:9] for line in lines[1:]) == [f"  case p{number}" for number in range(4)]
