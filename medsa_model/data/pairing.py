"""What folder layouts share: the data root, listing files, and pairing images with masks.

Messages name folders of the layout and case ids, and of paths of the machine the data root alone.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from medsa_model.errors import DataError

SHOWN = 10  # case ids listed in a message
LONGEST_ID = 128
SUFFIX = re.compile(r"(.+)[_-](?:mask|seg|segmentation|label|gt)", re.IGNORECASE)


def choose_root(given: Path | None, configured: Path | None) -> Path:
    """The folder to read: `given` by the caller, else the one `configured` in the section.

    `~` is the user's home. Raises `DataError`, which shows the path, when that is no folder.
    """
    root = given or configured
    if root is None:
        raise DataError("data: no folder is given; set data.root to the folder of the data set.")
    try:
        root = root.expanduser()
    except RuntimeError:  # ~name of somebody who has no account here
        raise DataError(
            "data.root: it starts with ~, but that user's home folder is not known here; expected "
            "~/ and a folder of your own, or the whole path."
        ) from None
    try:
        if root.is_dir():
            return root
        problem = "is a file" if root.is_file() else "does not exist: there is no such folder"
        place = str(root.resolve())
    except (OSError, ValueError) as error:  # a folder above is closed; a name with a zero byte
        problem, place = f"cannot be looked at ({type(error).__name__})", repr(str(root))
    raise DataError(
        f"data.root: {place} {problem}; expected the folder of the data set. Check the path."
    )


def list_files(folder: Path) -> list[Path]:
    """Visible files of `folder` by name; names that start with a dot belong to the system."""
    try:
        files = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        problem = type(error).__name__
    else:
        return sorted(path for path in files if not path.name.startswith("."))
    raise DataError(f"folder {folder.name}: it cannot be read ({problem}); check its permissions.")


def by_case(found: Iterable[tuple[str, Path]], folder: str) -> dict[str, Path]:
    """Case id -> file. Raises `DataError` for an id found twice or unfit to be printed."""
    files: dict[str, Path] = {}
    twice: set[str] = set()
    for case, path in found:
        check_id(case, f"folder {folder}")
        if case in files:
            twice.add(case)
        files[case] = path
    if twice:
        raise DataError(
            f"folder {folder}: {len(twice)} case(s) have more than one file: {first(twice)}; "
            "expected one file for each case. Remove or rename the others."
        )
    return files


def check_inside(root: Path, files: Mapping[str, Iterable[Path]]) -> None:
    """Raise `DataError` for cases (id -> its files or folders) that are links out of `root`.

    `root` itself may be a link. What a link leads to may change or vanish, and may be what nobody
    meant to use.
    """
    home = os.path.realpath(root)
    outside = [
        case
        for case, paths in files.items()
        if not all(Path(os.path.realpath(path)).is_relative_to(home) for path in paths)
    ]
    if outside:
        raise DataError(
            f"data.root: the files of {len(outside)} case(s) of {len(files)} are links to a place "
            f"outside of it: {first(outside)}; expected files inside, data.root alone may be a "
            "link. Copy them in, or set data.root to the folder that they lie in."
        )


def check_id(case: str, place: str) -> None:
    """Raise `DataError` for a case id, taken from a file name in `place`, unfit to be printed."""
    if not case.isprintable() or len(case) > LONGEST_ID:
        raise DataError(
            f"{place}: a file name holds characters that cannot be printed, or more than "
            f"{LONGEST_ID} of them ({case[:20]!a}...). Rename it: the name is the case id in logs "
            "and reports."
        )


def check_pairs(
    images: Mapping[str, Path], masks: Mapping[str, Path], image_folder: str, mask_folder: str
) -> None:
    """Raise `DataError` unless there are images and every image has a mask and the reverse."""
    if not images and not masks:
        raise DataError(
            f"folders {image_folder} and {mask_folder}: no image and no mask with the file names "
            "of this layout; expected at least one pair. Check data.root and data.kind."
        )
    problems = []
    if without_mask := images.keys() - masks.keys():
        problems.append(
            f"{len(without_mask)} image(s) of {len(images)} in {image_folder} have no mask in "
            f"{mask_folder}: {first(without_mask)}"
        )
    if without_image := masks.keys() - images.keys():
        problems.append(
            f"{len(without_image)} mask(s) of {len(masks)} in {mask_folder} have no image in "
            f"{image_folder}: {first(without_image)}"
        )
    if problems:
        matches = (SUFFIX.fullmatch(mask) for mask in sorted(without_image))
        renamed = [match for match in matches if match and match[1] in without_mask]
        if renamed:
            count = f" ({len(renamed)} masks in all)" if len(renamed) > 1 else ""
            problems.append(
                f"names must be equal: rename {renamed[0][0]} to {renamed[0][1]}{count}"
            )
        advice = "Add the missing files or remove the others."
        if len(renamed) == len(without_image) == len(without_mask):
            advice = "An image and its mask may only differ in the ending, such as .jpg and .png."
        raise DataError(f"{'; '.join(problems)}. {advice}")


def first(cases: Collection[str]) -> str:
    """The first ids in order, for a message."""
    shown = ", ".join(sorted(cases)[:SHOWN])
    return shown if len(cases) <= SHOWN else f"{shown}, ..."
