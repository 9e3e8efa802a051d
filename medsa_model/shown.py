"""Words and values that somebody else sent, fit for a terminal, a log and a message."""

LONGEST = 500  # characters
LONGEST_VALUE = 40


def clean(text: str) -> str:
    """Text as one printable line of at most `LONGEST` characters."""
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:LONGEST]


def short(value: object) -> str:
    """A value as Python writes it, cut short."""
    return repr(value)[:LONGEST_VALUE]
