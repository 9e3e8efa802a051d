"""Splits: the parts of every site, and the file that keeps them."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from medsa_model.data.sample import Case, Sample
from medsa_model.errors import CheckpointError, DataError
from sim.partition import BySite, Iid
from sim.split import PARTS, SplitOptions, read_split, split, write_split


def unreadable() -> Sample:
    """A case whose pixels nobody should need."""
    raise AssertionError("a split must not read pixels")


def make_case(
    number: int, patient: int | None = None, site: str | None = None, part: str | None = None
) -> Case:
    """Case number `number`; each its own patient unless told otherwise."""
    name = f"p{number if patient is None else patient:04d}"
    return Case(f"c{number:04d}", name, site, part, unreadable)


def make_cases(count: int, sites: int = 4) -> list[Case]:
    """`count` cases, each of its own patient, at `sites` sites in turn."""
    return [make_case(number, site=f"hospital-{number % sites}") for number in range(count)]


def test_the_split_of_a_fixed_seed_stays_the_same() -> None:
    """Published splits can be made again; a change here is a breaking change."""
    parts = split(make_cases(24, sites=2), BySite(), SplitOptions(), 7).sites["hospital-0"]
    assert parts["test"] == ("c0006", "c0008", "c0014")
    assert parts["val"] == ("c0020",)


def test_a_site_draws_the_same_whoever_else_takes_part() -> None:
    """One hospital more or less does not change what another one tests on."""
    cases = make_cases(80)
    fewer = [case for case in cases if case.site != "hospital-3"]
    all_sites = split(cases, BySite(), SplitOptions(), 3).sites
    three_sites = split(fewer, BySite(), SplitOptions(), 3).sites
    assert {site: all_sites[site] for site in three_sites} == three_sites


def test_shares_of_the_parts() -> None:
    """25 % of 40 patients test, 10 % validate."""
    parts = split(make_cases(40, sites=1), BySite(), SplitOptions(), 0).sites["hospital-0"]
    assert [len(parts[part]) for part in PARTS] == [26, 4, 10]


def test_a_small_site_gives_up_validation_before_training() -> None:
    """Three patients: one test, two training; four: one validates too."""
    options = SplitOptions()
    for patients, expected in ((3, [2, 0, 1]), (4, [2, 1, 1])):
        parts = split(make_cases(patients, sites=1), BySite(), options, 0).sites["hospital-0"]
        assert [len(parts[part]) for part in PARTS] == expected


def test_too_small_sites_are_named_with_counts() -> None:
    """All of them at once."""
    cases = [*make_cases(40, sites=1), make_case(900, site="b"), make_case(901, 7777, "c")]
    cases += [make_case(902 + n, 8888, "d") for n in range(9)]
    found = r"3 site.* b: 0 training, 1 test; c: 0 training, 1 test; d: 0 training, 9 test"
    with pytest.raises(DataError, match=found):
        split(cases, BySite(), SplitOptions(), 0)


def test_a_site_that_gets_nobody_is_named() -> None:
    """More sites than patients is an error, not fewer sites."""
    with pytest.raises(DataError, match="site-5: 0 training, 0 test"):
        split(make_cases(4), Iid(sites=5), SplitOptions(), 0)


def test_official_parts_are_respected() -> None:
    """Official test and validation cases stay what they are, and no others are drawn."""
    parts = ("train", "train", "train", "val", "test")
    cases = [make_case(n, site="a", part=parts[n % 5]) for n in range(50)]
    dealt = split(cases, BySite(), SplitOptions(test=0.5, val=0.4), 0).sites["a"]
    for part in PARTS:
        assert dealt[part] == tuple(case.case for case in cases if case.part == part)


def test_an_official_training_part_alone_is_divided() -> None:
    """A layout without published test masks still needs a test."""
    cases = [make_case(n, site="a", part="train") for n in range(40)]
    assert len(split(cases, BySite(), SplitOptions(), 0).sites["a"]["test"]) == 10


def test_official_test_at_one_site_only_is_an_error() -> None:
    """The message says where test cases would have come from."""
    cases = make_cases(40, sites=2)
    cases.append(make_case(900, site="hospital-0", part="test"))
    with pytest.raises(DataError, match=r"hospital-1: 18 training, 0 test.*official test part"):
        split(cases, BySite(), SplitOptions(), 0)


def test_labelled_caps_training_only() -> None:
    """Test cases stay, a lower cap uses a subset, a site with less keeps what it has."""
    cases = make_cases(60, sites=2) + [make_case(900 + n, site="small") for n in range(5)]
    whole, ten, four = (
        split(cases, BySite(), SplitOptions(labelled=cap), 0).sites for cap in (None, 10, 4)
    )
    for site in ("hospital-0", "hospital-1"):
        assert len(ten[site]["train"]) == 10
        assert len(four[site]["train"]) == 4
        assert set(four[site]["train"]) < set(ten[site]["train"]) < set(whole[site]["train"])
        assert ten[site]["train"] != whole[site]["train"][:10]
        assert ten[site]["test"] == whole[site]["test"]
        assert ten[site]["val"] == whole[site]["val"]
    assert ten["small"] == whole["small"]


def test_case_ids_must_be_unique() -> None:
    """Else one image could be trained and tested on."""
    with pytest.raises(DataError, match=r"1 case id.*twice: c0003"):
        split([*make_cases(40), make_case(3, 77)], Iid(sites=2), SplitOptions(), 0)


def test_no_case_at_all() -> None:
    """Before a partition is asked."""
    with pytest.raises(DataError, match="no case"):
        split([], Iid(sites=4), SplitOptions(), 0)


def test_written_split_is_read_back(tmp_path: Path) -> None:
    """Equal, with the documented keys."""
    dealt = split(make_cases(40), BySite(), SplitOptions(), 5)
    path = tmp_path / "split.json"
    write_split(dealt, path)
    assert read_split(path) == dealt
    content = json.loads(path.read_text())
    assert list(content) == ["kind", "seed", "sha256", "sites"]
    assert (content["kind"], content["seed"]) == ("site", 5)
    assert list(content["sites"]["hospital-0"]) == list(PARTS)
    written = content.pop("sha256")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert written == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize("key", ["kind", "seed", "sha256", "sites"])
def test_an_altered_split_is_refused(tmp_path: Path, key: str) -> None:
    """A moved test case would go unnoticed into the results."""
    path = tmp_path / "split.json"
    write_split(split(make_cases(40), BySite(), SplitOptions(), 5), path)
    content = json.loads(path.read_text())
    if key == "sites":
        parts = content["sites"]["hospital-0"]
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
