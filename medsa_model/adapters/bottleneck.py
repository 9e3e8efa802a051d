"""The adapter unit of Med-SA: down-projection, activation, up-projection.

Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, section 3. The activation
of the paper is ReLU, that of the authors' published weights GELU.
"""

from typing import Literal

from torch import Tensor, nn

Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class Bottleneck(nn.Module):
    """`(B, T, width)` to the same shape through `hidden` channels.

    The up-projection starts at zero, so an adapted model starts as the model it adapts. Dimension
    0 is the unit of privacy (a patient), never a window or a slice: gradients per row of dimension
    0 are then gradients per patient.
    """

    def __init__(self, width: int, hidden: int, activation: Activation = "relu") -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """What is to be added to `tokens (B, T, width)`."""
        out: Tensor = self.up(self.activation(self.down(tokens)))
        return out
