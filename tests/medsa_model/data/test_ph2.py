"""The folders of the PH2 archive."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsa_model.data.ph2 import Ph2
from medsa_model.errors import DataError


def add(root: Path, case: str, image: bool = True, mask: bool = True) -> None:
    folder = root / "PH2Dataset" / "PH2 Dataset images" / case
    for name in ("Dermoscopic_Image", "lesion", "roi"):
        (folder / f"{case}_{name}").mkdir(parents=True)
    levels = np.zeros((6, 8), bool)
    levels[1:3] = True
    if image:
        picture = Image.new("RGB", (8, 6), (200, 100, 50))
        picture.save(folder / f"{case}_Dermoscopic_Image" / f"{case}.bmp")
    if mask:
        Image.fromarray(levels).save(folder / f"{case}_lesion" / f"{case}_lesion.bmp")
    Image.fromarray(levels).save(folder / f"{case}_roi" / f"{case}_R1_Label4.bmp")


@pytest.mark.parametrize("below", ["", "PH2Dataset"])
def test_official_layout(tmp_path: Path, below: str) -> None:
    for case in ("IMD003", "IMD002"):
        add(tmp_path, case)
    cases = Ph2(root=tmp_path / below).open()
    assert [case.case for case in cases] == ["IMD002", "IMD003"]
    assert {case.part for case in cases} == {None}
    sample = cases[0].load()
    assert sample.image.shape == (3, 6, 8)
    assert int(sample.mask.sum()) == 16


def test_sites(tmp_path: Path) -> None:
    add(tmp_path, "IMD002")
    (tmp_path / "sites.csv").write_text("image_id,site,patient\nIMD002,porto,p9\n")
    (case,) = Ph2().open(tmp_path)
    assert (case.site, case.patient) == ("porto", "p9")


def test_missing_mask(tmp_path: Path) -> None:
    add(tmp_path, "IMD002")
    add(tmp_path, "IMD003", mask=False)
    with pytest.raises(DataError, match=r"have no mask in IMD\*_lesion: IMD003"):
        Ph2().open(tmp_path)


def test_empty_case_folder(tmp_path: Path) -> None:
    add(tmp_path, "IMD002")
    add(tmp_path, "IMD003", image=False, mask=False)
    with pytest.raises(DataError, match="1 of 2 case folders hold neither image nor mask: IMD003"):
        Ph2().open(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder 'PH2 Dataset images'") as error:
        Ph2().open(tmp_path)
    assert str(tmp_path) not in str(error.value)
