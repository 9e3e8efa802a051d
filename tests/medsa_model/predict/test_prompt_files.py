"""Prompts of many cases: CSV and JSON say the same, and all their problems are told together."""

import json
from pathlib import Path

import pytest

from medsa_model.errors import ConfigError
from medsa_model.predict.asked import Given, untrained
from medsa_model.predict.prompt_files import read_prompts
from tests.medsa_model.predict.made_up_adapters import task_of

HEADER = "case,structure,kind,x0,y0,x1,y1,z\n"
TWO = task_of(("lesion", "vessel"))
VOLUME = task_of(("liver",), volumes=True)


def csv_file(folder: Path, lines: str, header: str = HEADER) -> Path:
    path = folder / "prompts.csv"
    path.write_text(header + lines, encoding="utf-8")
    return path


def test_csv_and_json_say_the_same(tmp_path):
    lines = "a,lesion,click,12,8.5,,,\na,lesion,not,1,2,,,\nb,vessel,box,1,2,30,40,\n"
    path = tmp_path / "prompts.json"
    entries = {
        "a": [{"structure": "lesion", "click": [12, 8.5], "not": [1, 2]}],
        "b": [{"structure": "vessel", "box": [1, 2, 30, 40]}],
    }
    path.write_text(json.dumps(entries))
    found = read_prompts(csv_file(tmp_path, lines), TWO, {"a", "b"})
    assert found == read_prompts(path, TWO, {"a", "b"}) == {
        "a": [Given(0, "click", (12.0, 8.5)), Given(0, "not", (1.0, 2.0))],
        "b": [Given(1, "box", (1.0, 2.0, 30.0, 40.0))],
    }  # fmt: skip


def test_a_spreadsheet_may_have_semicolons_and_commas_in_its_numbers(tmp_path):
    lines = "a,lesion,click,12,8.5,,,\nb,vessel,box,1,2.25,30,40,\n"
    expected = read_prompts(csv_file(tmp_path, lines), TWO, {"a", "b"})
    local = lines.replace(",", ";").replace(".", ",")
    for header in (HEADER.replace(",", ";"), HEADER.replace(",", ";").replace("\n", "\r\n")):
        assert read_prompts(csv_file(tmp_path, local, header), TWO, {"a", "b"}) == expected
    wrong = csv_file(tmp_path, "a;lesion;click;1.200,5;8;;;\n", HEADER.replace(",", ";"))
    with pytest.raises(ConfigError, match=r"line 2: click is .*expected numbers"):
        read_prompts(wrong, TWO, {"a"})


def test_a_box_with_clicks_is_told_of_the_cases_that_have_both_on_one_structure(tmp_path):
    lines = (
        "a,lesion,click,12,8,,,\n"  # a: on different structures
        "a,vessel,box,1,2,30,40,\n"
        "b,lesion,box,1,2,30,40,\n"  # a and b: in different cases
    )

    def warnings(more: str) -> list[str]:
        found = read_prompts(csv_file(tmp_path, lines + more), TWO, {"a", "b", "c", "d"})
        return untrained([mark for marks in found.values() for mark in marks], TWO)

    assert warnings("") == []
    both = "c,vessel,box,1,2,30,40,\nc,vessel,not,3,4,,,\n"
    assert [each.partition(":")[0] for each in warnings(both)] == ["case c"]
    (told,) = warnings(both + both.replace("c,", "d,"))
    assert told.startswith("cases c, d: a box together with clicks on one structure")
    one = [Given(0, "click", (1.0, 2.0)), Given(0, "box", (0.0, 0.0, 3.0, 4.0))]
    assert untrained(one, TWO)[0].startswith("a box together with clicks")  # of the command itself
    box, other, same = (
        Given(0, "box", (0.0, 0.0, 3.0, 4.0, 5.0)), Given(0, "click", (1.0, 2.0, 6.0)),
        Given(0, "click", (1.0, 2.0, 5.0)),
    )  # fmt: skip
    assert untrained([box, other], VOLUME) == [] and len(untrained([box, same], VOLUME)) == 1


def test_a_volume_has_slices_and_a_single_structure_needs_no_name(tmp_path):
    lines = "a,,box,1,2,3,4,5\na,,click,2,3,,,5\n"
    found = read_prompts(csv_file(tmp_path, lines), VOLUME, {"a"})
    assert found == {"a": [Given(0, "box", (1.0, 2.0, 3.0, 4.0, 5.0)),
                           Given(0, "click", (2.0, 3.0, 5.0))]}  # fmt: skip


def test_all_problems_of_a_csv_file_are_told_with_their_lines(tmp_path):
    lines = (
        "a,lesion,click,12,8,,,\n"
        "c,lesion,click,12,8,,,\n"
        "a,bone,click,12,8,,,\n"
        "a,,click,12,8,,,\n"
        "a,lesion,scribble,12,8,,,\n"
        "a,lesion,box,12,8,,,\n"
        "a,lesion,click,12,eight,,,\n"
        "a,lesion,click,12,8,,,4\n"
        "a,lesion,box,12,8,3,9,\n"
        "a,lesion,click,12,nan,,,\n"
        "b,vessel,not,1,1,,,\n"
    )
    with pytest.raises(ConfigError) as raised:
        read_prompts(csv_file(tmp_path, lines), TWO, {"a", "b"})
    message = str(raised.value)
    assert "10 problem(s)" in message
    expected = {
        3: "'c' is not in the input", 4: "'bone' is not known; expected one of [lesion, vessel]",
        5: "no structure", 6: "'scribble'; expected one of click, not, box",
        7: "box without x1, y1; expected numbers in x0, y0, x1, y1", 8: "expected numbers",
        9: "click has 3 numbers", 10: "box ends before it begins", 11: "expected numbers",
    }  # fmt: skip
    told = dict(line.strip().partition(": ")[::2] for line in message.splitlines()[1:])
    for number, words in expected.items():
        assert words in told[f"line {number}"], number
    assert "vessel: clicks off it alone" in told["case b"]
    assert "line 2:" not in message


def test_a_csv_file_with_another_header_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="line 1: no column structure, kind"):
        read_prompts(csv_file(tmp_path, "", "case,x0,y0,x1,y1,z\n"), TWO, {"a"})
    path = tmp_path / "prompts.csv"
    path.write_bytes(b"case\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_prompts(path, TWO, {"a"})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "nothing.csv", TWO, {"a"})


def test_all_problems_of_a_json_file_are_told_with_their_places(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(
        '{"a": [{"structure": "lesion", "click": [1]},\n'
        '       {"structure": "lesion"},\n'
        '       {"structure": "lesion", "box": [1, 2, 3, 4], "colour": 2}],\n'
        ' "b": {"click": [1, 2]},\n'
        ' "z": [{"structure": "lesion", "click": [1, true]}]}\n'
    )
    with pytest.raises(ConfigError) as raised:
        read_prompts(path, TWO, {"a", "b"})
    message = str(raised.value)
    assert "5 problem(s)" in message
    for words in (
        "line 1, case 'a', entry 1: click has 1 numbers", "entry 2: expected some of the keys",
        "entry 3: unknown key 'colour'", "case 'b': expected a list",
        "line 5, case 'z', entry 1: case 'z' is not in the input",
    ):  # fmt: skip
        assert words in message
    path.write_text('{"a": [\n  oops')
    with pytest.raises(ConfigError, match="line 2: no JSON"):
        read_prompts(path, TWO, {"a"})


def test_an_empty_cell_never_takes_the_number_of_the_next_column(tmp_path):
    lines = "a,,click,30,,,,20\na,,box,30,,50,20,4\na,,not,,,,,\na,,box,1,2,3,4,\n,,,,,,,\n"
    for task, expected in (
        (VOLUME, ("line 2: click without y0;", "line 3: box without y0; expected numbers in x0, y0,"
                  " x1, y1, z", "line 4: not without x0, y0, z", "line 5: box without z")),
        (task_of(), ("line 2: click without y0;", "line 3: box without y0;",
                     "line 4: not without x0, y0; expected numbers in x0, y0")),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as raised:
            read_prompts(csv_file(tmp_path, lines), task, {"a"})
        told = str(raised.value)
        assert f"{len(expected)} problem(s)" in told and all(words in told for words in expected)
    with pytest.raises(ConfigError, match="line 2: click without z"):
        read_prompts(
            csv_file(tmp_path, "a,,click,1,2,,\n", HEADER.replace(",z", "")), VOLUME, {"a"}
        )


def test_nothing_stands_twice_in_a_json_file(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(
        '{"a": [{"click": [5, 5]}],\n "b": [{"click": [5, 5],\n "click": [1, 1]}],\n'
        ' "a": [{"click": [50, 40]}]}\n'
    )
    with pytest.raises(ConfigError) as raised:
        read_prompts(path, task_of(), {"a", "b"})
    message = str(raised.value)
    assert "2 problem(s)" in message
    assert "line 1, 4: the key 'a' stands twice" in message
    assert "line 2, 3" not in message and "the key 'click' stands twice" in message
