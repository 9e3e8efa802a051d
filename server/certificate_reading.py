"""Certificates and keys that lie in a federation's folder, made here or put there by somebody."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from medsa_model.errors import ConfigError
from medsa_model.private_files import read_file

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def load_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one; raises `ConfigError`."""
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no certificate in PEM form: restore it") from error


def load_key(path: Path) -> Key:
    """A private key that can sign certificates; raises `ConfigError`."""
    try:
        key = load_pem_private_key(read_file(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is no private key in PEM form without a passphrase: restore it"
        ) from error
    if not isinstance(key, Key):
        found = type(key).__name__.removesuffix("PrivateKey").lstrip("_")
        raise ConfigError(f"{path} is of kind {found}, expected an elliptic curve or RSA")
    return key


def belong_together(certificate: x509.Certificate, key: Key) -> bool:
    """Whether the certificate is for this key."""
    return certificate.public_key() == key.public_key()


def is_signed(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> bool:
    """Whether the first of `chain` is signed by an authority, perhaps over the others in order."""
    for link, above in zip(chain, [*chain[1:], None], strict=True):
        if any(_signed(link, authority) for authority in authorities):
            return True
        if above is None or not _signed(link, above):
            return False
    return False


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def certificate_fingerprint(path: Path) -> str:
    """`AB:CD:...` as `openssl x509 -noout -fingerprint -sha256` prints it; raises `ConfigError`."""
    return load_certificates(path)[0].fingerprint(hashes.SHA256()).hex(":").upper()
