"""How much is trained and sent, for every backbone and every kind of adapter.

    python -m medsa_model.parameter_table

Prints a Markdown table. Models are built without memory for their weights (PyTorch's device
`meta`), at the frame size that the backbone was pre-trained with.
"""

from dataclasses import dataclass

import torch

from medsa_model.adapters import Adapter, Lora, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.sam import ARCHITECTURES, MedSam, build_sam

ADAPTERS: dict[str, Adapter] = {
    "msa 1/16": Msa(ratio=1 / 16),
    "msa 1/16, encoder only": Msa(ratio=1 / 16, decoder_width=0),
    "msa 1/16, hyper": Msa(ratio=1 / 16, condition="hyper"),
    "msa 1/16, depth": Msa(ratio=1 / 16, depth=True),
    "msa 1/16, hyper, depth": Msa(ratio=1 / 16, condition="hyper", depth=True),
    "msa 1/4": Msa(),
    "msa 1/4, hyper": Msa(condition="hyper"),
    "msa 1/4, depth": Msa(depth=True),
    "msa 1/4, hyper, depth": Msa(condition="hyper", depth=True),
    "lora rank 4": Lora(),
    "lora rank 4, frozen A": Lora(frozen_a=True),
}


@dataclass(frozen=True)
class Count:
    """Parameters of one model: of the base, and trained (which are those that are sent)."""

    base: int
    trained: int

    @property
    def percent(self) -> float:
        """Trained parameters, of those of the base and the trained ones together."""
        return 100 * self.trained / (self.base + self.trained)

    @property
    def megabytes(self) -> float:
        """Size of a message in million bytes, at four bytes a parameter."""
        return 4 * self.trained / 1e6


def count(backbone: str, adapter: Adapter) -> Count:
    """Count the parameters of an adapted backbone without allocating them."""
    architecture = ARCHITECTURES[backbone]
    with torch.device("meta"):
        sam = build_sam(architecture, architecture.pretrained_size)
        base = sum(parameter.numel() for parameter in sam.parameters())
        model = MedSam(sam, architecture.rasterised_prompts)
        adapter.inject(model, 0)
    return Count(base, sum(parameter.numel() for parameter in trained_parameters(model).values()))


def table() -> str:
    """The table in Markdown, one line for each backbone and adapter."""
    lines = [
        "| backbone | adapter | trained and sent | share of all | as float32 |",
        "|---|---|--:|--:|--:|",
    ]
    for backbone in ARCHITECTURES:
        for name, adapter in ADAPTERS.items():
            found = count(backbone, adapter)
            lines.append(
                f"| {backbone} | {name} | {found.trained / 1e6:.3f} M | {found.percent:.2f} % "
                f"| {found.megabytes:.2f} MB |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
