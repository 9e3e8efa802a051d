"""Splits: the parts of one site, and the file that keeps them."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from medsa_model.data.sample import Case, Sample
from medsa_model.data.split import (
    PARTS,
    Split,
    SplitOptions,
    read_split,
    split_site,
    write_split,
)
from medsa_model.errors import CheckpointError, DataError


def unreadable() -> Sample:
    """A case whose pixels nobody should need."""
    raise AssertionError("a split must not read pixels")


def make_case(number: int, patient: int | None = None, part: str | None = None) -> Case:
    """Case number `number` of no site; each its own patient unless told otherwise."""
    name = f"p{number if patient is None else patient:04d}"
    return Case(f"c{number:04d}", name, None, part, unreadable)


def make_cases(count: int) -> list[Case]:
    """`count` cases, each of its own patient."""
    return [make_case(number) for number in range(count)]


SPLIT = Split("site", 5, {"a": split_site(make_cases(40), "a", SplitOptions(), 5)})


def test_the_split_of_a_fixed_seed_stays_the_same() -> None:
    """Published splits can be made again; a change here is a breaking change."""
    parts = split_site(make_cases(24)[::2], "hospital-0", SplitOptions(), 7)
    assert parts["test"] == ("c0006", "c0008", "c0014")
    assert parts["val"] == ("c0020",)


def test_shares_of_the_parts() -> None:
    """25 % of 40 patients test, 10 % validate."""
    assert [len(SPLIT.sites["a"][part]) for part in PARTS] == [26, 4, 10]


def test_seed_name_and_cases_decide_and_the_order_of_cases_does_not() -> None:
    """Two hospitals with equal file names do not test on the same numbers."""
    cases, options = make_cases(40), SplitOptions()
    assert split_site(cases[::-1], "a", options, 5) == SPLIT.sites["a"]
    assert split_site(cases, "b", options, 5) != SPLIT.sites["a"]
    assert split_site(cases, "a", options, 6) != SPLIT.sites["a"]


def test_patients_are_never_divided() -> None:
    """Ten patients of four cases each: 7, 1 and 2 of them."""
    cases = [make_case(number, number // 4) for number in range(40)]
    parts = split_site(cases, "a", SplitOptions(), 0)
    owner = {case.case: case.patient for case in cases}
    patients = [{owner[name] for name in parts[part]} for part in PARTS]
    assert [len(names) for names in patients] == [7, 1, 2]
    assert len(set.union(*patients)) == 10


def test_a_small_site_gives_up_validation_before_training() -> None:
    """Three patients: one test, two training; four: one validates too."""
    for patients, expected in ((3, [2, 0, 1]), (4, [2, 1, 1])):
        parts = split_site(make_cases(patients), "a", SplitOptions(), 0)
        assert [len(parts[part]) for part in PARTS] == expected


def test_official_parts_are_respected() -> None:
    """Official test and validation cases stay what they are, and no others are drawn."""
    parts = ("train", "train", "train", "val", "test")
    cases = [make_case(n, part=parts[n % 5]) for n in range(50)]
    dealt = split_site(cases, "a", SplitOptions(test=0.5, val=0.4), 0)
    for part in PARTS:
        assert dealt[part] == tuple(case.case for case in cases if case.part == part)


def test_an_official_training_part_alone_is_divided() -> None:
    """A layout without published test masks still needs a test."""
    cases = [make_case(n, part="train") for n in range(40)]
    assert len(split_site(cases, "a", SplitOptions(), 0)["test"]) == 10


def test_patients_of_the_official_test_part_are_not_trained_on() -> None:
    """Their other cases are left out."""
    cases = [make_case(n, part="test" if n < 5 else "train") for n in range(30)]
    dealt = split_site([*cases, make_case(900, 0, "train")], "a", SplitOptions(), 0)
    assert "c0900" not in {name for names in dealt.values() for name in names}
    assert "c0000" in dealt["test"]


def test_labelled_caps_training_only() -> None:
    """Test and validation cases stay, a lower cap uses a subset drawn at random."""
    whole, ten, four, many = (
        split_site(make_cases(40), "a", SplitOptions(labelled=cap), 0) for cap in (None, 10, 4, 99)
    )
    assert len(ten["train"]) == 10
    assert len(four["train"]) == 4
    assert set(four["train"]) < set(ten["train"]) < set(whole["train"])
    assert ten["train"] != whole["train"][:10]
    assert ten["test"] == whole["test"]
    assert ten["val"] == whole["val"]
    assert many == whole


def official_training() -> list[Case]:
    """Three cases, all but one of the official test part."""
    return [make_case(n, part="test" if n else None) for n in range(3)]


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], r"site north: the data set holds no case; expected at least 3 patients"),
        (make_cases(1), r"site north: 1 cases of 1 patients give 0 training and 1 test.*2 and 1"),
        ([make_case(n, 7) for n in range(9)], r"9 cases of 1 patients give 0 training and 9 test"),
        (make_cases(2), r"share 0\.25 of its patients that is drawn for testing; add patients"),
        (official_training(), r"1 training and 2 test.*official test part of its data set; add"),
        ([*make_cases(40), make_case(3, 77)], r"1 case id.*twice: c0003"),
    ],
)
def test_what_cannot_be_divided_is_refused(cases: list[Case], message: str) -> None:
    """In words of the site's data: a hospital has no configuration of a simulation."""
    with pytest.raises(DataError, match=message) as error:
        split_site(cases, "north", SplitOptions(), 0)
    assert "sim." not in str(error.value)


def test_written_split_is_read_back(tmp_path: Path) -> None:
    """Equal, with the documented keys."""
    dealt = SPLIT
    path = tmp_path / "split.json"
    write_split(dealt, path)
    assert read_split(path) == dealt
    content = json.loads(path.read_text())
    assert list(content) == ["kind", "seed", "sha256", "sites"]
    assert (content["kind"], content["seed"]) == ("site", 5)
    assert list(content["sites"]["a"]) == list(PARTS)
    written = content.pop("sha256")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert written == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_is_interrupted_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Half a split would be refused for ever: it is never dealt anew."""
    path, write = tmp_path / "split.json", Path.write_text
    if before:
        path.write_text(before)

    def break_off(self: Path, text: str, **options: str) -> int:
        write(self, text[: len(text) // 2], **options)
        raise OSError("no space left on the device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", break_off)
        with pytest.raises(OSError, match="no space"):
            write_split(SPLIT, path)
    assert (path.read_text() if path.exists() else None) == before
    write_split(SPLIT, path)
    assert read_split(path) == SPLIT and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("key", ["kind", "seed", "sha256", "sites"])
def test_an_altered_split_is_refused(tmp_path: Path, key: str) -> None:
    """A moved test case would go unnoticed into the results."""
    path = tmp_path / "split.json"
    write_split(SPLIT, path)
    content = json.loads(path.read_text())
    if key == "sites":
        parts = content["sites"]["a"]
        parts["train"].append(parts["test"].pop())
    else:
        content[key] = {"kind": "iid", "seed": 6, "sha256": "0" * 64}[key]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="was altered"):
        read_split(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"kind": "site"}', "\x00"])
def test_what_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    """An error of ours, whatever the file holds."""
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="is no split"):
        read_split(path)


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    """The message has the path."""
    with pytest.raises(CheckpointError, match=r"split\.json: there is no such split"):
        read_split(tmp_path / "split.json")


@pytest.mark.parametrize("values", [{"test": 0}, {"test": 0.6, "val": 0.4}, {"labelled": 1}])
def test_impossible_options_are_refused(values: dict[str, float]) -> None:
    """Before any data is opened."""
    with pytest.raises(ValidationError):
        SplitOptions(**values)  # type: ignore[arg-type]
