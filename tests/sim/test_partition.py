"""Partitions: whom they keep together, what they depend on, and what they refuse."""

import io
import logging
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medsa_model.data.patients import group
from medsa_model.data.sample import Case, Sample
from medsa_model.data.split import PARTS, Split, SplitOptions
from medsa_model.errors import DataError
from medsa_model.logs import logger
from sim.partition import (
    BySite,
    Dirichlet,
    Iid,
    Partition,
    PartitionSection,
    Quantity,
    deal,
    foreground_quartiles,
    least,
)
from sim.split import split

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
        split(make_cases(30), Quantity(sites=5, minimum=8), SplitOptions(), 0)


@pytest.mark.parametrize("kind", [Quantity, Dirichlet])
def test_both_laws_refuse_with_the_same_arithmetic(kind: type[Quantity | Dirichlet]) -> None:
    """No alpha helps when there are too few cases."""
    cases = make_cases(30)
    with pytest.raises(DataError) as error:
        split(cases, kind(sites=5, minimum=8), SplitOptions(), 0)
    assert str(error.value) == (
        "sim.partition: 5 sites of at least 8 cases need 40 cases, the data set has 30; lower "
        "sites or minimum."
    )
    with pytest.raises(DataError, match=r"11 sites of at least 3 .* need 33 .*; lower sites\.$"):
        split(cases, kind(sites=11), SplitOptions(), 0)


@pytest.mark.parametrize(
    ("sites", "cases", "expected"),
    [(5, 30, 3), (3, 30, 5), (2, 30, 7), (1, 30, 8), (10, 30, 3), (4, 64, 8), (4, 63, 7)],
)
def test_the_usual_minimum_fits_few_cases(sites: int, cases: int, expected: int) -> None:
    """Half of an equal share, from 3 to 8; a wished one stays."""
    assert least(None, sites, cases) == expected
    assert least(3, sites, cases) == 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("partition", [Quantity(sites=5), Dirichlet(sites=5)], ids=repr)
def test_thirty_volumes_are_dealt_without_further_settings(
    partition: PartitionSection, seed: int
) -> None:
    dealt = split(make_cases(30), partition, SplitOptions(), seed)
    assert len(dealt.sites) == 5
    assert min(size(parts) for parts in dealt.sites.values()) >= 3


def test_a_partition_by_site_says_where_sites_are_written() -> None:
    with pytest.raises(DataError) as error:
        split([make_case(n) for n in range(3)], BySite(), SplitOptions(), 0)
    assert "sites.csv in data.root, columns image_id,site" in str(error.value)
    assert "sim.partition={kind: iid, sites: 3}" in str(error.value)


def test_all_cases_that_cannot_be_read_are_named() -> None:
    """Where the foreground is the label, this is the first time that masks are read."""

    def load(number: int) -> Sample:
        if number % 10 == 0:
            raise DataError(f"case c{number:04d}: damaged")
        mask = torch.ones(1, 2, 2, dtype=torch.bool)
        return Sample(torch.zeros(3, 2, 2), mask, f"c{number:04d}", f"p{number:04d}")

    cases = [make_case(n, load=lambda n=n: load(n)) for n in range(30)]  # type: ignore[misc]
    with pytest.raises(DataError) as error:
        split(cases, Dirichlet(sites=2), SplitOptions(), 0)
    assert str(error.value).splitlines() == [
        "3 problems in the data:", *(f"  case c{n:04d}: damaged" for n in (0, 10, 20)),
    ]  # fmt: skip


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
    """Equal sites are possible, but not drawn."""
    with pytest.raises(DataError, match=r"4 sites at least 25 of 100 cases; raise alpha"):
        split(make_cases(100), Dirichlet(sites=4, minimum=25), SplitOptions(), 0)


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


def test_patients_of_the_official_test_part_are_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their other cases are left out, and the project's own log, which users see, says so."""
    seen = io.StringIO()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(seen)])
    cases = [make_case(n, site="a", part="test" if n < 5 else "train") for n in range(30)]
    cases.append(make_case(900, patient=0, site="a", part="train"))
    dealt = split(cases, BySite(), SplitOptions(), 0)
    assert "c0900" not in everything(dealt)
    assert "c0000" in dealt.sites["a"]["test"]
    assert "1 case(s) are left out" in seen.getvalue()
    assert "c0900" in seen.getvalue()


@pytest.mark.parametrize("partition", KINDS, ids=repr)
def test_partitions_are_chosen_by_kind(partition: PartitionSection) -> None:
    """What a YAML file says comes back as the same section."""
    adapter: TypeAdapter[PartitionSection] = TypeAdapter(Partition)
    assert adapter.validate_json(adapter.dump_json(partition)) == partition


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Iid, {}),
        (Iid, {"sites": 0}),
        (Dirichlet, {"sites": 2, "alpha": 0}),
        (Quantity, {"sites": 2, "ratio": 1.5}),
        (Quantity, {"sites": 2, "ratio": 0.5, "alpha": 1}),
        (Quantity, {"sites": 2, "minimum": 2}),
    ],
)
def test_impossible_settings_are_refused(
    section: type[Iid | Dirichlet | Quantity], values: dict[str, float]
) -> None:
    """Before any data is opened."""
    with pytest.raises(ValidationError):
        section(**values)  # type: ignore[arg-type]
