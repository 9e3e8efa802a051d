"""The certificates in a federation's folder: kept when they are there, else made.

`ca.crt` and `ca.key`, `server.crt` and `server.key`. Certificates of the user's own may be put
there before: then `ca.key` is needed only to make a `server.crt`.
"""

from datetime import datetime, timedelta
from pathlib import Path

from medsa_model.errors import ConfigError
from medsa_model.private_files import check_private
from server.certificate_names import missing_names
from server.certificate_reading import (
    belong_together,
    certificate_fingerprint,
    is_signed,
    load_certificates,
    load_key,
)
from server.certificates import describe, make_ca, make_server
from server.config import Address, Federation

SOON = timedelta(days=30)
RENEW = (
    "To make a new one move server.crt and server.key away and run `flower-server provision` "
    "again; kits stay valid as long as ca.crt and the address are the same"
)


def provide_certificates(federation: Federation, at: datetime) -> list[str]:
    """Make what is missing; returns a line about each certificate.

    Raises `ConfigError` when files that are there do not fit each other.
    """
    folder = federation.folder
    return [
        _authority(folder, federation.name, at),
        _server(folder, federation.address, federation.certificate_days, at),
    ]


def _authority(folder: Path, name: str, at: datetime) -> str:
    certificate, key = folder / "ca.crt", folder / "ca.key"
    done = "kept"
    if not certificate.exists():
        if key.exists():
            raise ConfigError(f"{key} is there without ca.crt: restore it, or move ca.key away")
        if (folder / "server.crt").exists():
            raise ConfigError(
                f"{folder / 'server.crt'} is there without ca.crt: put the certificate of the "
                "authority that signed it there as ca.crt, for the kits"
            )
        make_ca(certificate, key, name, at)
        done = "made; back up ca.key"
    elif key.exists():
        check_private(key)
        if not belong_together(load_certificates(certificate)[0], load_key(key)):
            raise ConfigError(f"{certificate} and ca.key do not belong together: restore both")
    ends = describe(certificate).not_after
    return (
        f"ca.crt: {done}; valid until {ends:%Y-%m-%d}; fingerprint, to be read to the hospitals "
        f"on the telephone: {certificate_fingerprint(certificate)}"
    )


def _server(folder: Path, address: Address, days: int, at: datetime) -> str:
    certificate, key = folder / "server.crt", folder / "server.key"
    wanted = (address.host, *address.also)
    if certificate.exists() != key.exists():
        lone, lost = (certificate, key) if certificate.exists() else (key, certificate)
        raise ConfigError(f"{lone} is there without {lost.name}: restore it, or move this one away")
    if certificate.exists():
        return f"server.crt: kept; {_look(certificate, key, wanted, at)}"
    authority = (folder / "ca.crt", folder / "ca.key")
    if not authority[1].exists():
        raise ConfigError(
            f"{authority[1]} is missing, so that no server.crt can be made: restore it, or put "
            "server.crt and server.key there that ca.crt's authority has signed"
        )
    make_server(certificate, key, authority, wanted, days, at)
    return f"server.crt: made; {_look(certificate, key, wanted, at)}"


def _look(certificate: Path, key: Path, wanted: tuple[str, ...], at: datetime) -> str:
    """Facts and advice on a server certificate; raises `ConfigError` when nobody could use it."""
    check_private(key)
    chain = load_certificates(certificate)
    if not belong_together(chain[0], load_key(key)):
        raise ConfigError(f"{certificate} and server.key do not belong together. {RENEW}")
    if not is_signed(chain, load_certificates(certificate.with_name("ca.crt"))):
        raise ConfigError(
            f"{certificate} is not signed by the authority in ca.crt, so that every hospital would "
            f"refuse it: restore the right ca.crt. {RENEW}"
        )
    names, begins, ends = describe(certificate)
    facts = f"for {', '.join(names)}; valid until {ends:%Y-%m-%d}"
    if missing := missing_names(names, wanted):
        return f"{facts}. IT IS NOT FOR {', '.join(missing)}: hospitals refuse it there. {RENEW}"
    if ends <= at:
        return f"{facts}. IT HAS EXPIRED: hospitals refuse it. {RENEW}"
    if at < begins:
        return f"{facts}. IT IS NOT VALID BEFORE {begins:%Y-%m-%d %H:%M} UTC"
    return f"{facts}. It expires soon. {RENEW}" if ends - at < SOON else facts
