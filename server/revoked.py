"""Revoked keys: `revoked.json` in the federation's folder. A revocation is final for its key.

::

    {"revoked": [{"site": str, "date": str, "fingerprint": str, "public_key": str}]}

`flower-server provision` makes the file, and nothing goes on without it: were a missing file taken
for an empty one, losing it would let every revoked key in again.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from medsa_model.checkpoint import write_json
from medsa_model.errors import ConfigError
from medsa_model.section import Section
from medsa_model.site_keys import fingerprint
from server.config import Federation
from server.keys import known_keys, read_public_key, site_folder

NAME = "revoked.json"


class Revocation(Section):
    """One key that is locked out."""

    site: str
    date: str
    """UTC, ISO 8601."""
    fingerprint: str
    """As `ssh-keygen -lf` prints it."""
    public_key: str
    """PEM."""


class _File(Section):
    revoked: tuple[Revocation, ...]


def revoke(folder: Path, site: str) -> str:
    """Lock the present key of `site` out; returns what to tell. Raises `ConfigError`."""
    known = sorted(path.parent.name for path in folder.glob("sites/*/site.pub"))
    if site not in known:
        raise ConfigError(
            f"no key of a site {site!r} in {folder / 'sites'}; expected one of: "
            f"{', '.join(known) or '(none)'}"
        )
    again = (
        f"To readmit {site} move {site_folder(folder, site)} and {folder / 'kits' / site}.zip "
        "away and run `flower-server provision`: it makes a new key and a new kit"
    )
    public = read_public_key(site_folder(folder, site) / "site.pub", site)
    earlier = read_revocations(folder)
    name = fingerprint(public)
    for each in earlier:
        if each.fingerprint == name:
            return f"{site}: key {name} was revoked already, on {each.date}. {again}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = Revocation(site=site, date=now, fingerprint=name, public_key=public.decode())
    _write(folder, (*earlier, new))
    return f"{site}: key {name} is revoked for good. {again}"


def read_revocations(folder: Path) -> tuple[Revocation, ...]:
    """All revocations, oldest first. Raises `ConfigError` for a file that is missing or altered."""
    path = folder / NAME
    restore = (
        "restore it from the backup: without it revoked keys would be let in again (if no key was "
        'ever revoked, its content is {"revoked": []})'
    )
    try:
        found = _File.model_validate_json(path.read_text(encoding="utf-8")).revoked
    except FileNotFoundError:
        if not (folder / "sites").exists():
            restore = "`flower-server provision` makes it"
        raise ConfigError(f"{path} is missing; {restore}") from None
    except (OSError, UnicodeError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); {restore}") from error
    for each in found:
        if fingerprint(each.public_key.encode()) != each.fingerprint:
            raise ConfigError(
                f"{path} was altered: the key of {each.site} does not have the fingerprint "
                f"{each.fingerprint}; {restore}"
            )
    return found


def start_revocations(folder: Path) -> None:
    """Write an empty list in a new folder; raises `ConfigError` when it is lost in an old one."""
    if not (folder / NAME).exists() and not (folder / "sites").exists():
        _write(folder, ())
    read_revocations(folder)


def read_revoked(folder: Path) -> set[str]:
    """Fingerprints of all revoked keys; raises `ConfigError`."""
    return {each.fingerprint for each in read_revocations(folder)}


def revoked_keys(folder: Path) -> dict[bytes, str]:
    """Revoked PEM public key -> its site, to tell it from an unknown key; raises `ConfigError`."""
    return {each.public_key.encode(): each.site for each in read_revocations(folder)}


def admitted(federation: Federation) -> dict[bytes, str]:
    """PEM public key -> site, of all sites of the YAML whose key is here and not revoked.

    Raises `ConfigError` for keys that cannot be read or are shared, and for a lost revoked.json.
    """
    keys = known_keys(federation.folder, (site.name for site in federation.sites))
    revoked = read_revoked(federation.folder)
    return {key: site for site, key in keys.items() if fingerprint(key) not in revoked}


def _write(folder: Path, revoked: tuple[Revocation, ...]) -> None:
    content = _File(revoked=revoked).model_dump(mode="json")
    write_json(folder / NAME, content)
