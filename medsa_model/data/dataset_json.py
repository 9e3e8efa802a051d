"""`dataset.json` of nnU-Net and the Medical Segmentation Decathlon: which label is what.

nnU-Net writes `"labels": {"background": 0, "tumour": 1}`, the Decathlon and older versions the
reverse, `{"0": "background", "1": "tumour"}`. Only "labels" is read: the cases are the files.
"""

import json
from pathlib import Path

from medsa_model.errors import DataError

EXPECTED = 'expected "labels" such as {"background": 0, "tumour": 1}'


def read_structures(path: Path) -> dict[str, int]:
    """Name -> number (1 to 255) of every structure, by number; the background (0) is left out.

    Raises `DataError` for a file that is no JSON or declares something else, regions included.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = type(error).__name__
    else:
        return _structures(content)
    raise DataError(f"dataset.json: it cannot be read ({problem}); {EXPECTED} in a JSON file.")


def _structures(content: object) -> dict[str, int]:
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise DataError(f"dataset.json: no labels; {EXPECTED}.")
    numbers: dict[str, int] = {}
    for key, value in labels.items():
        name, number = (value, key) if isinstance(value, str) else (key, value)
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
            raise DataError(
                f"dataset.json: label {name!r} is {number!r}; expected one number from 0 to 255 "
                "(regions made of several labels are not supported)."
            )
        if name == "ignore":
            raise DataError(
                "dataset.json: an ignore label is declared; it is not supported. Annotate these "
                "pixels, or leave the cases out."
            )
        if number in numbers.values() or name in numbers:
            raise DataError(f"dataset.json: label {name!r} or its number {number} appears twice.")
        numbers[name] = number
    structures = {name: number for name, number in numbers.items() if number > 0}
    if not structures:
        raise DataError(f"dataset.json: no structure besides the background; {EXPECTED}.")
    return dict(sorted(structures.items(), key=lambda item: item[1]))
