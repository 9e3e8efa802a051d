"""Which CT volumes are implausible, and that reading them says so once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medsa_model.data.ct_checks import implausible
from medsa_model.data.reading import is_empty, read_each, refuse
from medsa_model.data.sample import Case, Sample
from medsa_model.errors import DataError

SPACING = (3.0, 0.8, 0.8)
WINDOW = (-175.0, 250.0)


def volume(low: int, high: int, of_1000: int = 500) -> np.ndarray:
    """1000 voxels: `of_1000` have the number `low`, the others `high`."""
    numbers = np.full(1000, high, np.float32)
    numbers[:of_1000] = low
    return numbers.reshape(10, 10, 10)


@pytest.mark.parametrize(
    ("voxels", "said"),
    [
        (volume(-1000, 40), []),
        (volume(-501, 40, 1), []),
        (volume(-500, 40), ["no voxel is below -500 HU (the lowest is -500)"]),
        (volume(0, 1064), ["no voxel is below -500 HU (the lowest is 0)"]),  # shifted by 1024
        (volume(-1000, 40, 990), []),
        (volume(-1000, 40, 991), ["99.1 % of its voxels lie below the window (-175 HU)"]),
        (volume(-1000, 251, 10), []),
        (volume(-1000, 251, 9), ["99.1 % of its voxels lie above the window (250 HU)"]),
        (volume(2000, 3000), ["100 % of its voxels lie above", "(the lowest is 2000)"]),
    ],
)
def test_numbers_that_are_no_hounsfield_units(voxels: np.ndarray, said: list[str]) -> None:
    found = implausible(voxels, SPACING, WINDOW)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_the_window_is_that_of_the_settings() -> None:
    (text,) = implausible(volume(-1000, 40, 995), SPACING, (-900.0, 20.0))
    assert "below the window (-900 HU)" in text
    assert implausible(volume(-1000, 40), SPACING, (-1200.0, 100.0)) == ()


@pytest.mark.parametrize(
    ("spacing", "known"),
    [((0.1, 20, 5), True), ((0.099, 1, 1), False), ((1, 20.1, 1), False), ((1, 1, 1e3), False)],
)
def test_spacings(spacing: tuple[float, ...], known: bool) -> None:
    found = implausible(volume(-1000, 40), spacing, WINDOW)
    assert bool(found) != known
    assert all("expected 0.1 to 20 mm" in text for text in found)


def case(name: str, structure: bool = True, remarks: tuple[str, ...] = ()) -> Case:
    def load() -> Sample:
        mask = torch.full((1, 2, 2), structure)
        return Sample(torch.zeros(3, 2, 2), mask, name, name, remarks=remarks)

    return Case(name, name, None, None, load)


def broken(name: str) -> Case:
    def load() -> Sample:
        raise DataError(f"case {name}: damaged")

    return Case(name, name, None, None, load)


@pytest.fixture
def heard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str]]:
    monkeypatch.setattr("medsa_model.logs.logger.propagate", True)  # set_up() turns it off
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_case_is_warned_about_in_one_line(heard: Callable[[], list[str]]) -> None:
    cases = [case("a", remarks=("dark", "small")), case("b"), case("c", False)]
    faults: list[str] = []
    assert read_each(cases, is_empty, faults).count(True) == 1
    assert heard() == ["case a: dark; small"] and faults == []


def test_reading_goes_on_after_a_fault() -> None:
    faults: list[str] = ["before"]
    cases = [broken("a"), case("b"), broken("c"), case("d", False)]
    assert read_each(cases, lambda sample: sample.case, faults) == ["b", "d"]
    assert faults == ["before", "case a: damaged", "case c: damaged"]
    assert read_each(cases, is_empty, faults).count(True) == 1


def test_another_error_is_no_fault_of_the_data() -> None:
    def load() -> Sample:
        raise MemoryError

    with pytest.raises(MemoryError):
        read_each([Case("a", "a", None, None, load)], is_empty, [])


@pytest.mark.parametrize(("count", "shown", "more"), [(2, 2, ""), (20, 20, ""), (23, 20, "and 3")])
def test_faults_are_told_together(count: int, shown: int, more: str) -> None:
    with pytest.raises(DataError) as error:
        refuse([f"case {number:02d}: damaged" for number in range(count)])
    first, *lines = str(error.value).splitlines()
    assert first == f"{count} problems in the data:"
    assert lines[:shown] == [f"  case {number:02d}: damaged" for number in range(shown)]
    assert lines[shown:] == ([f"  {more} more"] if more else [])


def test_one_fault_is_said_as_it_is_and_none_is_silent() -> None:
    refuse([])
    with pytest.raises(DataError, match=r"^case a: damaged$"):
        refuse(["case a: damaged"])
