"""What folder layouts share."""

from pathlib import Path

import pytest

from medsa_model.data.pairing import by_case, check_pairs, choose_root, first, list_files
from medsa_model.errors import DataError


def paths(*names: str) -> dict[str, Path]:
    return {name: Path(f"{name}.png") for name in names}


def test_the_given_root_wins(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    assert choose_root(tmp_path / "given", tmp_path) == tmp_path / "given"
    assert choose_root(None, tmp_path) == tmp_path


def test_no_root_and_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.root"):
        choose_root(None, None)
    with pytest.raises(DataError, match="no such folder") as error:
        choose_root(None, tmp_path / "lost")
    assert f"data.root: {tmp_path / 'lost'} does not exist: there is no" in str(error.value)


def test_a_wrong_root_is_shown_as_a_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive.zip").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError) as error:
        choose_root(None, Path("../archive.zip"))
    assert f"data.root: {tmp_path / 'archive.zip'} is a file; expected the f" in str(error.value)
    with pytest.raises(DataError) as error:
        choose_root(Path("x/../y"), None)
    assert f"data.root: {tmp_path / 'here' / 'y'} does not exist" in str(error.value)


def test_a_root_that_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_dir", closed)
    with pytest.raises(DataError, match=r"'/closed/data' cannot be looked at \(PermissionError\)"):
        choose_root(None, Path("/closed/data"))


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "._a.png", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_files(tmp_path)] == ["a.png", "b.png"]


def test_unreadable_folder_is_an_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder gone: it cannot be read") as error:
        list_files(tmp_path / "DOE_JOHN" / "gone")
    assert "DOE_JOHN" not in str(error.value)


def test_two_files_for_one_case() -> None:
    with pytest.raises(DataError, match=r"folder images: 1 case\(s\) have more than one file: a;"):
        by_case([("a", Path("a.png")), ("b", Path("b.png")), ("a", Path("a.jpg"))], "images")


@pytest.mark.parametrize("case", ["a\nINFO forged log line", "x" * 200])
def test_unprintable_or_endless_names_are_refused(case: str) -> None:
    with pytest.raises(DataError, match="cannot be printed") as error:
        by_case([(case, Path("x.png"))], "images")
    assert "\n" not in str(error.value)


def test_missing_partners_are_counted_and_named() -> None:
    images = paths(*(f"c{number:02d}" for number in range(14)))
    with pytest.raises(DataError) as error:
        check_pairs(images, paths("c00", "c01", "z"), "images", "masks")
    text = str(error.value)
    assert "12 image(s) of 14 in images have no mask in masks" in text
    assert "c02, c03, c04, c05, c06, c07, c08, c09, c10, c11, ..." in text
    assert "c12" not in text
    assert "1 mask(s) of 3 in masks have no image in images: z" in text


def test_empty_folders() -> None:
    with pytest.raises(DataError, match="expected at least one pair"):
        check_pairs({}, {}, "images", "masks")


def test_complete_pairs_pass() -> None:
    check_pairs(paths("a", "b"), paths("b", "a"), "images", "masks")


def test_first_is_in_order() -> None:
    assert first({"b", "a"}) == "a, b"


def test_a_root_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert choose_root(None, Path("~/data")) == tmp_path / "data"
    assert choose_root(Path("~/data"), None) == tmp_path / "data"


def test_a_home_folder_of_nobody() -> None:
    with pytest.raises(DataError, match=r"data\.root: it starts with ~") as error:
        choose_root(None, Path("~DOE_JOHN/data"))
    assert "DOE_JOHN" not in str(error.value)


@pytest.mark.parametrize(
    "suffix", ["_mask", "-mask", "_seg", "_segmentation", "_label", "_gt", "_Mask"]
)
def test_masks_named_after_their_images_are_recognised(suffix: str) -> None:
    with pytest.raises(DataError) as error:
        check_pairs(paths("c00", "c01"), paths(f"c00{suffix}", f"c01{suffix}"), "images", "masks")
    text = str(error.value)
    assert "2 image(s) of 2 in images have no mask in masks: c00, c01" in text
    assert f"names must be equal: rename c00{suffix} to c00 (2 masks in all)" in text
    assert "Add the missing files" not in text


def test_files_that_are_missing_all_the_same_are_still_asked_for() -> None:
    with pytest.raises(DataError) as error:
        check_pairs(paths("c00", "c01"), paths("c00_mask"), "images", "masks")
    assert "rename c00_mask to c00. Add the missing files" in str(error.value)


@pytest.mark.parametrize("mask", ["c07_mask", "c00_other", "c00mask"])
def test_no_renaming_is_proposed_that_would_not_pair(mask: str) -> None:
    with pytest.raises(DataError) as error:
        check_pairs(paths("c00"), paths(mask), "images", "masks")
    assert "rename" not in str(error.value)
