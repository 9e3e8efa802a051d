"""Whose request it is: the stamp (time, signed with a site's key), which opens the door once."""

import binascii
import datetime
import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from server.flower_private import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER

TOLERANCE = 300.0  # seconds between a stamp and this machine's clock; Flower's own
TIDY = 60.0  # seconds between two looks for stamps that a clock alone refuses


class Refusal(Exception):
    """Why a request is not let in: HTTP status, code for programs, sentence for people."""

    def __init__(self, status: int, code: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass
class Keys:
    """Who may come in: PEM public key -> site, and of the revoked ones too, to tell them so.

    Replaced as a whole while the door is open.
    """

    admitted: Mapping[bytes, str]
    revoked: Mapping[bytes, str] = field(default_factory=dict)


@dataclass
class Stamps:
    """Signatures seen, with the time (`time.monotonic()`) from which a clock alone refuses them.

    Of a signature (r, s) only r is kept: whoever has one can make (r, -s), which is valid too.
    """

    seen: dict[int, float] = field(default_factory=dict)
    tidied: float = float("-inf")

    def use(self, signature: bytes) -> bool:
        """Whether this signature (DER, valid) is new; it is used up now."""
        r, _ = decode_dss_signature(signature)
        now = time.monotonic()
        if now - self.tidied >= TIDY:
            self.tidied = now
            self.seen = {each: until for each, until in self.seen.items() if until > now}
        if self.seen.get(r, 0.0) > now:
            return False
        self.seen[r] = now + 2 * TOLERANCE + 60
        return True


def check_stamp(headers: Mapping[str, str], keys: Keys, stamps: Stamps) -> str:
    """The site that a request comes from; raises `Refusal`. Flower checks node ids after this."""
    try:
        public_key = b64decode(headers[PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
        stamp = headers[TIMESTAMP_HEADER]
        signed_at = datetime.datetime.fromisoformat(stamp)
        age = (datetime.datetime.now(datetime.UTC) - signed_at).total_seconds()
    except (KeyError, ValueError, TypeError, binascii.Error):
        raise Refusal(401, 9001, "the request is not signed with a site's key") from None
    if public_key in keys.revoked:
        raise Refusal(401, 9003, "this key was revoked by the coordinator")
    if public_key not in keys.admitted:
        raise Refusal(401, 9002, "this key is not registered at the coordinator")
    if abs(age) > TOLERANCE:
        raise Refusal(
            401, 9004, f"the stamp is {age:+.0f} seconds old by the coordinator's clock, at most "
            f"{TOLERANCE:.0f} are allowed: an old request, or a clock that is wrong",
        )  # fmt: skip
    try:
        key = serialization.load_pem_public_key(public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not on an elliptic curve")
        key.verify(signature, stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise Refusal(401, 9005, "the signature does not belong to this key and stamp") from None
    if not stamps.use(signature):
        raise Refusal(401, 9006, "this stamp was used before: the request is a copy")
    return keys.admitted[public_key]
