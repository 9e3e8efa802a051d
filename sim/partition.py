"""Partitions: which patients of a data set belong to which simulated site.

`kind: site` is what Flower's partitioners call natural id, `quantity` what they call size; `iid`
and `dirichlet` have the same names there. All cases of one patient go to one site. Everything
drawn is a function of (cases, seed), whatever the order of the list.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medsa_model.data.pairing import first
from medsa_model.data.patients import Patient, generator
from medsa_model.data.reading import read_each, refuse
from medsa_model.data.sample import Sample
from medsa_model.data.sites_csv import WITHOUT
from medsa_model.data.split import LEAST_TEST, LEAST_TRAIN
from medsa_model.errors import DataError
from medsa_model.section import Section

Shares = dict[str, NDArray[np.float64]]
Placed = dict[str, list[Patient]]

GEOMETRIC_RATIO = 0.5  # of a quantity partition that names no law
FEWEST = LEAST_TRAIN + LEAST_TEST  # cases of a site that can be trained and tested
USUAL_MINIMUM = 8
ATTEMPTS = 1000  # draws of Dirichlet shares before giving up on the smallest site


class PartitionSection(Protocol):
    """What every kind of partition can do."""

    @property
    def kind(self) -> str:
        """The name of the kind in a configuration file."""
        ...

    def assign(self, patients: Sequence[Patient], seed: int) -> Placed:
        """Site -> its share of `patients`, which are sorted by name; a site may get none."""
        ...


class BySite(Section):
    """Every case stays at the site where it comes from."""

    kind: Literal["site"] = "site"

    def assign(self, patients: Sequence[Patient], seed: int) -> Placed:
        """See `PartitionSection.assign`; nothing is drawn.

        Raises `DataError` for cases without a site and for a patient with cases at two sites.
        """
        cases = [case for patient in patients for case in patient.cases]
        if nowhere := [case.case for case in cases if not case.site]:
            raise DataError(
                f"sim.partition.kind is site, but {len(nowhere)} of {len(cases)} cases have no "
                f"site: {first(nowhere)}; {WITHOUT}. Write one, or choose iid, dirichlet or "
                "quantity, for example sim.partition={kind: iid, sites: 3}."
            )
        divided = [p for p in patients if len({case.site for case in p.cases}) > 1]
        if divided:
            shown = first([case.case for case in divided[0].cases])
            raise DataError(
                f"{len(divided)} patient(s) have cases at two or more sites, for example the cases "
                f"{shown}; expected each patient at one site. If these are different people, give "
                "them different patient ids; if not, leave the cases of all but one site out."
            )
        placed: Placed = {}
        for patient in patients:
            placed.setdefault(str(patient.cases[0].site), []).append(patient)
        return placed


class Iid(Section):
    """Patients are shuffled and dealt evenly: sites of equal size and like distribution."""

    kind: Literal["iid"] = "iid"
    sites: int = Field(ge=1)
    """Number of sites."""

    def assign(self, patients: Sequence[Patient], seed: int) -> Placed:
        """See `PartitionSection.assign`; sizes differ by at most the largest patient."""
        even = np.full(self.sites, 1 / self.sites)
        labels = dict.fromkeys((patient.name for patient in patients), "all")
        return deal(patients, labels, {"all": even}, seed)


class Quantity(Section):
    """Sites of unequal size and like distribution.

    Sizes fall geometrically by `ratio` from site to site, or are drawn from a symmetric Dirichlet
    law of parameter `alpha` when that is given.
    """

    kind: Literal["quantity"] = "quantity"
    sites: int = Field(ge=1)
    """Number of sites."""
    ratio: float | None = Field(None, gt=0, le=1)
    """Size of each site as a share of the one before; 1 makes them equal. Empty: 0.5."""
    alpha: float | None = Field(None, gt=0)
    """Parameter of the Dirichlet law, in place of `ratio`; small values are more unequal."""
    minimum: int | None = Field(None, ge=FEWEST)
    """Cases that every site gets before the law is applied to the rest. Empty: 8, or half of an
    equal share when that is less, but never less than 3."""

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        if self.alpha is not None and self.ratio is not None:
            raise ValueError("ratio and alpha are two laws; expected one of them")
        return self

    def assign(self, patients: Sequence[Patient], seed: int) -> Placed:
        """See `PartitionSection.assign`.

        Raises `DataError` when there are fewer cases than the minimum of all sites.
        """
        total = sum(len(patient.cases) for patient in patients)
        minimum = least(self.minimum, self.sites, total)
        if self.alpha is None:
            ratio = GEOMETRIC_RATIO if self.ratio is None else self.ratio
            law = ratio ** np.arange(self.sites, dtype=np.float64)
        else:
            law = generator(seed, "quantity").dirichlet(np.full(self.sites, self.alpha))
        sizes = minimum + (total - minimum * self.sites) * law / law.sum()
        labels = dict.fromkeys((patient.name for patient in patients), "all")
        return deal(patients, labels, {"all": sizes / total}, seed)


class Dirichlet(Section):
    """Label skew: the share of every label that a site gets is drawn from a Dirichlet law.

    The label of a patient is the site where it comes from. In a data set with fewer than two
    sites it is the quartile of the foreground's share of the image; every mask is then read once.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    sites: int = Field(ge=1)
    """Number of sites."""
    alpha: float = Field(0.5, gt=0)
    """Parameter of the law: at 0.1 a site has mostly one label, at 100 all like the whole."""
    minimum: int | None = Field(None, ge=FEWEST)
    """Cases that every site must get; the shares are drawn again until all do. Empty: 8, or half
    of an equal share when that is less, but never less than 3."""

    def assign(self, patients: Sequence[Patient], seed: int) -> Placed:
        """See `PartitionSection.assign`.

        Raises `DataError` when there are fewer cases than the minimum of all sites, and when no
        draw gives every site its minimum of cases.
        """
        minimum = least(self.minimum, self.sites, sum(len(patient.cases) for patient in patients))
        labels = natural_labels(patients) or foreground_quartiles(patients)
        counts = Counter[str]()
        for patient in patients:
            counts[labels[patient.name]] += len(patient.cases)
        random = generator(seed, "dirichlet")
        # By how much `deal` can miss a site's share, so that hopeless draws need no dealing.
        slack = max((len(patient.cases) for patient in patients), default=0) * len(
            {(patient.pool, labels[patient.name]) for patient in patients}
        )
        for _ in range(ATTEMPTS):
            shares = {n: random.dirichlet(np.full(self.sites, self.alpha)) for n in sorted(counts)}
            expected = sum(counts[label] * share for label, share in shares.items())
            if np.min(expected) < minimum - slack:
                continue
            placed = deal(patients, labels, shares, seed)
            if min(sum(len(p.cases) for p in got) for got in placed.values()) >= minimum:
                return placed
        raise DataError(
            f"sim.partition: none of {ATTEMPTS} draws of Dirichlet({self.alpha}) shares gave each "
            f"of {self.sites} sites at least {minimum} of {counts.total()} cases; raise "
            "alpha, or lower sites or minimum."
        )


Partition = Annotated[BySite | Iid | Dirichlet | Quantity, Field(discriminator="kind")]


def least(minimum: int | None, sites: int, cases: int) -> int:
    """Cases that each of `sites` gets at least, of `cases` in all; `minimum` is the wished number.

    Empty, it is `USUAL_MINIMUM`, or half of an equal share if that is less, so that few volumes can
    be dealt, too. Raises `DataError` when all sites together need more than there are.
    """
    if minimum is None:
        minimum = max(FEWEST, min(USUAL_MINIMUM, cases // (2 * sites)))
    if minimum * sites > cases:
        lower = "sites" if minimum == FEWEST else "sites or minimum"
        raise DataError(
            f"sim.partition: {sites} sites of at least {minimum} cases need {minimum * sites} "
            f"cases, the data set has {cases}; lower {lower}."
        )
    return minimum


def deal(
    patients: Sequence[Patient], labels: Mapping[str, str], shares: Shares, seed: int
) -> Placed:
    """Sites, of which number i gets `shares[label][i]` of the cases of each label.

    `labels` gives the label of each patient. Official parts are dealt one by one with the same
    shares. Within one label and part, a site's number of cases differs from its share by less
    than the largest patient has; by less than one case when every patient has one.
    """
    number = len(next(iter(shares.values())))
    names = [f"site-{i + 1:0{len(str(number))}d}" for i in range(number)]
    placed: Placed = {name: [] for name in names}
    for pool, label in sorted({(patient.pool, labels[patient.name]) for patient in patients}):
        members = [p for p in patients if (p.pool, labels[p.name]) == (pool, label)]
        generator(seed, "deal", pool, label).shuffle(members)
        members.sort(key=lambda patient: -len(patient.cases))  # the small ones even sizes out
        missing = shares[label] * sum(len(patient.cases) for patient in members)
        for patient in members:
            site = int(missing.argmax())
            missing[site] -= len(patient.cases)
            placed[names[site]].append(patient)
    return placed


def natural_labels(patients: Sequence[Patient]) -> dict[str, str] | None:
    """Patient -> site of its first case; `None` when cases lack a site or all have the same."""
    sites = {case.site for patient in patients for case in patient.cases}
    if None in sites or len(sites) < 2:
        return None
    return {patient.name: str(patient.cases[0].site) for patient in patients}


def foreground_quartiles(patients: Sequence[Patient]) -> dict[str, str]:
    """Patient -> quartile, 0 to 3, of the mean share of pixels that belong to any structure.

    Reads every case; raises one `DataError` for all that cannot be read.
    """
    faults: list[str] = []
    shares = [read_each(patient.cases, _foreground, faults) for patient in patients]
    refuse(faults)
    means = [float(np.mean(each)) for each in shares]
    borders = np.quantile(means, (0.25, 0.5, 0.75))
    quartiles = np.searchsorted(borders, means)
    return {p.name: str(quartile) for p, quartile in zip(patients, quartiles, strict=True)}


def _foreground(sample: Sample) -> float:
    """Share of pixels or voxels that belong to any structure."""
    return sample.mask.any(0).float().mean().item()
