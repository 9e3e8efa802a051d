"""Splits of a simulation: the parts of every site, and the same as each site makes for itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsa_model.data.sample import Case, Sample
from medsa_model.data.split import SplitOptions, split_site
from medsa_model.errors import DataError
from sim.partition import BySite, Iid
from sim.split import split


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


OPTIONS = st.builds(
    SplitOptions,
    test=st.floats(0.05, 0.6),
    val=st.just(0.0) | st.floats(0.01, 0.35),
    labelled=st.none() | st.integers(2, 10),
)


@st.composite
def several_sites(draw: st.DrawFn) -> dict[str, list[Case]]:
    """Cases of 1 to 4 sites; all of them have official parts, the same ones, or none has.

    The cases of some patients are in several official parts.
    """
    official = draw(st.sets(st.sampled_from(["test", "val"])))
    part = st.sampled_from([None, "train", *sorted(official)])
    sites: dict[str, list[Case]] = {}
    number = patients = 0
    for site in ("a", "b", "c", "d")[: draw(st.integers(1, 4))]:
        everybody = draw(st.lists(st.lists(part, min_size=1, max_size=3), max_size=20))
        for parts in [*everybody, *([each] for each in sorted(official))]:
            for each in parts:
                sites.setdefault(site, []).append(make_case(number, patients, site, each))
                number += 1
            patients += 1
    return sites


@given(sites=several_sites(), options=OPTIONS, seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_site_alone_ends_with_the_parts_of_the_simulation(
    sites: dict[str, list[Case]], options: SplitOptions, seed: int, data: st.DataObject
) -> None:
    """What is simulated is what hospitals would get; and one is refused where the other is."""
    alone, refused = {}, []
    for site, own in sites.items():
        try:
            alone[site] = split_site(data.draw(st.permutations(own)), site, options, seed)
        except DataError:
            refused.append(site)
    cases = [case for own in sites.values() for case in own]
    if not cases or refused:
        with pytest.raises(DataError):
            split(cases, BySite(), options, seed)
    else:
        assert split(cases, BySite(), options, seed).sites == alone


def test_a_site_draws_the_same_whoever_else_takes_part() -> None:
    """One hospital more or less does not change what another one tests on."""
    cases = make_cases(80)
    fewer = [case for case in cases if case.site != "hospital-3"]
    all_sites = split(cases, BySite(), SplitOptions(), 3).sites
    three_sites = split(fewer, BySite(), SplitOptions(), 3).sites
    assert {site: all_sites[site] for site in three_sites} == three_sites


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


def test_official_test_at_one_site_only_is_an_error() -> None:
    """The message says where test cases would have come from."""
    cases = make_cases(40, sites=2)
    cases.append(make_case(900, site="hospital-0", part="test"))
    with pytest.raises(DataError, match=r"hospital-1: 18 training, 0 test.*official test part"):
        split(cases, BySite(), SplitOptions(), 0)


def test_a_cap_that_a_site_does_not_reach_changes_nothing_there() -> None:
    """Only the larger sites are cut."""
    cases = make_cases(60, sites=2) + [make_case(900 + n, site="small") for n in range(5)]
    whole, ten = (split(cases, BySite(), SplitOptions(labelled=cap), 0).sites for cap in (None, 10))
    assert [len(parts["train"]) for parts in ten.values()] == [10, 10, 3]
    assert ten["small"] == whole["small"]


def test_case_ids_must_be_unique() -> None:
    """Else one image could be trained and tested on."""
    with pytest.raises(DataError, match=r"1 case id.*twice: c0003"):
        split([*make_cases(40), make_case(3, 77)], Iid(sites=2), SplitOptions(), 0)


def test_no_case_at_all() -> None:
    """Before a partition is asked."""
    with pytest.raises(DataError, match="no case"):
        split([], Iid(sites=4), SplitOptions(), 0)
