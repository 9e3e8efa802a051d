"""The split of a simulation: one data set, dealt to sites and there to parts.

A partition deals the patients to sites; afterwards every site's patients are dealt to its parts as
a site does it by itself, see `medsa_model/data/split.py`. All cases of one patient are in one part
of one site. Everything drawn is a function of (cases, seed), whatever the order of the list.
"""

from collections.abc import Mapping, Sequence

from medsa_model.data.patients import generator, group
from medsa_model.data.sample import Case
from medsa_model.data.split import (
    LEAST_TEST,
    LEAST_TRAIN,
    Split,
    SplitOptions,
    deal_parts,
    is_usable,
)
from medsa_model.errors import DataError
from sim.partition import PartitionSection


def split(
    cases: Sequence[Case], partition: PartitionSection, options: SplitOptions, seed: int
) -> Split:
    """Deal `cases` to sites by `partition`, and at every site to parts by `options`.

    Official parts are kept: an official "test" (or "val") part of any site is the only source of
    test (or validation) cases at all sites. Raises `DataError` for a case id that is there twice,
    and for sites that end with fewer than 2 training cases or no test case, naming all of them.
    """
    if not cases:
        raise DataError("the data set holds no case; expected at least 3 patients for each site.")
    patients = group(cases)
    official = {patient.pool for patient in patients}
    test, val = options.share("test", official), options.share("val", official)
    placed = partition.assign(patients, seed)
    sites = {
        site: deal_parts(members, test, val, options.labelled, generator(seed, "parts", site))
        for site, members in sorted(placed.items())
    }
    _check(sites, "test" in official)
    return Split(partition.kind, seed, sites)


def _check(sites: Mapping[str, Mapping[str, Sequence[str]]], official: bool) -> None:
    """Raise `DataError` naming every site that cannot be trained or tested."""
    short = [
        f"{site}: {len(parts['train'])} training, {len(parts['test'])} test"
        for site, parts in sites.items()
        if not is_usable(parts)
    ]
    if short:
        source = "the official test part" if official else "sim.split.test"
        raise DataError(
            f"{len(short)} site(s) have less than {LEAST_TRAIN} training and {LEAST_TEST} test "
            f"cases: {'; '.join(short)}. Test cases come from "
            f"{source}; choose fewer sites or another sim.partition, or add patients."
        )
