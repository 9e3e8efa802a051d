"""X.509 certificates: the federation's authority, the coordinator's certificate, a loopback one.

Keys are on P-384, in PEM files of mode 0600; nothing existing is overwritten. Extensions are those
that RFC 5280 asks for, so that clients which verify strictly (Python 3.13 and later) accept them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medsa_model.errors import ConfigError
from medsa_model.private_files import PUBLIC, write_new
from server.certificate_names import alternative_names, names_of
from server.certificate_reading import Key, load_certificates, load_key

AUTHORITY_DAYS = 3650
SKEW = timedelta(minutes=5)  # a hospital's clock may be this late; Flower allows as much


class Described(NamedTuple):
    """What a certificate says of itself; times are in UTC."""

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class _Issuer:
    name: x509.Name
    key: Key
    identifier: x509.SubjectKeyIdentifier


def make_ca(certificate: Path, key: Path, federation: str, at: datetime) -> None:
    """Write the authority of a federation, valid for ten years from `at`. Raises `ConfigError`."""
    private = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"{federation} authority")
    issuer = _Issuer(name, private, _identifier(private))
    content = _build(name, private, issuer, at, at + timedelta(days=AUTHORITY_DAYS))
    _write(certificate, key, content, private)


def make_server(
    certificate: Path, key: Path, authority: tuple[Path, Path], names: Sequence[str], days: int,
    at: datetime,
) -> None:  # fmt: skip
    """Write a server certificate for `names`, DNS names and IP addresses, for `days` from `at`.

    `authority` is its certificate and private key, which may be the user's own (elliptic curve or
    RSA). The server's certificate never outlives it. Raises `ConfigError`.
    """
    signer = load_certificates(authority[0])[0]
    ends = signer.not_valid_after_utc
    if ends <= at:
        raise ConfigError(f"{authority[0]} expired on {ends:%Y-%m-%d} and can sign nothing more")
    private, until = ec.generate_private_key(ec.SECP384R1()), min(at + timedelta(days=days), ends)
    issuer = _issuer(signer, load_key(authority[1]))
    wanted = alternative_names(names)
    content = _build(_name("coordinator"), private, issuer, at, until, wanted)
    _write(certificate, key, content, private)


def make_loopback(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for processes of this machine, its own authority, and its key.

    Those of an earlier start are replaced. Returns certificate and key. Raises `ConfigError`.
    """
    certificate, key = folder / "loopback.crt", folder / "loopback.key"
    for path in (certificate, key):
        path.unlink(missing_ok=True)
    private, at = ec.generate_private_key(ec.SECP384R1()), datetime.now(UTC)
    name, names = _name("loopback"), alternative_names(("localhost", "127.0.0.1"))
    until = at + timedelta(days=AUTHORITY_DAYS)  # a coordinator may serve for long
    issuer = _Issuer(name, private, _identifier(private))
    content = _build(name, private, issuer, at, until, names)
    _write(certificate, key, content, private)
    return certificate, key


def describe(certificate: Path) -> Described:
    """Names and validity of the (first) certificate in a PEM file; raises `ConfigError`."""
    found = load_certificates(certificate)[0]
    return Described(names_of(found), found.not_valid_before_utc, found.not_valid_after_utc)


def _name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fed-medsa"),
            x509.NameAttribute(NameOID.COMMON_NAME, text[:64]),  # the standard's limit
        ]
    )


def _identifier(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _issuer(signer: x509.Certificate, key: Key) -> _Issuer:
    """An authority that signs; one of the user's own may have an identifier of another making."""
    try:
        found = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        found = _identifier(key)
    return _Issuer(signer.subject, key, found)


def _build(
    name: x509.Name, private: ec.EllipticCurvePrivateKey, issuer: _Issuer, at: datetime,
    until: datetime, names: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:  # fmt: skip
    """An authority when there are no `names`, else a server's certificate for these."""
    authority = names is None
    usage = x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer.identifier)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - SKEW)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_identifier(private), critical=False)
        .add_extension(signer, critical=False)
    )
    if names is not None:
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(names, critical=False).add_extension(server, critical=False)
    return builder.sign(issuer.key, hashes.SHA384())


def _write(
    certificate: Path, key: Path, content: x509.Certificate, private: ec.EllipticCurvePrivateKey
) -> None:
    """Write both files or none."""
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(key, pem)
    try:
        write_new(certificate, content.public_bytes(Encoding.PEM), PUBLIC)
    except BaseException:  # a key alone would stop the next attempt
        key.unlink(missing_ok=True)
        raise
