"""Which rows of a tensor belong to one patient's image or volume.

SAM works on rows: a row is one slice in the encoder and one prompt in the decoder. A layer that
is trained must be called with the image or the volume as dimension 0, because gradients per row of
dimension 0 are what differential privacy clips.
"""

from collections.abc import Callable

from torch import Tensor


def per_volume(layer: Callable[[Tensor], Tensor], tokens: Tensor, rows: int) -> Tensor:
    """Call a token-wise `layer` with (B, all tokens of a volume, C).

    `tokens (B * rows, ..., C)`: `rows` consecutive ones belong to one volume. Returns
    (B * rows, ..., C') in the order of `tokens`.
    """
    out = layer(tokens.reshape(tokens.shape[0] // rows, -1, tokens.shape[-1]))
    return out.reshape(*tokens.shape[:-1], -1)
