"""MedSam: the parts of an unmodified Segment Anything Model with a forward that can be trained.

`segment_anything.Sam.forward` runs without gradients, one image at a time. Here the same three
parts (image encoder, prompt encoder, mask decoder) run on batches of images with one prompt each.
Everything is in the model frame: S x S pixels, S a multiple of the patch size.

Reference: Kirillov et al. 2023, "Segment Anything", arXiv:2304.02643. This is the only module
that imports `segment_anything`.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsa_model.prompts import PADDING, Prompt


@dataclass(frozen=True)
class Architecture:
    """Sizes of one SAM. `official_file` carries the first digits of the file's sha256."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    patch: int
    window: int
    decoder_width: int
    decoder_mlp: int
    decoder_heads: int
    pretrained_size: int
    rasterised_prompts: bool
    official_file: str | None


ARCHITECTURES = {
    "vit_tiny": Architecture(128, 6, 4, (2, 5), 8, 8, 128, 512, 4, 128, True, None),
    "vit_b": Architecture(
        768, 12, 12, (2, 5, 8, 11), 16, 14, 256, 2048, 8, 1024, False, "sam_vit_b_01ec64.pth"
    ),
    "vit_l": Architecture(
        1024, 24, 16, (5, 11, 17, 23), 16, 14, 256, 2048, 8, 1024, False, "sam_vit_l_0b3195.pth"
    ),
    "vit_h": Architecture(
        1280, 32, 16, (7, 15, 23, 31), 16, 14, 256, 2048, 8, 1024, False, "sam_vit_h_4b8939.pth"
    ),
}


def build_sam(architecture: Architecture, image_size: int) -> Sam:
    """A SAM of the packaged modules with random weights for frames of `image_size` pixels."""
    grid = image_size // architecture.patch
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=architecture.patch,
            embed_dim=architecture.width,
            depth=architecture.depth,
            num_heads=architecture.heads,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=architecture.global_blocks,
            window_size=architecture.window,
            out_chans=architecture.decoder_width,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=architecture.decoder_width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=architecture.decoder_width,
                mlp_dim=architecture.decoder_mlp,
                num_heads=architecture.decoder_heads,
            ),
            transformer_dim=architecture.decoder_width,
            iou_head_depth=3,
            iou_head_hidden_dim=architecture.decoder_width,
        ),
    )


class MedSam(nn.Module):
    """Image and prompt to one mask per prompt.

    `sam` is a packaged model. `rasterised_prompts` also draws clicks and boxes into SAM's mask
    input: the small embedded model was pre-trained so, the official ones were not.
    """

    def __init__(self, sam: Sam, rasterised_prompts: bool) -> None:
        super().__init__()
        self.sam = sam
        self.class_embedding: nn.Embedding | None = None
        self.rasterised_prompts = rasterised_prompts
        self.recompute = False  # blocks in the backward pass, for want of memory; the same bits

    def learn_classes(self, count: int, seed: int) -> None:
        """Add an embedding for each of `count` structures that are asked for by name.

        They start near SAM's embedding of a positive click, as tokens that it knows.
        """
        click = self.sam.prompt_encoder.point_embeddings[1].weight.detach()
        noise = torch.randn(count, click.shape[1], generator=torch.Generator().manual_seed(seed))
        start = click + click.std() * noise.to(click)
        self.class_embedding = nn.Embedding.from_pretrained(start, freeze=False)

    @property
    def image_size(self) -> int:
        """Side S of the model frame in pixels."""
        return int(self.sam.image_encoder.img_size)

    def forward(self, image: Tensor, prompt: Prompt) -> Tensor:
        """Logits (B, 1, S, S) of `image (B, 3, S, S) float32 in [0, 255]`, one prompt an image.

        Volumes `image (B, 3, D, S, S)` give (B, 1, D, S, S), with one prompt a slice: B * D
        prompts, those of a volume one after the other.
        """
        if image.dim() == 4:
            logits, _ = self.decode(self.encode(image), prompt)
            return self.to_frame(logits)
        depth = image.shape[2]
        logits, _ = self.decode(self.encode_volume(image).flatten(0, 1), prompt, depth)
        volumes: Tensor = self.to_frame(logits).unflatten(0, (-1, depth))
        return volumes.transpose(1, 2)

    def encode(self, image: Tensor) -> Tensor:
        """Embedding (B, C, S/p, S/p) of `image (B, 3, S, S) float32 in [0, 255]`."""
        return self.encode_from(self.prefix(image))

    def encode_volume(self, image: Tensor) -> Tensor:
        """Embedding (B, D, C, S/p, S/p) of `image (B, 3, D, S, S) float32 in [0, 255]`."""
        slices = image.shape[2]
        embedding: Tensor = self.encode_from(self.prefix(image), slices)
        volumes: Tensor = embedding.unflatten(0, (-1, slices))
        return volumes

    @property
    def frozen_blocks(self) -> int:
        """How many of the encoder's first blocks come before everything that is trained."""
        encoder = self.sam.image_encoder
        before = [encoder.patch_embed, *encoder.blocks]
        trained = [any(p.requires_grad for p in module.parameters()) for module in before]
        trained[0] = trained[0] or encoder.pos_embed.requires_grad
        return max(0, trained.index(True) - 1) if any(trained) else len(encoder.blocks)

    def prefix(self, image: Tensor) -> Tensor:
        """Tokens (B * D, S/p, S/p, C) before the first block that is trained.

        `image (B, 3, S, S)` or, with the slices of a volume one after the other in the result,
        `(B, 3, D, S, S) float32 in [0, 255]`. A function of the frozen model, so it may be kept.
        """
        encoder = self.sam.image_encoder
        slices = image.shape[2] if image.dim() == 5 else 1
        flat = image.transpose(1, 2).flatten(0, 1) if image.dim() == 5 else image
        normalised = (flat - self.sam.pixel_mean) / self.sam.pixel_std
        # the convolution leaves channels first in memory, and every sum would keep them so
        tokens: Tensor = (encoder.patch_embed(normalised) + encoder.pos_embed).contiguous()
        return self._through(tokens, slices, 0, self.frozen_blocks)

    def encode_from(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """Embedding (B * slices, C, S/p, S/p) of what `prefix` gave.

        The packaged encoder's steps; blocks that see volumes (attribute `sees_volumes`) are told
        how many slices a volume has.
        """
        encoder = self.sam.image_encoder
        tokens = self._through(tokens, slices, self.frozen_blocks, len(encoder.blocks))
        # in memory too, as in the package: convolutions of channels that come last round otherwise
        embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2).contiguous())
        return embedding

    def _through(self, tokens: Tensor, slices: int, first: int, last: int) -> Tensor:
        """Blocks `first` to `last`, each computed again in the backward pass with `recompute`."""
        again = self.recompute and torch.is_grad_enabled() and first >= self.frozen_blocks
        for block in self.sam.image_encoder.blocks[first:last]:
            given = (tokens, slices) if _sees_volumes(block) else (tokens,)
            tokens = checkpoint(block, *given, use_reentrant=False) if again else block(*given)
        return tokens

    def decode(self, embedding: Tensor, prompt: Prompt, rows: int = 1) -> tuple[Tensor, Tensor]:
        """Mask logits (B, 1, 4S/p, 4S/p) and predicted IoU (B, 1) of `embedding (B, C, S/p, S/p)`.

        The packaged decoder's `multimask_output=False` output (mask token 0), computed for B
        images at once; the packaged method takes one image and several prompts. `rows`
        consecutive images belong to one volume, or to one image with several prompts: adapters
        have the volume as dimension 0. The answer does not depend on it.
        """
        decoder, count = self.sam.mask_decoder, len(prompt)
        sparse, dense = self.embed_prompt(prompt, rows)
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([tokens.expand(count, -1, -1), sparse], dim=1)
        source = embedding + dense
        position = self.sam.prompt_encoder.get_dense_pe().expand(count, -1, -1, -1)
        hidden, source = self._two_way(source, position, tokens, self.mean_prompt(sparse), rows)
        source = source.transpose(1, 2).reshape(embedding.shape)
        upscaled = decoder.output_upscaling(source)
        # All four masks, of which one is kept: costs nothing, and the same product as the package's
        # keeps the result equal to it bit for bit.
        networks = enumerate(decoder.output_hypernetworks_mlps, start=1)
        weights = torch.stack([network(hidden[:, token]) for token, network in networks], dim=1)
        masks = (weights @ upscaled.flatten(2)).view(count, -1, *upscaled.shape[-2:])
        return masks[:, :1], decoder.iou_prediction_head(hidden[:, 0])[:, :1]

    def _two_way(
        self, source: Tensor, position: Tensor, tokens: Tensor, prompt: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        """The packaged two-way transformer's steps; adapted layers also get `prompt` and `rows`."""
        transformer = self.sam.mask_decoder.transformer
        keys, position = source.flatten(2).permute(0, 2, 1), position.flatten(2).permute(0, 2, 1)
        queries = tokens
        for layer in transformer.layers:
            more = {"prompt": prompt, "rows": rows} if _sees_volumes(layer) else {}
            queries, keys = layer(queries, keys, query_pe=tokens, key_pe=position, **more)
        final = transformer.final_attn_token_to_image
        more = {"rows": rows} if _sees_volumes(final) else {}
        attended = final(q=queries + tokens, k=keys + position, v=keys, **more)
        hidden: Tensor = transformer.norm_final_attn(queries + attended)
        return hidden, keys

    def mean_prompt(self, sparse: Tensor) -> Tensor:
        """Mean (B, C) of the clicks and box corners among `sparse (B, T, C)`; zeros without any.

        Padding does not count: it is SAM's "not a point" token, exactly.
        """
        padding = self.sam.prompt_encoder.not_a_point_embed.weight
        valid = (sparse != padding).any(-1, keepdim=True)
        mean: Tensor = (sparse * valid).sum(1) / valid.sum(1).clamp(min=1)
        return mean

    def to_frame(self, logits: Tensor) -> Tensor:
        """Resize decoder logits (B, 1, h, w) to the model frame (B, 1, S, S), bilinear as SAM."""
        size = (self.image_size, self.image_size)
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)

    def embed_prompt(self, prompt: Prompt, rows: int = 1) -> tuple[Tensor, Tensor]:
        """Sparse (B, T, C) and dense (B, C, S/p, S/p) embeddings, as SAM's prompt encoder.

        Unlike the packaged method, the images of a batch may differ in kind of prompt: a missing
        point or box becomes SAM's own "not a point" token. `rows` as in `decode`.
        """
        encoder = self.sam.prompt_encoder
        points, labels = prompt.points, prompt.labels
        count = len(prompt)
        if prompt.boxes is None:
            if points.shape[1]:  # SAM appends one padding point when there is no box
                points = torch.cat([points, points.new_zeros(count, 1, 2)], 1)
                labels = torch.cat([labels, labels.new_full((count, 1), PADDING)], 1)
        else:
            missing = prompt.boxes.isnan().any(1, keepdim=True)
            corners = prompt.boxes.nan_to_num().view(count, 2, 2)
            points = torch.cat([points, corners], 1)
            corner_labels = torch.arange(2, 4, device=labels.device).expand(count, -1)
            labels = torch.cat([labels, corner_labels.masked_fill(missing, PADDING)], 1)
        position = encoder.pe_layer.forward_with_coords(points + 0.5, encoder.input_image_size)
        embeddings = [encoder.not_a_point_embed, *encoder.point_embeddings]
        kinds = torch.cat([embedding.weight for embedding in embeddings])
        sparse = torch.where((labels == PADDING)[..., None], 0.0, position) + kinds[labels + 1]
        if prompt.classes is not None:
            sparse = torch.cat([sparse, self._named(prompt.classes, rows)[:, None]], 1)
        if self.rasterised_prompts:
            return sparse, encoder.mask_downscaling(self.rasterise(prompt))
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return sparse, dense.expand(count, -1, *encoder.image_embedding_size)

    def _named(self, classes: Tensor, rows: int) -> Tensor:
        """Embeddings (B, C) of structures by number; of -1, SAM's "not a point" token."""
        if self.class_embedding is None:
            raise ValueError("a structure is asked for by name, but the model has learnt no names")
        known = (classes >= 0)[:, None]
        nothing = self.sam.prompt_encoder.not_a_point_embed.weight
        by_volume = self.class_embedding(classes.clamp(min=0).unflatten(0, (-1, rows)))
        return torch.where(known, by_volume.flatten(0, 1), nothing)

    def rasterise(self, prompt: Prompt) -> Tensor:
        """Draw clicks and boxes as a mask input (B, 1, 4S/p, 4S/p).

        A box is a soft plateau of +2, a positive click a Gaussian of -2 and a negative click one
        of +4 (1.5 cells wide): distinct values, so that the first convolutions can tell them.
        """
        height, width = self.sam.prompt_encoder.mask_input_size
        cell = self.image_size / width
        x = (torch.arange(width, device=prompt.points.device) + 0.5).view(1, 1, 1, -1) * cell
        y = (torch.arange(height, device=prompt.points.device) + 0.5).view(1, 1, -1, 1) * cell
        centre = prompt.points[..., None, None] + 0.5  # (B, N, 2, 1, 1)
        squared = (x - centre[:, :, 0]) ** 2 + (y - centre[:, :, 1]) ** 2
        height_of = torch.tensor([0.0, 4.0, -2.0], device=squared.device)  # padding, off, on
        amount = height_of[prompt.labels + 1][..., None, None]
        picture = (amount * torch.exp(-squared / (2 * (1.5 * cell) ** 2))).sum(1, keepdim=True)
        if prompt.boxes is not None:
            x0, y0, x1, y1 = prompt.boxes.view(-1, 4, 1, 1, 1).unbind(1)
            inside_x = torch.sigmoid((x - x0) / cell) * torch.sigmoid((x1 + 1 - x) / cell)
            inside_y = torch.sigmoid((y - y0) / cell) * torch.sigmoid((y1 + 1 - y) / cell)
            picture = picture + 2 * (inside_x * inside_y).nan_to_num()
        return picture


def relative_positions(length: int, table: Tensor) -> Tensor:
    """Embeddings (length, length, c) of the distance from each query to each key along an axis.

    `table (2 * length - 1, c)`; one of another length is resized, as SAM does.
    """
    positions: Tensor = get_rel_pos(length, length, table)
    return positions


def _sees_volumes(module: nn.Module) -> bool:
    return getattr(module, "sees_volumes", False) is True
