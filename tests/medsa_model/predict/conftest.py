"""Adapters of images and two pictures, for all tests of the command on images."""

from pathlib import Path

import pytest
from PIL import Image

from tests.medsa_model.predict.made_up_adapters import picture, task_of, write_adapter


@pytest.fixture(scope="module")
def lesion(tmp_path_factory) -> Path:
    """An adapter of one structure, trained on clicks and boxes."""
    return write_adapter(tmp_path_factory.mktemp("lesion"), task_of())


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """An adapter that learnt the names of two structures."""
    task = task_of(("dark", "bright"), ("click", "class"), named=True)
    return write_adapter(tmp_path_factory.mktemp("several"), task)


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Two pictures in a folder."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name, seed in (("a.png", 1), ("b.bmp", 2)):
        Image.fromarray(picture(seed)).save(folder / name)
    return folder
