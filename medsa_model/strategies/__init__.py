"""How the sites' states become the next global state: pure functions; the union is the registry."""

from typing import Annotated

from pydantic import Field

from medsa_model.strategies.fedadam import FedAdam
from medsa_model.strategies.fedavg import FedAvg
from medsa_model.strategies.fedexp import FedExP
from medsa_model.strategies.fedprox import FedProx
from medsa_model.strategies.fedyogi import FedYogi
from medsa_model.strategies.krum import Krum, MultiKrum
from medsa_model.strategies.mean import Mean, weighted_mean
from medsa_model.strategies.median import Median
from medsa_model.strategies.norm_bounded import NormBounded
from medsa_model.strategies.private_fedavg import PrivateFedAvg
from medsa_model.strategies.rules import Rule
from medsa_model.strategies.trimmed_mean import TrimmedMean
from medsa_model.strategies.update import LARGEST_VALUE, Memory, Update

Strategy = Annotated[
    FedAvg | FedProx | FedAdam | FedYogi | FedExP | PrivateFedAvg, Field(discriminator="kind")
]

__all__ = [
    "LARGEST_VALUE",
    "FedAdam",
    "FedAvg",
    "FedExP",
    "FedProx",
    "FedYogi",
    "Krum",
    "Mean",
    "Median",
    "Memory",
    "MultiKrum",
    "NormBounded",
    "PrivateFedAvg",
    "Rule",
    "Strategy",
    "TrimmedMean",
    "Update",
    "weighted_mean",
]
