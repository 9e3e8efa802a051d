"""Splits: whom they keep together, what they depend on, and what they refuse."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medsa_model.data.sample import Case, Sample
from medsa_model.errors import CheckpointError, DataError
from sim.partition import (
    BySite,
    Dirichlet,
    Iid,
    Partition,
    PartitionSection,
    Quantity,
    deal,
    foreground_quartiles,
    group,
)
from sim.split import PARTS, Split, SplitOptions, read_split, split, write_split

KINDS = [
    BySite(),
    Iid(sites=4),
    Quantity(sites=4, ratio=0.6),
    Quantity(sites=4, alpha=0.5),
    Dirichlet(sites=4, alpha=0.5),
]


def unreadable() -> Sample:
    """A case whose pixels nobody should need."""
    raise AssertionError("this split must not read pixels")


def make_case(
    number: int, patient: int | None = None, site: str | None = None, part: str | None = None,
    load: Callable[[], Sample] = unreadable,
) -> Case:  # fmt: skip
    """Case number `number`; each its own patient unless told otherwise."""
    name = f"p{number if patient is None else patient:04d}"
    return Case(f"c{number:04d}", name, site, part, load)


def make_cases(count: int, per_patient: int = 1, sites: int = 4) -> list[Case]:
    """`count` cases of patients with `per_patient` cases each, at `sites` sites in turn."""
    patients = [number // per_patient for number in range(count)]
    return [make_case(n, p, f"hospital-{p % sites}") for n, p in enumerate(patients)]


def everything(dealt: Split) -> list[str]:
    """All case ids of a split, with repetitions."""
    return [case for parts in dealt.sites.values() for names in parts.values() for case in names]


def size(parts: dict[str, tuple[str, ...]]) -> int:
    """Number of cases of one site."""
    return sum(len(names) for names in parts.values())


@pytest.mark.parametrize("partition", KINDS, ids=repr)
@given(
    counts=st.lists(st.integers(1, 3), min_size=60, max_size=120),
    seed=st.integers(0, 2**32),
    official=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_invariants(
    partition: PartitionSection, counts: list[int], seed: int, official: bool
) -> None:
    """Every case once; patients whole; every site usable; the order of the list without effect."""
    cases: list[Case] = []
    for patient, several in enumerate(counts):
        part = ("test" if patient % 3 == 0 else "train") if official else None
        for _ in range(several):
            cases.append(make_case(len(cases), patient, f"hospital-{patient % 4}", part))
    dealt = split(cases, partition, SplitOptions(), seed)

    assert sorted(everything(dealt)) == sorted(case.case for case in cases)
    owner = {case.case: case.patient for case in cases}
    places: dict[str, set[tuple[str, str]]] = {}
    for site, parts in dealt.sites.items():
        assert tuple(parts) == PARTS
        assert len(parts["train"]) >= 2
        assert len(parts["test"]) >= 1
        for part, names in parts.items():
            for name in names:
                places.setdefault(owner[name], set()).add((site, part))
    assert all(len(where) == 1 for where in places.values())
    assert len(dealt.sites) == 4
    if official:
        tested = {case for parts in dealt.sites.values() for case in parts["test"]}
        assert tested == {case.case for case in cases if case.part == "test"}

    shuffled = random.Random(seed).sample(cases, len(cases))
    assert split(shuffled, partition, SplitOptions(), seed) == dealt


@pytest.mark.parametrize("partition", KINDS, ids=repr)
def test_another_seed_is_another_split(partition: PartitionSection) -> None:
    """The seed matters, for parts and, where sites are drawn, for sites."""
    cases = make_cases(160)
    first, second = (split(cases, partition, SplitOptions(), seed) for seed in (0, 1))
    assert first.sites != second.sites
    whole = [
        [{c for part in parts.values() for c in part} for parts in one.sites.values()]
        for one in (first, second)
    ]
    assert (whole[0] == whole[1]) == isinstance(partition, BySite)


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


def test_by_site_keeps_cases_where_they_come_from() -> None:
    """The sites are those of the data set, under their names."""
    cases = make_cases(40)
    dealt = split(cases, BySite(), SplitOptions(), 0)
    for site, parts in dealt.sites.items():
        assert {c for names in parts.values() for c in names} == {
            case.case for case in cases if case.site == site
        }


def test_by_site_refuses_cases_without_a_site() -> None:
    """The message counts and names them and says what else there is."""
    cases = [*make_cases(40), make_case(900), make_case(901)]
    with pytest.raises(DataError, match=r"2 of 42 cases have no site: c0900, c0901.*iid"):
        split(cases, BySite(), SplitOptions(), 0)


def test_by_site_refuses_a_patient_at_two_sites() -> None:
    """Neither sites nor patients can be kept whole; the message names cases, never the patient."""
    cases = [*make_cases(40), make_case(900, 0, "hospital-3")]
    with pytest.raises(DataError, match="c0000, c0900") as error:
        split(cases, BySite(), SplitOptions(), 0)
    assert "p0000" not in str(error.value)


def test_iid_sites_are_equal_and_mixed() -> None:
    """Sizes differ by at most one, and no natural site dominates."""
    cases = make_cases(402)
    dealt = split(cases, Iid(sites=4), SplitOptions(), 0)
    assert sorted(size(parts) for parts in dealt.sites.values()) == [100, 100, 101, 101]
    origin = {case.case: case.site for case in cases}
    for parts in dealt.sites.values():
        found = Counter(origin[case] for names in parts.values() for case in names)
        assert max(found.values()) < 45


def test_quantity_sizes_fall_by_the_ratio() -> None:
    """8 cases for each, and 88 more in the proportion 4 : 2 : 1 (88 = 50.3 + 25.1 + 12.6)."""
    dealt = split(make_cases(112), Quantity(sites=3, ratio=0.5), SplitOptions(), 0)
    assert [size(parts) for parts in dealt.sites.values()] == [58, 33, 21]


def test_quantity_by_dirichlet_keeps_the_minimum() -> None:
    """Even where the law gives almost everything to one site."""
    for seed in range(20):
        partition = Quantity(sites=5, alpha=0.05, minimum=6)
        sizes = [
            size(p) for p in split(make_cases(100), partition, SplitOptions(), seed).sites.values()
        ]
        assert min(sizes) >= 6
        assert max(sizes) > 40


def test_quantity_refuses_more_than_there_is() -> None:
    """The message has the numbers."""
    with pytest.raises(DataError, match=r"5 sites of at least 8 cases need 40 cases.* has 30"):
        split(make_cases(30), Quantity(sites=5), SplitOptions(), 0)


def skew(cases: list[Case], alpha: float, seed: int) -> float:
    """Mean over sites of the total variation between a site's labels and those of all cases."""
    dealt = split(cases, Dirichlet(sites=4, alpha=alpha, minimum=4), SplitOptions(), seed)
    origin = {case.case: str(case.site) for case in cases}
    names = sorted(set(origin.values()))
    distances = []
    for parts in dealt.sites.values():
        found = Counter(origin[case] for part in parts.values() for case in part)
        share = np.array([found[name] for name in names]) / found.total()
        distances.append(np.abs(share - 1 / len(names)).sum() / 2)
    return float(np.mean(distances))


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    """From nearly the whole's distribution to nearly one label a site."""
    cases = make_cases(400)
    strong, medium, weak = (
        float(np.mean([skew(cases, alpha, seed) for seed in range(5)])) for alpha in (0.1, 1, 100)
    )
    assert strong > medium + 0.1
    assert medium > weak + 0.1
    assert weak < 0.1


def test_dirichlet_without_sites_takes_the_size_of_the_foreground() -> None:
    """Then patients of one quartile go mostly together."""

    def load(number: int) -> Sample:
        mask = torch.zeros(2, 10, 10, dtype=torch.bool)
        mask[number % 2, : number % 10] = True
        return Sample(torch.zeros(3, 10, 10), mask, f"c{number:04d}", f"p{number:04d}")

    cases = [make_case(n, load=lambda n=n: load(n)) for n in range(200)]  # type: ignore[misc]
    quartiles = foreground_quartiles(group(cases))
    shares: dict[str, set[int]] = {}
    for patient, quartile in quartiles.items():
        shares.setdefault(quartile, set()).add(int(patient[1:]) % 10)
    assert sorted(shares) == ["0", "1", "2", "3"]
    assert [max(shares[str(q)]) < min(shares[str(q + 1)]) for q in range(3)] == [True] * 3

    dealt = split(cases, Dirichlet(sites=3, alpha=0.05, minimum=4), SplitOptions(), 0)
    for parts in dealt.sites.values():
        found = Counter(quartiles[f"p{case[1:]}"] for part in parts.values() for case in part)
        assert len(found) < 4 or min(found.values()) < 0.1 * found.total()


def test_dirichlet_gives_up_with_the_numbers() -> None:
    """More than there is cannot be drawn."""
    with pytest.raises(DataError, match=r"4 sites at least 30 of 100 cases; raise alpha"):
        split(make_cases(100), Dirichlet(sites=4, minimum=30), SplitOptions(), 0)


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=80),
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=8),
)
@settings(max_examples=50, deadline=None)
def test_deal_comes_close_to_the_shares(counts: list[int], weights: list[float]) -> None:
    """Within less than the largest patient, as the docstring promises."""
    numbers = iter(range(1000))
    cases = [
        make_case(next(numbers), p) for p, several in enumerate(counts) for _ in range(several)
    ]
    patients = group(cases)
    shares = np.array(weights) / sum(weights)
    labels = {patient.name: "all" for patient in patients}
    placed = deal(patients, labels, {"all": shares}, 0)
    sizes = np.array([sum(len(p.cases) for p in got) for got in placed.values()])
    assert sizes.sum() == len(cases)
    assert np.abs(sizes - shares * len(cases)).max() < max(counts) + 1e-9


def test_a_patient_of_many_cases_is_evened_out() -> None:
    """The other sites get more of the small patients."""
    cases = [*make_cases(80), *(make_case(900 + n, 8888, "a") for n in range(20))]
    for seed in range(5):
        dealt = split(cases, Iid(sites=4), SplitOptions(), seed)
        assert [size(parts) for parts in dealt.sites.values()] == [25] * 4


def test_labels_do_not_depend_on_the_order_of_a_patients_cases() -> None:
    """A patient seen at two places has one label all the same."""
    cases = [make_case(n, n // 2, f"hospital-{n % 4}") for n in range(160)]
    partition = Dirichlet(sites=3, alpha=0.5)
    expected = split(cases, partition, SplitOptions(), 0)
    assert split(cases[::-1], partition, SplitOptions(), 0) == expected


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


def test_patients_of_the_official_test_part_are_not_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their other cases are left out, and said so."""
    cases = [make_case(n, site="a", part="test" if n < 5 else "train") for n in range(30)]
    cases.append(make_case(900, patient=0, site="a", part="train"))
    dealt = split(cases, BySite(), SplitOptions(), 0)
    assert "c0900" not in everything(dealt)
    assert "c0000" in dealt.sites["a"]["test"]
    assert "1 case(s) are left out" in caplog.text
    assert "c0900" in caplog.text


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
    """An empty data set is an error for every kind."""
    for partition in KINDS:
        with pytest.raises(DataError, match="no case"):
            split([], partition, SplitOptions(), 0)


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


@pytest.mark.parametrize("partition", KINDS, ids=repr)
def test_partitions_are_chosen_by_kind(partition: PartitionSection) -> None:
    """What a YAML file says comes back as the same section."""
    adapter: TypeAdapter[PartitionSection] = TypeAdapter(Partition)
    assert adapter.validate_json(adapter.dump_json(partition)) == partition


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (SplitOptions, {"test": 0}),
        (SplitOptions, {"test": 0.6, "val": 0.4}),
        (SplitOptions, {"labelled": 1}),
        (Iid, {}),
        (Iid, {"sites": 0}),
        (Dirichlet, {"sites": 2, "alpha": 0}),
        (Quantity, {"sites": 2, "ratio": 1.5}),
        (Quantity, {"sites": 2, "ratio": 0.5, "alpha": 1}),
        (Quantity, {"sites": 2, "minimum": 2}),
    ],
)
def test_impossible_settings_are_refused(
    section: type[SplitOptions | Iid | Dirichlet | Quantity], values: dict[str, float]
) -> None:
    """Before any data is opened."""
    with pytest.raises(ValidationError):
        section(**values)  # type: ignore[arg-type]
