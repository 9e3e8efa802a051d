"""`client/run.py --check`: all that could stop a site, found before it joins, in one table."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from client.config import SiteConfig
from client.connection import SKEW, check_connection, read_key
from client.hospital import Site
from client.opened import examine, open_site
from medsa_model.audit_log import NAME as AUDIT
from medsa_model.audit_log import verify
from medsa_model.backbone import file_sha256, verify_official_name
from medsa_model.data import GENERATED
from medsa_model.data.pairing import choose_root
from medsa_model.data.sites_csv import NAME as SITES
from medsa_model.device import choose_device, has_bfloat16
from medsa_model.errors import ConfigError, DataError, MedsaError
from medsa_model.health import probe
from medsa_model.site_keys import fingerprint
from medsa_model.versions import check_versions

LEAST_FREE = 10**9  # bytes


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was looked at, whether it is all right, and the facts.

    `warning`: it stops nothing, but may not be what the site wishes.
    """

    what: str
    good: bool
    text: str
    warning: bool = False


def preflight(config: SiteConfig) -> Iterator[Finding]:
    """Every finding, one after the other; reading all cases takes the longest."""
    checks: list[tuple[str, Callable[[SiteConfig], str | tuple[str, str]]]] = [
        ("versions", versions),
        ("device", device),
        ("backbone", checkpoint),
        ("data", data),
        ("limits", limits),
        ("disk", disk),
        ("audit log", audit),
        ("key", key),
        ("coordinator", coordinator),
        ("process", process),
    ]
    for what, check in checks:
        try:
            found = check(config)
            text, warning = (found, "") if isinstance(found, str) else found
            yield Finding(what, True, text)
            if warning:
                yield Finding(what, True, warning, warning=True)
        except MedsaError as error:
            yield Finding(what, False, str(error))
        except OSError as error:
            yield Finding(what, False, f"{error.filename or ''}: {error.strerror}")


def versions(_: SiteConfig) -> str:
    """Versions, and that the packages really are this project's."""
    return check_versions()


def device(config: SiteConfig) -> str:
    """The device and its memory."""
    chosen = choose_device(config.device)
    if chosen.type != "cuda":
        return f"{chosen.type} (no GPU: fine for trials, slow for a large backbone)"
    properties = torch.cuda.get_device_properties(chosen)
    precision = "bfloat16" if has_bfloat16(chosen) else "float32"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {precision}"


def checkpoint(config: SiteConfig) -> str:
    """The backbone's file and its sha256, which the coordinator's must equal."""
    if config.checkpoint is None:
        return "embedded vit_tiny"
    if not config.checkpoint.is_file():
        raise ConfigError(f"checkpoint {config.checkpoint} is not a file")
    sha256 = file_sha256(config.checkpoint)
    verify_official_name(config.checkpoint, sha256)
    return f"{config.checkpoint.name}, sha256 {sha256[:16]}"


def data(config: SiteConfig) -> tuple[str, str]:
    """That every case can be read, every mask is legal, and no image is in two parts.

    Whatever is wrong is told at once. The second text is a warning, or empty.
    """
    site = open_site(config, settled=False)
    few = ""
    if len(site.parts["train"]) < config.limits.least_training_cases:
        few = (
            f"{len(site.parts['train'])} training cases, limits.least_training_cases is "
            f"{config.limits.least_training_cases}"
        )
    try:
        found = examine(site)
    except DataError as error:
        raise DataError(f"{few}\n{error}" if few else str(error)) from None
    if few:
        raise DataError(few)
    counts = ", ".join(f"{len(cases)} {part}" for part, cases in site.parts.items())
    what = "volumes" if site.has_volumes else "images"
    classes = ", ".join(config.data.classes)
    told = f"{counts} cases; {patients(config, site, what)}; structures {classes}"
    annotated = getattr(config.data, "annotated", None)
    if annotated is not None:
        told += f"; annotated are {', '.join(annotated) or 'none'} alone"
    for count, what in (
        (found.empty, "without any"),
        (found.odd, "implausible, as logged"),
        (found.copies, "copies of another in their part"),
        (found.alike, "pairs in two parts nearly alike"),
    ):
        told += f"; {count} {what}" if count else ""
    return told, unsent(config, site)


def patients(config: SiteConfig, site: Site, what: str) -> str:
    """How many patients the cases (`what` they are) come from, and by which file that is known."""
    cases = [case for part in site.parts.values() for case in part]
    count = len({case.patient for case in cases})
    told = f"{len(cases)} {what} of {count} patient{'' if count == 1 else 's'}"
    if config.data.kind in GENERATED:
        return told
    root = choose_root(config.data.root, None)
    if (root / SITES).exists():
        return f"{told} ({SITES})"
    if count == len(cases):
        return f"{len(cases)} {what}; no {SITES}: every {what[:-1]} counts as a patient"
    return told


def unsent(config: SiteConfig, site: Site) -> str:
    """Which scores this site will never send by its own limit; empty when there are none."""
    least = config.limits.least_evaluated_cases
    parts = {part: len(site.parts[part]) for part in ("val", "test")}
    small = [
        f"{part} ({n} case{'' if n == 1 else 's'})" for part, n in parts.items() if 0 < n < least
    ]
    if not small:
        return ""
    return (
        f"scores of {' and '.join(small)} are never sent: each part needs {least} cases "
        "(limits.least_evaluated_cases); have more cases, a larger share in split, or a lower limit"
    )


def limits(config: SiteConfig) -> str:
    """What the coordinator may ask for, and the runs that this site takes part in."""
    runs = config.limits.runs
    if runs is None:
        allowed = "every run is accepted (limits.runs is empty)"
    else:
        allowed = f"runs {', '.join(runs)}" if runs else "no run is accepted (limits.runs is [])"
    others = config.limits.model_dump(exclude={"runs"}).items()
    return "; ".join([allowed, *(f"{key} {'any' if n is None else n}" for key, n in others)])


def disk(config: SiteConfig) -> str:
    """Room for logs and state."""
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(config.state).free
    if free < LEAST_FREE:
        raise ConfigError(f"{free / 10**6:.0f} MB are free at {config.state}, expected 1000")
    return f"{free / 10**9:.0f} GB free"


def audit(config: SiteConfig) -> str:
    """That the site's audit log is as it was written."""
    place = config.state / AUDIT
    if not place.exists():
        return "none yet"
    return f"whole, {verify(place).entries} entries"


def key(config: SiteConfig) -> str:
    """The site's private key and who may read it."""
    return fingerprint(read_key(config.key).public_key())


def process(config: SiteConfig) -> str:
    """Whether this site takes part just now, and whether what connects it is well."""
    try:
        facts = json.loads((config.state / "running.json").read_text(encoding="utf-8"))
        os.kill(int(facts["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return "none is running"
    if (state := probe(str(facts["health"]))) != "serving":
        raise ConfigError(
            f"process {facts['pid']} runs, but its part for the connection to the coordinator "
            f"{state}"
        )
    return f"process {facts['pid']} takes part and keeps the connection to the coordinator"


def coordinator(config: SiteConfig) -> str:
    """Name, port, certificate, door and clock."""
    skew = check_connection(config)
    if abs(skew) > SKEW:
        raise ConfigError(f"this machine's clock differs by {-skew:+.0f} s: set it (NTP)")
    return f"{config.coordinator.address} answers and knows this site; clocks differ {-skew:+.0f} s"
