"""The adapter unit of Med-SA: down-projection, ReLU, up-projection.

Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, section 3.
"""

from torch import Tensor, nn


class Bottleneck(nn.Module):
    """`(B, T, width)` to the same shape through `hidden` channels.

    The up-projection starts at zero, so an adapted model starts as the model it adapts. Dimension
    0 is the unit of privacy (a patient), never a window or a slice: gradients per row of dimension
    0 are then gradients per patient.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.activation = nn.ReLU()
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """What is to be added to `tokens (B, T, width)`."""
        out: Tensor = self.up(self.activation(self.down(tokens)))
        return out
