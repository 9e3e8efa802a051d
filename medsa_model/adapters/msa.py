"""Medical SAM Adapter: bottlenecks in the encoder and in the mask decoder, the rest frozen."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from medsa_model.adapters.bottleneck import Activation
from medsa_model.adapters.conditioned import Condition
from medsa_model.adapters.decoder import adapt_decoder
from medsa_model.adapters.depth import Blocks, chosen_blocks
from medsa_model.adapters.encoder import adapt_encoder
from medsa_model.adapters.freeze import freeze
from medsa_model.sam import MedSam
from medsa_model.section import Section


class Msa(Section):
    """Med-SA adapters; only they are trained and sent."""

    kind: Literal["msa"] = "msa"
    blocks: Blocks = "all"
    """Adapted blocks of the encoder: `all`, `last-3` (the last three; any number), or a list of
    numbers from 0. What comes before the first of them is computed once for a case and kept."""
    ratio: float = Field(0.25, gt=0, le=1)
    """Hidden channels of an encoder adapter, as a share of the block's width."""
    scale: float = Field(0.5, gt=0, le=10)
    """Factor of the adapters that run parallel to an MLP."""
    decoder_width: int = Field(32, ge=0, le=1024)
    """Hidden channels of a decoder adapter; 0: no adapters in the decoder."""
    train_decoder: bool = False
    """Also train and send the whole mask decoder, as the public Med-SA code does."""
    depth: bool = False
    """For volumes: an adapter more in every encoder block, on attention across slices."""
    condition: Condition = "none"
    """How the prompt acts on the first adapter of a decoder block: by weight maps made from it
    (`hyper`, HyP-Adpt of the paper), by addition (`add`), by joining (`concat`), or not."""
    condition_steps: int = Field(1, ge=1, le=3)
    """Weight maps of `hyper`, one after the other."""
    activation: Activation = "relu"
    """Between the projections of an encoder adapter: `relu` as in the paper, or `gelu` as in the
    authors' published weights, which `medsa-export import` reads."""

    @model_validator(mode="after")
    def _condition_has_a_place(self) -> Self:
        if self.condition != "none" and self.decoder_width < 2:
            raise ValueError(
                f"condition {self.condition} acts inside the decoder adapters, but decoder_width "
                f"is {self.decoder_width}; expected 2 or more, or condition none"
            )
        if self.condition_steps > 1 and self.condition != "hyper":
            raise ValueError(
                f"condition_steps is {self.condition_steps}, but only condition hyper has several "
                f"steps, found {self.condition}; leave condition_steps out, or take hyper"
            )
        return self

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
            encoder = model.sam.image_encoder
            adapted = chosen_blocks(self.blocks, len(encoder.blocks))
            adapt_encoder(encoder, self.ratio, self.scale, self.depth, adapted, self.activation)
            if self.decoder_width:
                adapt_decoder(
                    decoder, self.decoder_width, self.scale, self.condition, self.condition_steps
                )
