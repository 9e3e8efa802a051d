"""What two configurations do not share, key by key."""

from collections.abc import Mapping


def differences(
    before: Mapping[str, object], after: Mapping[str, object]
) -> dict[str, tuple[object, object]]:
    """Dotted key -> (old, new value) of what two configurations, as in YAML, do not share.

    A list counts as one value; a key that one of them lacks has the value "nothing" there.
    """
    old, new = _flat(before), _flat(after)
    pairs = {key: (old.get(key, "nothing"), new.get(key, "nothing")) for key in old | new}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(content: Mapping[str, object]) -> dict[str, object]:
    """Nested sections as one mapping from dotted keys to values."""
    result: dict[str, object] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            result |= {f"{key}.{inner}": each for inner, each in _flat(value).items()}
        else:
            result[key] = value
    return result
