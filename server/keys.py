"""Public keys of the sites: read with care, for they come from outside, and kept for each site.

In the federation's folder, `sites/NAME/site.pub` is the key by which a site is known; beside it
lies `site.key` when the pair was made here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

from medsa_model.errors import ConfigError
from medsa_model.private_files import check_private, read_file
from medsa_model.site_keys import public_part, public_pem

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
ASK = "ask the site for the site.pub that `client/run.py keygen` makes"


def site_folder(folder: Path, site: str) -> Path:
    """Where the keys of `site` lie."""
    return folder / "sites" / site


def read_public_key(path: Path, site: str) -> bytes:
    """The public key of `site` as PEM, which is what Flower sends; OpenSSH and PEM are read.

    Raises `ConfigError` when the file cannot be read, is a private key, or holds anything but one
    key on P-256, P-384 or P-521.
    """
    what = f"site {site}: its public key {path}"
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}; {ASK}") from error
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            f"{what} is a private key. It has left the site and is no secret any more: delete it, "
            f"and {ASK}, from a new pair"
        )
    if content.startswith(b"sk-"):
        raise ConfigError(f"{what} lives in a security key, which Flower cannot use; {ASK}")
    armoured = content.startswith(b"-----BEGIN")
    if not armoured and len(content.splitlines()) > 1:
        raise ConfigError(f"{what} has {len(content.splitlines())} lines, expected one key; {ASK}")
    try:
        key = load_pem_public_key(content) if armoured else load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{what} is no public key in OpenSSH or PEM form; {ASK}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        found = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        raise ConfigError(f"{what} is of kind {found}, expected NIST P-256, P-384 or P-521; {ASK}")
    if not isinstance(key.curve, CURVES):
        raise ConfigError(
            f"{what} is on {key.curve.name}, expected NIST P-256, P-384 or P-521; {ASK}"
        )
    return public_pem(key)


def known_keys(folder: Path, sites: Iterable[str]) -> dict[str, bytes]:
    """Site -> PEM public key of those `sites` that have one in the federation's folder.

    Raises `ConfigError` for a key that cannot be read or that two sites share.
    """
    places = {site: site_folder(folder, site) / "site.pub" for site in sites}
    keys = {site: read_public_key(path, site) for site, path in places.items() if path.exists()}
    check_different(keys)
    return keys


def check_different(keys: Mapping[str, bytes]) -> None:
    """Raise `ConfigError` when two sites have one key: they could not be told apart."""
    owners: dict[bytes, str] = {}
    for site, key in keys.items():
        if key in owners:
            raise ConfigError(
                f"sites {owners[key]} and {site} have the same public key, expected one of its "
                f"own for each; {ASK}"
            )
        owners[key] = site


def check_pair(folder: Path, site: str, public: bytes) -> None:
    """Raise `ConfigError` when a private key that is kept here is open or not that of `public`."""
    private = site_folder(folder, site) / "site.key"
    if not private.exists():
        return
    check_private(private)
    if public_part(read_file(private), str(private)) != public:
        raise ConfigError(
            f"site {site}: {private} and site.pub do not belong together: restore both from the "
            f"backup, or move {private.parent} and kits/{site}.zip away and provision again"
        )
