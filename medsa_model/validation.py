"""Is a message what was agreed? Asked by coordinator and site alike, before anything is decoded.

Everything here raises `Rejected` with a code and nothing else, whatever a message holds.
"""

from collections.abc import Mapping

import torch

from medsa_model.errors import ManifestError
from medsa_model.records import (
    NAME,
    NONCE,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
    declared,
    size_in_bytes,
    to_state,
)
from medsa_model.rejections import Code, Rejected
from medsa_model.shown import clean, short
from medsa_model.state import AdapterState, Manifest
from medsa_model.stored_state import groups
from medsa_model.strategies import LARGEST_VALUE
from medsa_model.update_coding import largest_size

Kinds = Mapping[str, type[ArrayRecord] | type[MetricRecord] | type[ConfigRecord]]
Range = tuple[float, float]


def check_records(content: RecordDict, kinds: Kinds) -> None:
    """Whether `content` has the records `kinds` and no others."""
    found = {name: type(record) for name, record in content.items() if name != NONCE}
    if found != dict(kinds):
        listed = ", ".join(f"{clean(str(name))[:40]} {kind.__name__}" for name, kind
                           in sorted(found.items())[:5])  # fmt: skip
        wanted = ", ".join(f"{name} {kind.__name__}" for name, kind in kinds.items())
        raise Rejected(
            Code.RECORDS, f"it has {len(found)} records ({listed}), expected {wanted or 'none'}"
        )
    extra = content.config_records.get(NONCE)
    if NONCE in content and (extra is None or set(extra) != {NONCE} or not _is_nonce(extra[NONCE])):
        raise Rejected(Code.RECORDS, f"its record {NONCE} holds something else than a nonce")


def read_settings(record: ConfigRecord, names: set[str], code: Code) -> dict[str, str]:
    """The texts of a record of settings, which has exactly those `names`."""
    found = {name: value for name, value in record.items() if name != NONCE}
    if found.keys() != names or not all(isinstance(value, str) for value in found.values()):
        listed = ", ".join(clean(str(name))[:40] for name in sorted(found)[:8])
        raise Rejected(code, f"it has the settings {listed or 'none'}, expected the texts "
                       f"{', '.join(sorted(names))}")  # fmt: skip
    return {name: str(value) for name, value in found.items()}


def check_echo(record: ConfigRecord, expected: Mapping[str, str]) -> None:
    """Whether an answer repeats what it was asked: run, round or part, backbone, manifest."""
    found = read_settings(record, set(expected), Code.ECHO)
    if differing := [name for name in expected if found[name] != expected[name]]:
        name = differing[0]
        raise Rejected(
            Code.ECHO, f"it answers another message: its {name} is {clean(found[name])[:16]}, "
            f"expected {expected[name][:16]}",
        )  # fmt: skip


def read_state(
    record: ArrayRecord, manifest: Manifest, unchecked: bool = False,
    reference: AdapterState | None = None,
) -> AdapterState:  # fmt: skip
    """The adapter state of a message, which has the manifest's names and shapes, and is finite.

    That of a site's answer is coded as the manifest says against `reference`, the state that the
    site was sent; that of an order has none. With `unchecked` its values are not looked at.
    """
    kind = "lossless" if reference is None else manifest.updates
    if [*record] != [NAME]:
        names = ", ".join(clean(str(name))[:40] for name in list(record)[:5])
        raise Rejected(
            Code.ARRAYS, f"it has {len(record)} arrays ({names}), expected one named {NAME}"
        )
    array = record[NAME]
    size, most = size_in_bytes(record), largest_size(manifest.shapes, kind)
    if size > most:
        raise Rejected(Code.BYTES, f"its array has {size} bytes, expected at most {most}")
    expected = declared(manifest.shapes, kind)
    if (array.dtype, tuple(array.shape), array.stype) != expected:
        raise Rejected(
            Code.DECLARED, f"its array is said to be {short(array.dtype)} of shape "
            f"{short(tuple(array.shape))} ({short(array.stype)}), expected {expected[0]} of "
            f"{expected[1]} ({expected[2]}): every site needs the same backbone, the same adapter "
            "section and the same version of fed-medsa",
        )  # fmt: skip
    try:
        state = to_state(record, manifest.shapes, reference, kind, unchecked)
    except Rejected:
        raise
    except ManifestError as error:
        raise Rejected(Code.HEADER, str(error)) from error
    except MemoryError:  # the reader's own
        raise
    except Exception as error:  # whatever a reader meets in what somebody else wrote
        raise Rejected(Code.HEADER, f"it cannot be read ({type(error).__name__})") from error
    if unchecked or _in_range(state):
        return state
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise Rejected(Code.NOT_FINITE, f"{name} has values that are not finite")
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if largest > LARGEST_VALUE:
            raise Rejected(
                Code.TOO_LARGE,
                f"{name} has values up to {largest:.3g}, expected at most {LARGEST_VALUE:.0e}",
            )
    return state


def _in_range(state: AdapterState) -> bool:
    """Whether all values are finite and small enough, a group of tensors at a time."""
    for group in groups({name: tensor.shape for name, tensor in state.items()}):
        values = torch.cat([state[name].reshape(-1) for name in group])
        if values.numel() and not float(values.abs().max()) <= LARGEST_VALUE:  # nor no number
            return False
    return True


def read_numbers(
    record: Mapping[str, object],
    needed: Mapping[str, Range],
    allowed: Mapping[str, Range] | None = None,
) -> dict[str, int | float]:
    """The numbers of a record by name: all of `needed`, some of `allowed`, each in its range.

    `record` is a `MetricRecord` or a part of one. A range whose ends are `int` asks for a whole
    number.
    """
    ranges = {**(allowed or {}), **needed}
    found = {name: value for name, value in record.items() if name != NONCE}
    if unknown := sorted(str(name) for name in found.keys() - ranges.keys()):
        raise Rejected(
            Code.METRICS, f"it has {len(unknown)} unknown number(s), such as "
            f"{clean(unknown[0])[:40]}; does the site run another version?",
        )  # fmt: skip
    if missing := sorted(needed.keys() - found.keys()):
        raise Rejected(Code.METRICS, f"it lacks {', '.join(missing)[:200]}")
    numbers: dict[str, int | float] = {}
    for name, value in found.items():
        low, high = ranges[name]
        whole = isinstance(low, int) and isinstance(high, int)
        kinds = (int,) if whole else (int, float)
        if type(value) not in kinds or not low <= value <= high:  # type: ignore[operator]
            raise Rejected(
                Code.METRICS, f"its {name} is {short(value)}, expected "
                f"{'a whole number' if whole else 'a number'} from {low:g} to {high:g}",
            )  # fmt: skip
        numbers[name] = value  # type: ignore[assignment]
    return numbers


def _is_nonce(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 64
