"""Which sites annotate which structures, and what a case then shows."""

import pytest
import torch
from pydantic import ValidationError

from medsa_model.data.phantom import Phantom
from medsa_model.data.sample import Case, Sample
from medsa_model.errors import ConfigError
from sim.annotations import Annotations, with_annotations

SITES = ["site_a", "site_b", "site_c", "site_d"]


def test_without_a_law_everything_is_annotated():
    known = Annotations().draw(SITES, 3, 0)
    assert known == dict.fromkeys(SITES, (True, True, True))


@pytest.mark.parametrize(("each", "structures"), [(1, 4), (2, 5), (2, 8), (3, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_every_site_annotates_so_many_and_every_structure_is_annotated(each, structures, seed):
    known = Annotations(structures_per_site=each).draw(SITES, structures, seed)
    assert list(known) == SITES
    assert all(len(mine) == structures for mine in known.values())
    assert all(sum(mine) == min(each, structures) for mine in known.values())
    assert all(any(column) for column in zip(*known.values(), strict=True))


def test_neighbours_share_as_little_as_possible():
    known = Annotations(structures_per_site=2).draw(SITES, 8, 3)
    assert [sum(column) for column in zip(*known.values(), strict=True)] == [1] * 8


def test_too_few_for_every_structure_are_refused():
    with pytest.raises(ConfigError, match="structures_per_site is 1; expected 3 or more, for 2 s"):
        Annotations(structures_per_site=1).draw(["a", "b"], 5, 0)


def test_more_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="structures_per_site is 5, but there are 4 structures"):
        Annotations(structures_per_site=5).draw(SITES, 4, 0)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("seed", range(10))
def test_every_structure_and_every_site_has_its_part_of_a_dirichlet_law(alpha, seed):
    known = Annotations(alpha=alpha).draw(SITES, 3, seed)
    assert all(any(mine) for mine in known.values())  # who annotates nothing cannot train
    assert all(any(column) for column in zip(*known.values(), strict=True))


def test_a_large_alpha_is_everybody_and_a_small_one_mostly_one_site():
    many, few = (
        sum(sum(map(sum, Annotations(alpha=alpha).draw(SITES, 10, seed).values()))
            for seed in range(10)) / 100
        for alpha in (1e4, 0.01)
    )  # fmt: skip
    assert many == 4 and 1 <= few < 1.3


@pytest.mark.parametrize("law", [Annotations(structures_per_site=2), Annotations(alpha=0.5)])
def test_a_draw_is_a_function_of_the_seed(law):
    assert law.draw(SITES, 6, 1) == law.draw(SITES, 6, 1)
    assert len({str(law.draw(SITES, 6, seed)) for seed in range(6)}) > 3


@pytest.mark.parametrize(
    "keys",
    [{"structures_per_site": 2, "alpha": 1.0}, {"structures_per_site": 0}, {"alpha": 0},
     {"alpha": float("inf")}],
)  # fmt: skip
def test_laws_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValidationError):
        Annotations(**keys)


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, (True, False, True)), ((True, True, False), (True, False, False))],
)
def test_what_is_not_annotated_is_empty_and_unknown(before, after):
    mask = torch.ones(3, 2, 4, 4, dtype=torch.bool)
    sample = Sample(torch.zeros(3, 2, 4, 4), mask, "a", "p", (1.0, 1.0, 1.0), before)
    case = Case("a", "p", "site_a", "train", lambda: sample, volume=True)
    cut = with_annotations(case, (True, False, True))
    assert (cut.case, cut.patient, cut.site, cut.part, cut.volume) == (
        "a", "p", "site_a", "train", True,
    )  # fmt: skip
    loaded = cut.load()
    assert loaded.labelled == after
    assert [bool(channel.all()) for channel in loaded.mask] == list(after)
    assert [bool(channel.any()) for channel in loaded.mask] == list(after)
    assert loaded.image is sample.image and loaded.spacing_mm == sample.spacing_mm
    assert mask.all() and case.load().labelled == before  # the case itself is as it was


def test_a_case_with_annotations_is_painted_as_before():
    (case,) = Phantom(
        sites=1, cases_per_site=1, size=32, slices=8, classes=("liver", "aorta")
    ).open()
    whole, cut = case.load(), with_annotations(case, (False, True)).load()
    assert torch.equal(whole.image, cut.image) and torch.equal(whole.mask[1], cut.mask[1])
    assert whole.mask[0].any() and not cut.mask[0].any()
