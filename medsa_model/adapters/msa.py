"""Medical SAM Adapter: bottlenecks in the encoder and in the mask decoder, the rest frozen."""

from typing import Literal

import torch
from pydantic import Field

from medsa_model.adapters.decoder import adapt_decoder
from medsa_model.adapters.encoder import adapt_encoder
from medsa_model.adapters.freeze import freeze
from medsa_model.sam import MedSam
from medsa_model.section import Section


class Msa(Section):
    """Med-SA adapters; only they are trained and sent."""

    kind: Literal["msa"] = "msa"
    ratio: float = Field(0.25, gt=0, le=1)
    """Hidden channels of an encoder adapter, as a share of the block's width."""
    scale: float = Field(0.5, gt=0, le=10)
    """Factor of the adapters that run parallel to an MLP."""
    decoder_width: int = Field(32, ge=0, le=1024)
    """Hidden channels of a decoder adapter; 0: no adapters in the decoder."""
    train_decoder: bool = False
    """Also train and send the whole mask decoder, as the public Med-SA code does."""

    def inject(self, model: MedSam, seed: int) -> None:
        """Freeze `model` and add adapters, in place; their weights are a function of `seed`."""
        freeze(model)
        decoder = model.sam.mask_decoder
        if self.train_decoder:
            decoder.requires_grad_(True)
            # what a single mask per prompt never uses must not be sent
            decoder.output_hypernetworks_mlps[1:].requires_grad_(False)
            decoder.iou_prediction_head.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapt_encoder(model.sam.image_encoder, self.ratio, self.scale)
            if self.decoder_width:
                adapt_decoder(decoder, self.decoder_width, self.scale)
