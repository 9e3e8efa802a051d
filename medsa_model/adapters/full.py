"""No adapter: every parameter is trained and sent. A reference for comparisons only."""

from typing import Literal

from medsa_model.sam import MedSam
from medsa_model.section import Section


class Full(Section):
    """Full fine-tuning, or training from scratch when `model.weights` is `random`."""

    kind: Literal["full"] = "full"

    def inject(self, model: MedSam, seed: int) -> None:
        """Make every parameter that one mask per prompt uses trainable, in place."""
        model.requires_grad_(True)
        decoder, encoder = model.sam.mask_decoder, model.sam.prompt_encoder
        decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
        decoder.iou_prediction_head.requires_grad_(False)
        unused = encoder.no_mask_embed if model.rasterised_prompts else encoder.mask_downscaling
        unused.requires_grad_(False)
