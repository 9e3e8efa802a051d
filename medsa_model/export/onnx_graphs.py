"""Encoder and decoder of an adapted model as two graphs that only take and give tensors.

They are `MedSam`'s own layers, for `torch.export`: parts of a prompt that may be missing are axes
that may have length 0, since a graph has no optional inputs and no branch on what is in a tensor.
SAM's decoder sees padding: without that axis its answer would be another than that of `MedSam`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medsa_model.prompts import PADDING, Prompt
from medsa_model.sam import MedSam


class EncoderGraph(nn.Module):
    """Pictures to embeddings: of images one by one, or of the slices of one volume together."""

    def __init__(self, model: MedSam) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings (B, C, h, w) of `image (B, 3, S, S)`, (D, C, h, w) of `(1, 3, D, S, S)`,
        float32 in [0, 255]."""
        if image.dim() == 4:
            return self.model.encode(image)
        return self.model.encode_volume(image).flatten(0, 1)


@dataclass(frozen=True)
class GraphPrompt:
    """The decoder's prompt, one row for each embedding; all coordinates in pixels of the frame.

    `points (B, N, 2) float32`, `labels (B, N) int64`: 1 on the structure, 0 off it, -1 padding.
    `boxes (B, K, 4) float32`: K is 0 or 1; a row of NaN has no box. `classes (B, M) int64`: numbers
    of structures asked for by name, -1 for none; M is 0 or 1.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor
    classes: Tensor


def graph_prompt(prompt: Prompt) -> GraphPrompt:
    """`prompt` for `DecoderGraph`.

    As SAM does, clicks get one padding point when there are no boxes.
    """
    points, labels, count = prompt.points, prompt.labels, len(prompt)
    boxes, classes = prompt.boxes, prompt.classes
    if boxes is None and points.shape[1]:
        points = torch.cat([points, points.new_zeros(count, 1, 2)], 1)
        labels = torch.cat([labels, labels.new_full((count, 1), PADDING)], 1)
    return GraphPrompt(
        points, labels,
        points.new_zeros(count, 0, 4) if boxes is None else boxes[:, None],
        labels.new_zeros(count, 0) if classes is None else classes[:, None],
    )  # fmt: skip


class DecoderGraph(MedSam):
    """`MedSam.decode` with the prompts of `GraphPrompt`; shares all layers with `model`."""

    def __init__(self, model: MedSam) -> None:
        super().__init__(model.sam, model.rasterised_prompts)
        self.class_embedding = model.class_embedding

    def forward(  # type: ignore[override]
        self, embedding: Tensor, points: Tensor, labels: Tensor, boxes: Tensor,
        classes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits (B, 1, S, S) and predicted IoU (B, 1) of `embedding (B, C, h, w)`.

        The others as in `GraphPrompt`; `classes` where names were learnt.
        """
        masks, iou = self.decode(embedding, Prompt(points, labels, boxes, classes))
        return self.to_frame(masks), iou

    def embed_prompt(self, prompt: Prompt, rows: int = 1) -> tuple[Tensor, Tensor]:
        """As `MedSam.embed_prompt`, of boxes (B, K, 4) and classes (B, M)."""
        encoder, boxes = self.sam.prompt_encoder, prompt.boxes
        assert boxes is not None
        count, every = boxes.shape[:2]
        missing = boxes.isnan().any(2, keepdim=True).expand(-1, -1, 2)
        of_corners = torch.arange(2, 4, device=boxes.device).expand(missing.shape)
        of_corners = of_corners.masked_fill(missing, PADDING).reshape(count, 2 * every)
        corners = boxes.nan_to_num().reshape(count, 2 * every, 2)
        points, labels = torch.cat([prompt.points, corners], 1), prompt.labels
        labels = torch.cat([labels, of_corners], 1)
        position = encoder.pe_layer.forward_with_coords(points + 0.5, encoder.input_image_size)
        nothing = encoder.not_a_point_embed.weight
        kinds = torch.cat([nothing, *(each.weight for each in encoder.point_embeddings)])
        sparse = torch.where((labels == PADDING)[..., None], 0.0, position) + kinds[labels + 1]
        if prompt.classes is not None and self.class_embedding is not None:
            names = self.class_embedding(prompt.classes.clamp(min=0))
            known = (prompt.classes >= 0)[..., None]
            sparse = torch.cat([sparse, torch.where(known, names, nothing)], 1)
        if self.rasterised_prompts:
            return sparse, encoder.mask_downscaling(self._drawn(prompt, boxes))
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return sparse, dense.expand(count, -1, *encoder.image_embedding_size)

    def _drawn(self, prompt: Prompt, boxes: Tensor) -> Tensor:
        """Clicks, and every box as a row of its own, drawn by `rasterise` (B, 1, h, w)."""
        clicks = self.rasterise(Prompt(prompt.points, prompt.labels))
        count, every = boxes.shape[:2]
        none = boxes.new_zeros(count * every, 0, 2), prompt.labels.new_zeros(count * every, 0)
        drawn = self.rasterise(Prompt(*none, boxes.reshape(count * every, 4)))
        return clicks + drawn.reshape(count, every, *clicks.shape[2:]).sum(1, keepdim=True)
