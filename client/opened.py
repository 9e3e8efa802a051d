"""From the site YAML to an opened site: data, split, device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.config import SiteConfig
from client.hospital import Site
from medsa_model.audit_log import NAME as AUDIT
from medsa_model.data import GENERATED
from medsa_model.data.duplicates import Seen, find_duplicates
from medsa_model.data.prefetch import threads_for
from medsa_model.data.reading import Look, judge, look, read_each, refuse
from medsa_model.data.sample import Case
from medsa_model.data.sites_csv import WITHOUT
from medsa_model.data.split import Split, read_split, split_site, write_split
from medsa_model.device import choose_device
from medsa_model.errors import ConfigError, DataError
from medsa_model.logs import logger
from medsa_model.tensor_folder import TensorFolder
from medsa_model.tensor_store import TensorStore

AGREED = "run.json"  # beside the site YAML, from the kit
TELLING = 5  # cases that are all of one kind by a mistake, and not by chance
LISTED = 5  # case ids in a message


def open_site(config: SiteConfig, settled: bool = True) -> Site:
    """The site with its cases dealt to parts, as they were dealt the first time.

    Nothing is read but names; `check_cases` reads. With `settled` a first deal is final; a look
    before taking part is none. Raises `ConfigError` and `DataError`.
    """
    cases = {case.case: case for case in open_cases(config)}
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    parts = settle(config, list(cases.values()), settled)
    if missing := sorted({n for names in parts.values() for n in names} - cases.keys()):
        raise DataError(
            f"site {config.site}: {len(missing)} case(s) of split.json are no longer in the data: "
            f"{', '.join(missing[:LISTED])}. Put them back, or move {config.state / 'split.json'} "
            "away to deal all cases anew (test cases then become training cases)"
        )
    device = choose_device(config.device)
    return Site(
        config.site,
        {part: [cases[name] for name in names] for part, names in parts.items()},
        device,
        config.checkpoint,
        threads_for(config.workers, device),
        classes=config.data.classes,
        limits=config.limits,
        counted=config.state / "counted.json",
        ledger=config.ledger_file,
        audit=config.state / AUDIT,
        agreed=config.file.parent / AGREED,
        residues=config.state / "residues",
        results=config.state / "results",
        cache=open_cache(config),
        memory=config.memory_gigabytes and config.memory_gigabytes * 10**9,
    )


def open_cache(config: SiteConfig) -> TensorStore:
    """Where the site keeps activations of the frozen blocks; raises `ConfigError`.

    Also one that keeps nothing: it rounds like any other, so that results do not depend on it.
    """
    folder = None
    if config.cache_folder:
        folder = TensorFolder(config.cache_folder, round(config.cache_folder_megabytes * 10**6))
    return TensorStore(round(config.cache_megabytes * 10**6), folder)


def open_cases(config: SiteConfig) -> list[Case]:
    """The cases of this site; raises `ConfigError` when a root is needed and missing."""
    root = config.data.root
    if root is None and config.data.kind not in GENERATED:
        raise ConfigError(f"data.root is empty in {config.file}: say where the images lie")
    cases = config.data.open(root or Path())
    if config.origin is None:
        return cases
    mine = [case for case in cases if case.site == config.origin]
    if not mine:
        found = sorted({case.site or "(none)" for case in cases})
        advice = f"; {WITHOUT}" if "(none)" in found else ""
        raise DataError(
            f"origin is {config.origin!r}, but the cases come from {', '.join(found[:LISTED])}"
            f"{advice}; correct origin in the site YAML, or leave it out to use all cases"
        )
    return mine


def settle(config: SiteConfig, cases: list[Case], keep: bool) -> dict[str, tuple[str, ...]]:
    """Part -> case ids: drawn once and, with `keep`, kept in the site's state folder.

    Kept, because a case that was tested once must not be trained on when images are added.
    """
    place = config.state / "split.json"
    if place.exists():
        parts = read_split(place).sites.get(config.site)
        if parts is None:
            raise ConfigError(f"{place} belongs to another site: choose another state folder")
        known = {name for names in parts.values() for name in names}
        if config.split.labelled is None and (new := [c for c in cases if c.case not in known]):
            logger.warning(
                "%d case(s) are not in %s and are not used: %s", len(new), place,
                ", ".join(case.case for case in new[:LISTED]),
            )  # fmt: skip
        return parts
    parts = split_site(cases, config.site, config.split, config.split.seed)
    if keep:
        write_split(Split("site", config.split.seed, {config.site: parts}), place)
    return parts


@dataclass(frozen=True)
class Checked:
    """How many cases have no structure, are implausible, are copies of another of their part, and
    how many pairs in two parts are nearly alike.
    """

    empty: int
    odd: int
    copies: int
    alike: int


def useless(looks: Sequence[Look]) -> list[str]:
    """Why nothing can be learnt from training cases, all of which were read."""
    found = []
    if all(each.empty for each in looks):
        found.append(
            f"none of its {len(looks)} training cases has a structure (all masks are empty), "
            "expected at least one; check the export of the masks"
        )
    if len(looks) < TELLING:
        return found
    if all(each.full for each in looks):
        found.append(
            f"the masks of all its {len(looks)} training cases mark every pixel; expected "
            "background around the structure. Were they inverted, or cut off at 0?"
        )
    if all(each.fingerprint is None for each in looks):
        found.append(
            f"the images of all its {len(looks)} training cases have one colour each, so that "
            "nothing can be seen; check the export of the images"
        )
    return found


def check_cases(site: Site) -> int:
    """As `examine`; returns how many cases have no structure."""
    return examine(site).empty


def examine(site: Site) -> Checked:
    """Read every case once. Warns of implausible cases, and of images that are there twice.

    Raises one `DataError` for all cases that cannot be read, for images that are in two parts, and
    when no training case has a structure.
    """
    empty = odd = 0
    faults: list[str] = []
    seen: list[Seen] = []
    for part, cases in site.parts.items():
        looks = read_each(cases, look, faults)
        bare = sum(each.empty for each in looks)
        empty += bare
        odd += sum(each.odd for each in looks)
        seen += [Seen(each.case, part, each.fingerprint) for each in looks if each.fingerprint]
        if part == "train" and looks and len(looks) == len(cases):
            faults += [f"site {site.name}: {each}" for each in useless(looks)]
    found = find_duplicates(seen)
    judge(found, site.name, faults)
    refuse(faults)
    return Checked(empty, odd, len(found.within), len(found.alike))
