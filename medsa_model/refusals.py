"""What a site can refuse, as codes that cross the wire with a sentence for both sides.

A refusal is written for the coordinator: its text holds only what the coordinator sent, how often
it asked, the site's limits, hashes and versions. Of any other error only the kind crosses the wire.
"""

from enum import IntEnum

from medsa_model.errors import MedsaError


class Reason(IntEnum):
    """Codes of error replies; Flower's own lie below 1000."""

    FAILED = 1000
    RUN_NOT_ALLOWED = 1001
    OTHER_BACKBONE = 1002
    OTHER_ADAPTERS = 1003
    OTHER_CLASSES = 1004
    OTHER_SETTINGS = 1005
    OTHER_TENSORS = 1006
    OVER_LIMIT = 1007
    TOO_FEW_CASES = 1008
    BUNDLE = 1009
    EPSILON = 1010
    LEDGER = 1011
    NO_PRIVACY = 1012
    OTHER_DATA = 1013
    MESSAGE = 1014


SENTENCES = {
    Reason.FAILED: "the site could not do it",
    Reason.RUN_NOT_ALLOWED: "the run is not on the site's list",
    Reason.OTHER_BACKBONE: "the site has another backbone",
    Reason.OTHER_ADAPTERS: "the site's adapters have other names or shapes",
    Reason.OTHER_CLASSES: "the site's structures have other names",
    Reason.OTHER_SETTINGS: "the site cannot read the run's settings",
    Reason.OTHER_TENSORS: "the tensors do not fit the site's model",
    Reason.OVER_LIMIT: "the run asks for more than the site allows",
    Reason.TOO_FEW_CASES: "the site has too few cases",
    Reason.BUNDLE: "the run's bundle is not what this site executes",
    Reason.EPSILON: "the site's patients have lost as much as is allowed",
    Reason.LEDGER: "the site's privacy ledger cannot be used",
    Reason.OTHER_DATA: "the run is for another kind of images than the site has",
    Reason.MESSAGE: "the message is not what was agreed",
    Reason.NO_PRIVACY: "the site takes part under differential privacy alone",
}


class Refused(MedsaError):
    """A site does not do what it was asked for; `str()` may cross the wire."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{SENTENCES[reason]}: {detail}")
        self.reason = reason
