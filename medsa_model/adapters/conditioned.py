"""HyP-Adpt: a bottleneck whose middle depends on the prompt.

`e` is the reduced embedding of a token and `p` the mean prompt of its row:

    hyper    e = ReLU(LayerNorm(e @ W_k)),  W_k = reshape(M_k(p)),  for k = 1..K
    add      e = ReLU(LayerNorm(e + M(p)))
    concat   e = ReLU(LayerNorm(M([e, p])))

Wu et al. 2025, "Medical SAM Adapter", Medical Image Analysis 102:103547, section 3. The paper
names neither K nor how several clicks become one `p`: `MedSam.mean_prompt` is ours. LayerNorm and
not BatchNorm: it has no running figures of patients, and it can be averaged between sites.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Condition = Literal["none", "add", "concat", "hyper"]


class ConditionedBottleneck(nn.Module):
    """`tokens (B, rows, T, width)` and `prompt (B, rows, width)` to the shape of `tokens`.

    The up-projection starts at zero, and normed features are never all zero, so it gets a gradient
    in the first step and everything before it in the second. The weight maps of `hyper` start near
    the identity: it is the bias of M, beside weights that change about a tenth of a feature.
    """

    def __init__(self, width: int, hidden: int, condition: Condition, steps: int) -> None:
        super().__init__()
        self.condition = condition
        self.down = nn.Linear(width, hidden)
        into = hidden + width if condition == "concat" else width
        out = hidden * hidden if condition == "hyper" else hidden
        self.maps = nn.ModuleList(nn.Linear(into, out) for _ in range(steps))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(steps))
        self.activation = nn.ReLU()
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        if condition == "hyper":
            self._start_near_identity(width, hidden)

    def _start_near_identity(self, width: int, hidden: int) -> None:
        for layer in self.maps.children():
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.1 * (width * hidden) ** -0.5)
            with torch.no_grad():
                layer.bias.copy_(torch.eye(hidden, device=layer.bias.device).flatten())

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """What is to be added to `tokens`."""
        reduced: Tensor = self.down(tokens)
        for layer, norm in zip(self.maps, self.norms, strict=True):
            reduced = self.activation(norm(self._conditioned(layer, reduced, prompt)))
        out: Tensor = self.up(reduced)
        return out

    def _conditioned(self, layer: nn.Module, reduced: Tensor, prompt: Tensor) -> Tensor:
        """One step before its norm: `reduced (B, rows, T, hidden)` to the same shape."""
        if self.condition == "concat":
            repeated = prompt[:, :, None].expand(*reduced.shape[:-1], -1)
            out: Tensor = layer(torch.cat([reduced, repeated], -1))
            return out
        made: Tensor = layer(prompt)
        if self.condition == "add":
            return reduced + made[:, :, None]
        weights: Tensor = made.unflatten(-1, (reduced.shape[-1], -1))
        return reduced @ weights
