"""Everything that a federation needs, made once: certificates, keys, a kit for each hospital.

In the federation's folder::

    ca.crt ca.key server.crt server.key    certificates, see certificate_files.py
    revoked.json                           keys that are locked out
    sites/NAME/site.pub [site.key]         the key of each site; the private half when made here
    kits/NAME.zip                          what is sent to each site

To run it again makes what is missing (a new site of the YAML) and overwrites nothing.
"""

from datetime import UTC, datetime

from medsa_model.config import RunConfig, load_run
from medsa_model.data.synthetic import Synthetic
from medsa_model.errors import ConfigError
from medsa_model.private_files import PUBLIC, check_private, read_file, write_new
from medsa_model.site_keys import fingerprint, make_key_pair
from server.certificate_files import provide_certificates
from server.config import Federation, Member
from server.keys import (
    check_different,
    check_pair,
    known_keys,
    read_public_key,
    site_folder,
)
from server.kit import changed_in_kit, kit_files, write_kit
from server.revoked import read_revoked, start_revocations


def provision(federation: Federation) -> list[str]:
    """Make what is missing; returns lines that say what was made and what was kept.

    Raises `ConfigError` before anything is made when keys or settings do not fit each other.
    """
    # lines are for people, who copy the paths
    federation = federation.model_copy(update={"folder": federation.folder.resolve()})
    run = load_run(federation.run)
    check_origins(federation, run)
    folder = federation.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)
    start_revocations(folder)
    revoked = read_revoked(folder)
    check_keys(federation, revoked)
    lines = provide_certificates(federation, datetime.now(UTC))
    if not (folder / ".gitignore").exists():
        write_new(folder / ".gitignore", b"*\n", PUBLIC)  # private keys are never committed
    for name in ("sites", "kits"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    for member in federation.sites:
        lines.append(f"{member.name}: {_provide_site(federation, run, member, revoked)}")
    return lines


def check_origins(federation: Federation, run: RunConfig) -> None:
    """Raise `ConfigError` when images are generated, but not for every site of this name."""
    if not isinstance(run.data, Synthetic):
        return
    generated = {case.site for case in run.data.model_copy(update={"cases_per_site": 1}).open()}
    if strange := [site.name for site in federation.sites if site.name not in generated]:
        raise ConfigError(
            f"sites: {', '.join(strange)} in the federation, but the images of run {run.name} are "
            f"generated for {', '.join(sorted(map(str, generated)))}; use these names, or a run "
            "whose data is not synthetic"
        )


def check_keys(federation: Federation, revoked: set[str]) -> None:
    """Raise `ConfigError` when keys that were brought do not fit those that are here."""
    kept = known_keys(federation.folder, (site.name for site in federation.sites))
    brought = {
        s.name: read_public_key(s.public_key, s.name) for s in federation.sites if s.public_key
    }
    for site, key in brought.items():
        away = f"{site_folder(federation.folder, site)} and kits/{site}.zip"
        if site in kept and kept[site] != key:
            raise ConfigError(
                f"site {site}: public_key is {fingerprint(key)}, but it was registered with "
                f"{fingerprint(kept[site])}. If the site has a new key: `flower-server revoke` the "
                f"old one, move {away} away, and provision again. If not: restore the file"
            )
        if site not in kept and fingerprint(key) in revoked:
            raise ConfigError(
                f"site {site}: public_key {fingerprint(key)} is revoked, and that is final: let "
                "the site make a new pair with `client/run.py keygen`"
            )
    check_different({**kept, **brought})
    for site, key in kept.items():
        check_pair(federation.folder, site, key)


def _provide_site(federation: Federation, run: RunConfig, member: Member, revoked: set[str]) -> str:
    """Key and kit of one site, kept or made; returns what to tell."""
    name, folder = member.name, site_folder(federation.folder, member.name)
    public, kit = folder / "site.pub", federation.folder / "kits" / f"{member.name}.zip"
    told = "key kept"
    if not public.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        if member.public_key:
            write_new(public, read_file(member.public_key), PUBLIC)
            told = "its own key registered"
        else:
            make_key_pair(folder / "site.key", public, f"{name}.{federation.name}")
            told = "key made"
    key = read_public_key(public, name)
    if fingerprint(key) in revoked:
        return (
            f"KEY REVOKED; nothing is made. To readmit the site move {folder} and {kit} away and "
            "run `flower-server provision` again"
        )
    files = kit_files(federation, run, name)
    if not kit.exists():
        write_kit(kit, files)
        secret = "; it holds the private key: send it on a safe way" if "site.key" in files else ""
        return f"{told}, kit made: {kit}{secret}"
    if changed := changed_in_kit(kit, files, key):
        return (
            f"{told}, kit kept, BUT made now it would differ in {', '.join(changed)}: let the site "
            f"change that, or move {kit} away and run `flower-server provision` again"
        )
    return f"{told}, kit kept"
