"""Ways to adapt the frozen model; the union is the registry."""

from typing import Annotated

from pydantic import Field

from medsa_model.adapters.full import Full
from medsa_model.adapters.lora import Lora
from medsa_model.adapters.msa import Msa

Adapter = Annotated[Msa | Lora | Full, Field(discriminator="kind")]

__all__ = ["Adapter", "Full", "Lora", "Msa"]
