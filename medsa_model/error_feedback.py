"""What rounding leaves out of an update goes into the next one.

Seide et al. 2014, "1-bit stochastic gradient descent", section 3; Karimireddy et al. 2019, "Error
feedback fixes SignSGD and other gradient compression schemes", algorithm 1. With the trained
state x, the residue e of the round before and the coding C,

    sent = C(x + e),    e' = x + e - sent

so that what is sent over all rounds misses what was trained by the last residue alone.

Under differential privacy the residue tells nothing more of the patients: it is computed from
states that DP-SGD has put out, whose noise is in them, and from global states. No image and no
gradient comes near it, and what is computed from a private result is as private as that
(post-processing, Dwork and Roth 2014, proposition 2.1).
"""

import torch

from medsa_model.state import AdapterState
from medsa_model.update_coding import Shapes, decode, encode


def encode_with_feedback(
    trained: AdapterState, residue: AdapterState, reference: AdapterState, shapes: Shapes,
    kind: str,
) -> tuple[bytes, AdapterState]:  # fmt: skip
    """The bytes to send, and the new residue, float32 and finite; all states have `shapes`.

    A state that is not finite is sent as such and leaves zeros.
    """
    wanted = {name: trained[name].double() + residue[name].double() for name in shapes}
    target = {name: value.float() for name, value in wanted.items()}
    data = encode(target, reference, shapes, kind)
    sent = decode(data, reference, shapes, kind, unchecked=True)
    left = {name: (value - sent[name].double()).float() for name, value in wanted.items()}
    if not all(bool(value.isfinite().all()) for value in left.values()):
        return data, zeros(shapes)
    return data, left


def zeros(shapes: Shapes) -> AdapterState:
    """The residue of who has sent nothing yet."""
    return {name: torch.zeros(shape) for name, shape in shapes.items()}
