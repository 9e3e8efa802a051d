"""sites.csv: sites and patients of cases."""

from pathlib import Path

import pytest

from medsa_model.data.sites_csv import Origin, _warn, read_origins
from medsa_model.errors import DataError
from sim.sites import check_names


def write(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "sites.csv").write_text(text, encoding=encoding)
    return root


def test_without_the_file_each_case_is_its_own_patient(tmp_path: Path) -> None:
    assert read_origins(tmp_path, ["a"]) == {"a": Origin(None, "a")}


@pytest.mark.parametrize("column", ["patient", "lesion_id"])
def test_sites_and_patients(tmp_path: Path, column: str) -> None:
    write(tmp_path, f"image_id,site,{column}\na,north,p1\nb, south ,\nother,south,p2\n")
    assert read_origins(tmp_path, ["b", "a"]) == {
        "a": Origin("north", "p1"),
        "b": Origin("south", "b"),
    }


def test_a_spreadsheets_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "image_id,site\r\na,north\r\n", "utf-8-sig")
    assert read_origins(tmp_path, ["a"]) == {"a": Origin("north", "a")}


def test_images_without_a_row(tmp_path: Path) -> None:
    write(tmp_path, "image_id,site\nc00,north\n")
    with pytest.raises(DataError) as error:
        read_origins(tmp_path, [f"c{number:02d}" for number in range(14)])
    text = str(error.value)
    assert "13 of 14 images have no row: c01, c02, c03, c04, c05, c06, c07, c08, c09, c10," in text
    assert "c11" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image_id,hospital\na,north\n", "no column site; found image_id, hospital"),
        ("image_id;hospital\na;north\n", "no column site; found image_id, hospital"),
        ("image_id,a;b\na,north\n", "no column site; found image_id, a;b"),
        ("", "no column image_id and site; found nothing"),
        ("image_id,site\na,north\na,south\n", "1 image_id(s) appear more than once: a"),
        ("image_id,site\na,north\nb,\n", "row 3 has an empty image_id or site"),
        ("image_id,site\na\n", "row 2 has an empty image_id or site"),
    ],
)
def test_wrong_content(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(DataError) as error:
        read_origins(write(tmp_path, text), ["a"])
    assert expected in str(error.value)


def test_another_encoding_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "image_id,site\na,Köln\n", "latin-1")
    with pytest.raises(DataError, match=r"cannot be read \(UnicodeDecodeError\)"):
        read_origins(tmp_path, ["a"])


def test_ids_with_an_extension_are_recognised(tmp_path: Path) -> None:
    write(tmp_path, "image_id,site\nc00.png,north\nc01.png,north\nc02,south\n")
    with pytest.raises(DataError) as error:
        read_origins(tmp_path, ["c00", "c01", "c02"])
    text = str(error.value)
    assert "2 of 3 images have no row: c00, c01; expected a row for each image" in text
    assert "write ids without extension (c00, not c00.png)" in text


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ("img0001.nii.gz", "write ids without extension (img0001, not img0001.nii.gz)"),
        ("img0001.nii", "write ids without extension (img0001, not img0001.nii)"),
        ("0001", "write the whole file name without extension (img0001, not 0001)"),
        ("pat1", ""),
    ],
)
def test_ids_written_in_another_way_are_shown(tmp_path: Path, row: str, hint: str) -> None:
    more = row.replace("1", "2")
    write(tmp_path, f"image_id,site\n{row},north\n{more},north\n")
    with pytest.raises(DataError) as error:
        read_origins(tmp_path, ["img0001", "img0002"])
    text = str(error.value)
    assert "2 of 2 images have no row: img0001, img0002; expected a row for each image" in text
    assert hint in text and ("write" in text) == bool(hint)
    assert text.startswith("sites.csv in data.root: ")
    assert f"; the file has {row}, {more}; correct it, or remove the file" in text
    assert str(tmp_path) not in text


def test_ids_of_a_file_can_be_printed(tmp_path: Path) -> None:
    write(tmp_path, f'image_id,site\n"x\ny",north\n{"z" * 200},north\n')
    with pytest.raises(DataError) as error:
        read_origins(tmp_path, ["a"])
    assert f"; the file has 'x\\ny', {'z' * 40}; correct" in str(error.value)


def test_rows_without_an_image_are_warned_about_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medsa_model.logs.logger.propagate", True)  # set_up() turns it off
    monkeypatch.setattr("medsa_model.logs.logger.handlers", [])  # of earlier tests' streams
    _warn.cache_clear()
    write(tmp_path, "image_id,site\na,north\nlost1,north\nlost2,north\n")
    for _ in range(2):
        assert read_origins(tmp_path, ["a"]) == {"a": Origin("north", "a")}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "2 of 3 rows are for images that are not there: lost1, lost2;" in record.getMessage()
    assert str(tmp_path) not in record.getMessage()


def test_a_dot_in_the_id_of_another_image_is_no_extension(tmp_path: Path) -> None:
    write(tmp_path, "image_id,site\nc00.left,north\nc01.png,north\n")
    with pytest.raises(DataError) as error:
        read_origins(tmp_path, ["c00", "c00.left"])
    assert "without extension" not in str(error.value)


@pytest.mark.parametrize("name", ["A", "7", "Ward 3.b-c_d", "x" * 64])
def test_names_of_sites(name: str) -> None:
    check_names([name])


@pytest.mark.parametrize("name", ["Köln", "Łódź", "x\u0663", "_a", "-a", " a", "a/b", "x" * 65])
def test_a_refused_name_is_told_the_rule(name: str) -> None:
    with pytest.raises(DataError) as error:
        check_names(["north", name])
    text = str(error.value)
    assert text.startswith(f"site {name!r}: a name starts with A-Z, a-z or a digit; the rest is")
    assert "letters A-Z and a-z, digits, space, dot, hyphen and underscore" in text
    assert "sites.csv" in text


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_columns_as_spreadsheets_in_much_of_europe_write_them(
    tmp_path: Path, mark: str, start: str
) -> None:
    """With a comma in a name, which is no separator then."""
    rows = [["image_id", "site", "patient"], ["a", "north", "Doe, J."], ["b", "south", ""]]
    text = start + "".join(f"{mark.join(row)}\r\n" for row in rows)
    found = read_origins(write(tmp_path, text), ["a", "b"])
    assert found == {"a": Origin("north", "Doe, J."), "b": Origin("south", "b")}
