"""How the sites' states become the next global state: pure functions; the union is the registry."""

from typing import Annotated

from pydantic import Field

from medsa_model.strategies.fedadam import FedAdam
from medsa_model.strategies.fedavg import FedAvg
from medsa_model.strategies.fedexp import FedExP
from medsa_model.strategies.fedprox import FedProx
from medsa_model.strategies.mean import Memory, Update, weighted_mean
from medsa_model.strategies.private_fedavg import PrivateFedAvg

Strategy = Annotated[
    FedAvg | FedProx | FedAdam | FedExP | PrivateFedAvg, Field(discriminator="kind")
]

__all__ = [
    "FedAdam",
    "FedAvg",
    "FedExP",
    "FedProx",
    "Memory",
    "PrivateFedAvg",
    "Strategy",
    "Update",
    "weighted_mean",
]
