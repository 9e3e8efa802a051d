"""BTCV, "Beyond the Cranial Vault": abdominal CT with thirteen organs, in either usual layout.

Synapse: `RawData/Training/img/img0001.nii.gz` and `RawData/Training/label/label0001.nii.gz`; the
data root is `RawData` or the folder that holds it. `RawData/Testing` has no labels and is ignored.

MONAI: `imagesTr/`, `labelsTr/` and `dataset_0.json` beside them, whose lists decide
(`btcv_json`).

Case ids are the file names of the images without .nii.gz: `img` and four digits in the first
layout, anything in the second, which suits a hospital's own volumes. There an image may also be a
DICOM series (`dicom`): the folder `imagesTr/CASE/` of its slices in place of `CASE.nii.gz`.
"""

import re
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from medsa_model.data.btcv_json import ENTRY, LIST, Listed, read_list
from medsa_model.data.ct_checks import implausible
from medsa_model.data.dicom import TOLERANCE, read_series
from medsa_model.data.hounsfield import WINDOW, to_grey
from medsa_model.data.nifti import read_labels, read_volume
from medsa_model.data.organs import NUMBERS, ORGANS, Organs
from medsa_model.data.pairing import by_case, check_inside, check_pairs, choose_root, list_files
from medsa_model.data.sample import Case, Sample
from medsa_model.data.sites_csv import read_origins
from medsa_model.errors import DataError
from medsa_model.section import Section

IMAGES, LABELS = "img", "label"


class Btcv(Section):
    """Abdominal CT volumes; each organ is one mask channel.

    In MONAI's layout an image is a NIfTI file or a folder with the files of one DICOM series, one
    slice in each, listed as `{"image": "imagesTr/CASE", "label": "labelsTr/CASE.nii.gz"}`. The
    labels stay NIfTI, on the voxels of the series; their axes may be turned and mirrored, as
    programs do that convert DICOM, since both are compared in the patient's frame. DICOM needs the
    extra `fed-medsa[dicom]`.
    """

    kind: Literal["btcv"] = "btcv"
    root: Path | None = None
    """Folder of one of the two layouts; an optional sites.csv lies in it."""
    classes: Organs = ORGANS
    """Organs to segment, in the order of the mask channels."""
    annotated: Organs | None = None
    """Organs that were annotated here; of others nothing is known. Empty: all of them were."""
    window: tuple[float, float] = Field(WINDOW)
    """Lowest and highest CT number (HU) that can be told apart; what is beyond is clipped."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not -2000 <= self.window[0] < self.window[1] <= 10_000:  # also refuses NaN
            raise ValueError("window: expected two CT numbers, the lower first, such as -175, 250")
        if self.annotated is not None and not set(self.annotated) & set(self.classes):
            raise ValueError("annotated: none of the classes is annotated")
        return self

    def open(self, root: Path | None = None) -> list[Case]:
        """All labelled cases by case id; `root` wins over the section's. No volume is read.

        Raises `DataError` for missing folders, unpaired files, links out of the folder, cases
        without a site, a list that does not fit, and a folder of both layouts.
        """
        folder = choose_root(root, self.root)
        found = read_list(folder) if _is_listed(folder) else _pairs(folder)
        check_inside(folder, {case: (each.image, each.label) for case, each in found.items()})
        origins = read_origins(folder, found)
        return [
            Case(case, origins[case].patient, origins[case].site, listed.part,
                 partial(_read, listed.image, listed.label, case, origins[case].patient,
                         self.classes, self.annotated, self.window),
                 volume=True)
            for case, listed in sorted(found.items())
        ]  # fmt: skip


def _is_listed(root: Path) -> bool:
    """Whether `root` has MONAI's layout; raises `DataError` when it lacks the list or has both."""
    listed = (root / LIST).exists()
    folders = all((root / name).is_dir() for name in ("imagesTr", "labelsTr"))
    if (listed or folders) and (other := _training(root)):
        raise DataError(
            f"BTCV: data.root holds both layouts, {other.relative_to(root)} (Synapse) and "
            f"{LIST if listed else 'imagesTr with labelsTr'} (MONAI); expected one of them. Move "
            "the other away."
        )
    if folders and not listed:
        raise DataError(
            f"BTCV: imagesTr and labelsTr are there, {LIST} alone is missing in data.root; "
            f'expected it beside them, such as {{"training": [{ENTRY}], "validation": []}}.'
        )
    return listed


def _training(root: Path) -> Path | None:
    """The folder of the Synapse layout that holds img and label."""
    places = (root / "RawData" / "Training", root / "Training")
    return next((place for place in places if place.is_dir()), None)


def _pairs(root: Path) -> dict[str, Listed]:
    """Case id -> files of the Synapse layout; it has no official parts."""
    folder = _training(root)
    absent = [name for name in (IMAGES, LABELS) if folder and not (folder / name).is_dir()]
    if folder is None or absent:
        found = f"Training has no folder {' and '.join(absent)}" if absent else "none of them found"
        raise DataError(
            "BTCV: expected RawData/Training/img/img0001.nii.gz and RawData/Training/label/"
            f"label0001.nii.gz, or {LIST} with imagesTr and labelsTr; {found}. Set data.root to "
            "the folder above them."
        )
    images, labels = (_numbered(folder / name, name) for name in (IMAGES, LABELS))
    check_pairs(images, labels, f"Training/{IMAGES}", f"Training/{LABELS}")
    return {case: Listed(images[case], labels[case], None) for case in images}


def _numbered(folder: Path, name: str) -> dict[str, Path]:
    """Case id -> file for the NIfTI files of `folder`, which are `name` and four digits."""
    pattern = re.compile(rf"{name}(\d{{4}})\.nii(?:\.gz)?", re.IGNORECASE | re.ASCII)
    files = [path for path in list_files(folder) if path.name.lower().endswith((".nii", ".nii.gz"))]
    matches = [(pattern.fullmatch(path.name), path) for path in files]
    if others := sum(match is None for match, _ in matches):
        raise DataError(
            f"folder Training/{name}: {others} NIfTI file(s) of {len(files)} have another name "
            f"than {name}0001.nii.gz; expected {name}, four digits and .nii.gz. Rename them in "
            "both folders (the number pairs image and label), or move them away."
        )
    return by_case(
        ((f"img{match[1]}", path) for match, path in matches if match), f"Training/{name}"
    )


def _read(
    image: Path, label: Path, case: str, patient: str, classes: Organs, annotated: Organs | None,
    window: tuple[float, float],
) -> Sample:  # fmt: skip
    """A sample with one mask channel for each of `classes`; empty where not `annotated`."""
    if image.is_dir():
        voxels, geometry = read_series(image, case)
        numbers = read_labels(label, case, geometry, ORGANS, TOLERANCE)
    else:
        voxels, geometry = read_volume(image, case)
        numbers = read_labels(label, case, geometry, ORGANS)
    labelled = None if annotated is None else tuple(organ in annotated for organ in classes)
    mask = np.zeros((len(classes), *numbers.shape), bool)
    for channel, organ in enumerate(classes):
        if labelled is None or labelled[channel]:
            np.equal(numbers, NUMBERS[organ], out=mask[channel])
    return Sample(
        to_grey(voxels, window), torch.from_numpy(mask), case, patient, geometry.spacing_mm,
        labelled, implausible(voxels, geometry.spacing_mm, window),
    )  # fmt: skip
