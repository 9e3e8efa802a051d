"""Why a message is not used: codes for logs and programs, with a sentence for people.

Both ends compare what arrives with what was agreed before any of it reaches the model. Words of
the sender stand in such a sentence cut short and printable (`shown.py`).
"""

from enum import StrEnum

from medsa_model.errors import ManifestError


class Code(StrEnum):
    """What is wrong with a message."""

    ERROR = "ERROR"
    """The site itself says that it did not do it."""
    UNREADABLE = "UNREADABLE"
    """The message could not be put together."""
    RECORDS = "RECORDS"
    """Records are missing, or there are others."""
    ECHO = "ECHO"
    """It answers another run, round, backbone or manifest."""
    ARRAYS = "ARRAYS"
    """There is another number of arrays, or another name."""
    BYTES = "BYTES"
    """More bytes than the manifest has."""
    DECLARED = "DECLARED"
    """The array is said to have another type or shape."""
    HEADER = "HEADER"
    """The array's own header says something else, or cannot be read."""
    NOT_FINITE = "NOT_FINITE"
    """NaN or infinite values."""
    TOO_LARGE = "TOO_LARGE"
    """A value that no trained adapter has."""
    NORM = "NORM"
    """The change is far longer than those of the other sites."""
    WEIGHT = "WEIGHT"
    """A number of cases that the site does not have."""
    METRICS = "METRICS"
    """Numbers are missing, unknown, or out of their range."""
    COST = "COST"
    """It does not say what its training cost, or paid for another one."""
    LEDGER = "LEDGER"
    """The site's privacy ledger went backwards."""


BLAMELESS = (Code.ERROR, Code.LEDGER)
"""No strike: the site said so itself, or has another consequence."""


class Rejected(ManifestError):
    """A message that is not used, with its code; `str()` is the reason."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
