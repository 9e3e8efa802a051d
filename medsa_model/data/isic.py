"""ISIC challenge, lesion segmentation: the official folders of 2016, 2017 and 2018 (Task 1).

The folders lie beside each other in the data root, as they come out of the official archives;
parts that are not there are left out. Everything but `ISIC_*.jpg` and `ISIC_*_segmentation.png`
(superpixels, tables, licences) is ignored.
"""

import re
from functools import partial
from pathlib import Path
from typing import Literal

from medsa_model.data.images import read_pair
from medsa_model.data.pairing import (
    by_case,
    check_inside,
    check_pairs,
    choose_root,
    first,
    list_files,
)
from medsa_model.data.sample import Case
from medsa_model.data.sites_csv import read_origins
from medsa_model.errors import DataError
from medsa_model.section import Section

Part = tuple[str, str]  # folder of images, folder of masks

PARTS: dict[int, dict[str, Part]] = {
    2016: {
        "train": (
            "ISBI2016_ISIC_Part1_Training_Data",
            "ISBI2016_ISIC_Part1_Training_GroundTruth",
        ),
        "test": ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"),
    },
    2017: {
        "train": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        "val": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
        "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    },
    2018: {
        "train": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"),
        "val": ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth"),
        "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
    },
}
IMAGE = re.compile(r"(ISIC_\d{7})\.jpg", re.IGNORECASE)
MASK = re.compile(r"(ISIC_\d{7})_segmentation\.png", re.IGNORECASE)


class Isic(Section):
    """Dermoscopy with one structure, the lesion; case ids are `ISIC_` and seven digits."""

    kind: Literal["isic"] = "isic"
    year: Literal[2016, 2017, 2018] = 2018
    """Year of the challenge: it decides the folder names."""
    root: Path | None = None
    """Folder that holds the official folders and, optionally, sites.csv."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the mask channels."""
        return ("lesion",)

    def open(self, root: Path | None = None) -> list[Case]:
        """All cases of the parts that are there, by case id; `root` wins over the section's.

        Raises `DataError` for missing folders, unpaired files, links out of the root, and cases
        without a site.
        """
        folder = choose_root(root, self.root)
        found: dict[str, tuple[str, Path, Path]] = {}
        for part, (image_folder, mask_folder) in _parts(folder, self.year).items():
            images = _matching(folder / image_folder, IMAGE)
            masks = _matching(folder / mask_folder, MASK)
            check_pairs(images, masks, image_folder, mask_folder)
            if shared := found.keys() & images.keys():
                raise DataError(
                    f"{len(shared)} case(s) of part {part} are in an earlier part too: "
                    f"{first(shared)}; expected each case in one part, or tests would be leaked."
                )
            found |= {case: (part, images[case], masks[case]) for case in images}
        check_inside(folder, {case: paths for case, (_, *paths) in found.items()})
        origins = read_origins(folder, found)
        return [
            Case(case, origins[case].patient, origins[case].site, part,
                 partial(read_pair, image, mask, case, origins[case].patient))
            for case, (part, image, mask) in sorted(found.items())
        ]  # fmt: skip


def _parts(root: Path, year: int) -> dict[str, Part]:
    """The parts of `year` that lie in `root`."""
    present: dict[str, Part] = {}
    for part, folders in PARTS[year].items():
        absent = [name for name in folders if not (root / name).is_dir()]
        if len(absent) == 1:
            raise DataError(
                f"ISIC {year}: folder {absent[0]} is missing beside "
                f"{folders[0] if absent[0] == folders[1] else folders[1]}; expected images and "
                "masks of a part together. Unpack it, or move the other folder away."
            )
        if not absent:
            present[part] = folders
    if present:
        return present
    expected = "; ".join(f"{images} with {masks}" for images, masks in PARTS[year].values())
    others = [
        other
        for other, parts in PARTS.items()
        if any((root / name).is_dir() for folders in parts.values() for name in folders)
    ]
    hint = f"Folders of ISIC {others[0]} are there: set data.year." if others else "Set data.root."
    raise DataError(f"ISIC {year}: no official folder in data.root; expected {expected}. {hint}")


def _matching(folder: Path, name: re.Pattern[str]) -> dict[str, Path]:
    """Case id -> file for the files of `folder` whose name is `name`."""
    matches = ((name.fullmatch(path.name), path) for path in list_files(folder))
    return by_case(((match[1].upper(), path) for match, path in matches if match), folder.name)
