"""The key pair with which a site signs its requests, made by the hospital or for its kit.

Pairs are on NIST P-384 and in OpenSSH's format, as `ssh-keygen -t ecdsa -b 384` makes them and as
Flower reads them. On the wire a public key is PEM (SubjectPublicKeyInfo).
"""

import hashlib
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
)

from medsa_model.errors import ConfigError
from medsa_model.private_files import PUBLIC, write_new


def make_key_pair(private: Path, public: Path, comment: str) -> None:
    """Write a new pair; `comment` ends the public key's line and says whose it is.

    Raises `ConfigError` when one of the files is there already: then neither is written.
    """
    if there := [path for path in (private, public) if path.exists() or path.is_symlink()]:
        raise ConfigError(
            f"{' and '.join(map(str, there))}: there already, and keys are never overwritten; use "
            "what is there, or move it away to make a new pair"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    text = " ".join(comment.split()).encode()
    write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        write_new(public, line + b" " + text + b"\n", PUBLIC)
    except BaseException:  # a private key alone would stop the next attempt
        private.unlink(missing_ok=True)
        raise


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as Flower sends and compares it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_part(private: bytes, source: str) -> bytes:
    """PEM public key that belongs to a private key file's content, OpenSSH or PEM.

    Raises `ConfigError`, which calls the key `source`, when it is no usable private key.
    """
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in private else load_pem_private_key
    try:
        key = load(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{source} is no private key without a passphrase: restore it, or make a new pair"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{source} is not on an elliptic curve: make a new pair")
    return public_pem(key.public_key())


def fingerprint(public: bytes | ec.EllipticCurvePublicKey) -> str:
    """`SHA256:...` as `ssh-keygen -lf` prints it, of a key or its PEM; raises `ConfigError`."""
    if isinstance(public, bytes):
        try:
            key = load_pem_public_key(public)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError("this is no public key in PEM form") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ConfigError("this public key is not on an elliptic curve")
        public = key
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    digest = hashlib.sha256(b64decode(line.split()[1])).digest()
    return "SHA256:" + b64encode(digest).decode().rstrip("=")
