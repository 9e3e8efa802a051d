"""A plain folder of images and masks, or the nnU-Net / Medical Segmentation Decathlon layout.

Plain: `images/` and `masks/`, a mask has the file name of its image (the extension may differ);
one structure, masks of 0 and 255. With `dataset.json`: `imagesTr/` and `labelsTr/`, images named
`case.png` or `case_0000.png` (nnU-Net's channel 0), labels `case.png` whose grey values are the
numbers declared under "labels"; one mask channel for each structure.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from medsa_model.data.dataset_json import read_structures
from medsa_model.data.images import is_blank, read_image, read_levels, read_pair
from medsa_model.data.pairing import (
    by_case,
    check_inside,
    check_pairs,
    choose_root,
    first,
    list_files,
)
from medsa_model.data.sample import Case, Sample
from medsa_model.data.sites_csv import read_origins
from medsa_model.errors import DataError
from medsa_model.section import Section
from medsa_model.structure_names import Structures

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
UNSUPPORTED = re.compile(  # endings of pictures and volumes that are not read
    r"(.+)\.(webp|gif|dcm|dicom|ima|nii|nii\.gz|nrrd|mha|mhd|npy|npz|heic|heif|avif|jp2|j2k|jxl|svg"
    r"|pgm|ppm|pbm|pnm|tga|psd|pdf)",
    re.IGNORECASE,
)
CHANNEL = re.compile(r"(.+)_(\d{4})")


class Folder(Section):
    """Images and masks in folders; an optional sites.csv lies beside the folders."""

    kind: Literal["folder"] = "folder"
    root: Path | None = None
    """Folder that holds images/ and masks/, or dataset.json, imagesTr/ and labelsTr/."""
    classes: Structures = ("object",)
    """Names of the mask channels. With dataset.json: the structures to use, by their names."""

    def open(self, root: Path | None = None) -> list[Case]:
        """All cases by case id; `root` wins over the section's.

        Raises `DataError` for missing folders, unpaired files, links out of the folder, cases
        without a site, and classes that the folder does not have.
        """
        folder = choose_root(root, self.root)
        labelled = (folder / "dataset.json").exists()
        names = ("imagesTr", "labelsTr") if labelled else ("images", "masks")
        if absent := [name for name in names if not (folder / name).is_dir()]:
            raise DataError(
                f"data.root: no folder {' and '.join(absent)}; expected images and masks, or "
                "dataset.json with imagesTr and labelsTr. Set data.root to the folder above them."
            )
        masks = _pictures(folder / names[1])
        images = _pictures(folder / names[0])
        if labelled:
            images = _without_channel(images, set(masks))
        _check_endings(folder, names, images, masks, labelled)
        check_pairs(images, masks, *names)
        check_inside(folder, {case: (images[case], masks[case]) for case in images})
        structures = self._structures(folder) if labelled else self._single()
        origins = read_origins(folder, images)
        cases = []
        for case in sorted(images):
            patient = origins[case].patient
            load = (
                partial(_read_labelled, images[case], masks[case], case, patient, structures,
                        self.classes)
                if labelled
                else partial(read_pair, images[case], masks[case], case, patient)
            )  # fmt: skip
            cases.append(Case(case, patient, origins[case].site, None, load))
        return cases

    def _single(self) -> dict[str, int]:
        if len(self.classes) > 1:
            raise DataError(
                f"data.classes: {len(self.classes)} names ({', '.join(self.classes)}) for masks/, "
                "which holds one structure; expected one name. For several structures use "
                "dataset.json with imagesTr and labelsTr."
            )
        return {self.classes[0]: 1}

    def _structures(self, folder: Path) -> dict[str, int]:
        structures = read_structures(folder / "dataset.json")
        if unknown := [name for name in self.classes if name not in structures]:
            raise DataError(
                f"data.classes: {', '.join(unknown)} not declared in dataset.json; expected some "
                f"of [{', '.join(structures)}]. Set data.classes to the structures to segment."
            )
        return structures


def _pictures(folder: Path) -> dict[str, Path]:
    """Case id (the file name without extension) -> picture file."""
    files = list_files(folder)
    pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
    if not pictures and any(path.name.lower().endswith((".nii", ".nii.gz")) for path in files):
        raise DataError(
            f"folder {folder.name}: it holds NIfTI volumes; expected pictures "
            f"({', '.join(sorted(EXTENSIONS))}). This layout is for two-dimensional images."
        )
    return by_case(((path.stem, path) for path in pictures), folder.name)


def _check_endings(
    root: Path, names: tuple[str, str], images: Mapping[str, Path], masks: Mapping[str, Path],
    labelled: bool,
) -> None:  # fmt: skip
    """Raise `DataError` for files that would be half of a pair but for their ending.

    Without this, a pair of two such files would be left out of the data set silently.
    """
    others: list[dict[str, str]] = []  # of each folder: case id -> file name
    for name in names:
        matches = (UNSUPPORTED.fullmatch(path.name) for path in list_files(root / name))
        others.append({match[1]: match[0] for match in matches if match})
    if labelled:
        others[0] = {
            match[1] if (match := CHANNEL.fullmatch(case)) and match[2] == "0000" else case: name
            for case, name in others[0].items()
        }
    for folder, own, other, partners in (
        (names[0], images, others[0], masks.keys() | others[1].keys()),
        (names[1], masks, others[1], images.keys() | others[0].keys()),
    ):
        refused = [other[case] for case in (other.keys() & partners) - own.keys()]
        if refused := [name for name in refused if name.isprintable()]:
            are = (
                "is not a supported picture" if len(refused) == 1 else "are not supported pictures"
            )
            raise DataError(
                f"folder {folder}: {first(refused)} {are}; expected PNG, JPEG, BMP or TIFF. "
                "Convert to 8-bit PNG, or remove the image together with its mask."
            )


def _without_channel(images: dict[str, Path], labels: set[str]) -> dict[str, Path]:
    """Remove nnU-Net's `_0000` from image names; a name that has its own label is left alone."""
    cases: list[tuple[str, Path]] = []
    others: set[str] = set()
    for name, path in images.items():
        match = None if name in labels else CHANNEL.fullmatch(name)
        if match and match[2] != "0000" and match[1] in labels:
            others.add(match[1])
        else:
            cases.append((match[1] if match and match[2] == "0000" else name, path))
    if others:
        raise DataError(
            f"folder imagesTr: {len(others)} case(s) have several channel files (_0000, _0001): "
            f"{first(others)}; expected one grey or RGB picture. Merge the channels into RGB."
        )
    return by_case(cases, "imagesTr")


def _read_labelled(
    image: Path, label: Path, case: str, patient: str, structures: dict[str, int],
    classes: tuple[str, ...],
) -> Sample:  # fmt: skip
    """A sample with one mask channel for each of `classes`, whose numbers are in `structures`."""
    pixels, orientation = read_image(image, case)
    height, width = pixels.shape[1:]
    levels = read_levels(label, case, (height, width), orientation)
    found = {int(value) for value in np.flatnonzero(np.bincount(levels.ravel(), minlength=256))}
    if unknown := sorted(found - {0, *structures.values()}):
        declared = ", ".join(f"{number} {name}" for name, number in structures.items())
        raise DataError(
            f"case {case}: the label file has the value(s) {', '.join(map(str, unknown[:10]))}; "
            f"expected 0 background, {declared} as declared in dataset.json. Correct the file "
            "or declare the structure."
        )
    mask = np.stack([levels == structures[name] for name in classes])
    return Sample(pixels, torch.from_numpy(mask), case, patient, blank=is_blank(pixels))
