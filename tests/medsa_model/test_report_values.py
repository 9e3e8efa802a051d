"""How numbers are written in the report."""

import pytest

from medsa_model.report_values import difference, duration, human_bytes, signed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (512, "512 bytes"),
        (635_012, "635 kB (635,012 bytes)"),
        (999_600, "1 MB (999,600 bytes)"),
        (41_234_567, "41.2 MB (41,234,567 bytes)"),
        (2_564_550_879, "2.56 GB (2,564,550,879 bytes)"),
    ],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (59.96, "1 min 0 s"),
        (None, "\N{EN DASH}"),
        (3.14, "3.1 s"),
        (725, "12 min 5 s"),
        (119.7, "2 min 0 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_differences_carry_a_sign() -> None:
    shown = [signed(0.0124), signed(-0.0124), signed(-0.0001), signed(None)]
    assert shown == ["+0.012", "\N{MINUS SIGN}0.012", "0.000", "\N{EN DASH}"]


def test_differences_are_those_of_the_printed_numbers() -> None:
    assert difference(0.80151, 0.80049) == 0.002  # printed as 0.802 and 0.800
    assert difference(0.8, None) is None
