"""`dataset_0.json` of MONAI's BTCV layout: which volumes belong to which part.

The file calls the six labelled cases that are held out "validation", and results on them are what
the field reports, because the volumes under "test" have no labels. So "validation" becomes the
part "test" here: nothing may be chosen by it. Only when the file lists labelled test cases, too,
is "validation" the part "val". `numTraining` is wrong in the file in circulation, and ignored.

Files may have any name: that of the image, without .nii.gz, is the case id. In place of a NIfTI
image a folder may be listed, which holds a DICOM series; its name is the case id.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medsa_model.data.organs import NUMBERS, ORGANS
from medsa_model.data.pairing import check_id, first
from medsa_model.errors import DataError

LIST = "dataset_0.json"
NIFTI = re.compile(r"(.+)\.nii(?:\.gz)?", re.IGNORECASE | re.DOTALL)
IMAGE, LABEL = (re.compile(rf"{name}(\d{{4}})", re.ASCII) for name in ("img", "label"))
ENTRY = '{"image": "imagesTr/img0001.nii.gz", "label": "labelsTr/label0001.nii.gz"}'
SHORT = (  # what files call the organs, in our order; the first is MONAI's word
    ("spleen",), ("rkid", "kidney_r"), ("lkid", "kidney_l"), ("gall", "gall_bladder"),
    ("eso", "oesophagus"), ("liver",), ("sto",), ("aorta",),
    ("ivc", "postcava", "inferior_vena_cava_ivc"),
    ("veins", "portal_vein_and_splenic_vein", "portal_vein_and_splenic_veins"), ("pancreas",),
    ("rad", "adrenal_r"), ("lad", "adrenal_l"),
)  # fmt: skip
WORDS = {organ: organ for organ in ORGANS} | {
    word: organ for organ, words in zip(ORGANS, SHORT, strict=True) for word in words
}


@dataclass(frozen=True)
class Listed:
    """The two files of a case and its official part; the image may be a folder of DICOM files."""

    image: Path
    label: Path
    part: str | None


def read_list(root: Path) -> dict[str, Listed]:
    """Case id -> files and part ("train", "val", "test") of all labelled cases in the list.

    Raises `DataError` for a file that is no such list, numbers the organs otherwise, lists a case
    or a file twice, or lists files that are not there or not in `root`.
    """
    try:
        content = json.loads((root / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = type(error).__name__
    else:
        if not isinstance(content, dict):
            content = {}
        _check_numbers(content.get("labels"))
        return _cases(root, content)
    raise DataError(
        f"{LIST}: it cannot be read ({problem}); expected a JSON file with the lists training, "
        "validation and test."
    )


def _cases(root: Path, content: dict[str, object]) -> dict[str, Listed]:
    tests = content.get("test")
    tested = isinstance(tests, list) and any(
        isinstance(entry, dict) and "label" in entry for entry in tests
    )
    parts = {"training": "train", "validation": "val" if tested else "test"}
    if tested:
        parts["test"] = "test"
    cases: dict[str, Listed] = {}
    twice: set[str] = set()
    for key, part in parts.items():
        entries = content.get(key, [])
        if not isinstance(entries, list) or (key == "training" and not entries):
            raise DataError(f"{LIST}: no list {key!r}; expected a list of {ENTRY}.")
        for number, entry in enumerate(entries):
            case, listed = _case(root, entry, f"{key}[{number}]", part)
            if case in cases:
                twice.add(case)
            cases[case] = listed
    if twice:
        raise DataError(
            f"{LIST}: {len(twice)} case(s) are listed twice: {first(twice)}; expected each case in "
            "one list once, or tests would be leaked. The file name of the image is the case."
        )
    uses = Counter(path for each in cases.values() for path in (each.image, each.label))
    if repeated := {path.name for path, times in uses.items() if times > 1}:
        raise DataError(
            f"{LIST}: {len(repeated)} file(s) are listed twice: {first(repeated)}; expected a "
            "label of its own for each image. Correct the list."
        )
    missing = {
        path.name
        for listed in cases.values()
        for path in (listed.image, listed.label)
        if not (path.is_file() or (path == listed.image and _is_series(path)))
    }
    if missing:
        raise DataError(
            f"{LIST}: {len(missing)} of {2 * len(cases)} listed files are not there: "
            f"{first(missing)}; expected them where the list says, as seen from its own folder. "
            "Add them, or take their cases out of the list."
        )
    return cases


def _case(root: Path, entry: object, place: str, part: str) -> tuple[str, Listed]:
    files = entry if isinstance(entry, dict) else {}
    paths = [files.get(key) for key in ("image", "label")]
    if not all(isinstance(path, str) and path for path in paths):
        raise DataError(
            f"{LIST}: {place} is not an image with its label; expected such as {ENTRY}."
        )
    image, label = (Path(str(path)) for path in paths)
    if any(path.is_absolute() or ".." in path.parts for path in (image, label)):
        raise DataError(
            f"{LIST}: {place} is not inside the folder of the list: a path begins at the top or "
            f"has '..' in it; expected such as {ENTRY}. Put the files beside the list."
        )
    names = [NIFTI.fullmatch(path.name) for path in (image, label)]
    series = _is_series(root / image)
    if (names[0] is None and not series) or names[1] is None:
        raise DataError(
            f"{LIST}: {place} has a file that does not end in .nii.gz or .nii; expected such as "
            f"{ENTRY}, or in place of the image a folder that holds its DICOM series. Convert it "
            "to NIfTI."
        )
    case = image.name if names[0] is None else names[0][1]
    for name in (case, names[1][1]):
        check_id(name, f"{LIST}: {place}")
    numbers = IMAGE.fullmatch(case), LABEL.fullmatch(names[1][1])
    if numbers[0] and numbers[1] and numbers[0][1] != numbers[1][1]:
        raise DataError(
            f"{LIST}: {place} pairs image {numbers[0][1]} with label {numbers[1][1]}; expected the "
            "same number. Correct the list."
        )
    return case, Listed(root / image, root / label, part)


def _is_series(image: Path) -> bool:
    """Whether `image` is a folder, which then must hold a DICOM series."""
    return image.is_dir() and NIFTI.fullmatch(image.name) is None


def _check_numbers(labels: object) -> None:
    """Raise `DataError` when the list declares another numbering; without "labels" ours holds."""
    if labels is None:
        return
    wrong = []
    for key, value in labels.items() if isinstance(labels, dict) else [("labels", labels)]:
        name, number = (value, key) if isinstance(value, str) else (key, value)
        plain = re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")
        expected = 0 if plain == "background" else NUMBERS.get(WORDS.get(plain, ""))
        if expected is None or str(number) != str(expected):
            wrong.append(f"{number!s:.20} {name!s:.40}")
    if wrong:
        ours = ", ".join(f"{number} {organ}" for organ, number in NUMBERS.items())
        raise DataError(
            f"{LIST}: labels declares {first(wrong)}; expected the numbering of BTCV: "
            f"0 background, {ours}. Renumber the labels of the volumes, and correct the list."
        )
