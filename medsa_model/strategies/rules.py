"""How the updates of a round become one state: the mean, or a rule that holds against faulty sites.

Each rule has `combine(current, updates, weighting)` and `least_updates`, the number of updates
below which it promises nothing. It promises something about one round: sites that agree to lie a
little in every round are not found out. The union is the registry.
"""

from typing import Annotated

from pydantic import Field

from medsa_model.strategies.krum import Krum, MultiKrum
from medsa_model.strategies.mean import Mean
from medsa_model.strategies.median import Median
from medsa_model.strategies.norm_bounded import NormBounded
from medsa_model.strategies.trimmed_mean import TrimmedMean

Rule = Annotated[
    Mean | Median | TrimmedMean | NormBounded | Krum | MultiKrum, Field(discriminator="kind")
]
