"""dataset.json: which label is what."""

from pathlib import Path

import pytest

from medsa_model.data.dataset_json import read_structures
from medsa_model.errors import DataError


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": {"background": 0, "cup": 2, "disc": 1}}',
        '{"labels": {"0": "background", "2": "cup", "1": "disc"}}',
    ],
)
def test_both_dialects(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    assert list(read_structures(tmp_path / "dataset.json").items()) == [("disc", 1), ("cup", 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read"),
        ("[]", "no labels"),
        ('{"labels": {}}', "no labels"),
        ('{"labels": {"background": 0}}', "no structure besides the background"),
        ('{"labels": {"background": 0, "whole": [1, 2]}}', "label 'whole' is [1, 2]"),
        ('{"labels": {"background": 0, "disc": 300}}', "label 'disc' is 300"),
        ('{"labels": {"background": 0, "disc": true}}', "label 'disc' is True"),
        ('{"labels": {"background": 0, "disc": 1, "ignore": 2}}', "ignore label"),
        ('{"labels": {"background": 0, "disc": 1, "cup": 1}}', "its number 1 appears twice"),
    ],
)
def test_wrong_content(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError) as error:
        read_structures(tmp_path / "dataset.json")
    assert expected in str(error.value)
    assert str(tmp_path) not in str(error.value)
