"""MedSam against the packaged SAM, and its prompts."""

import pytest
import torch
from torch import Tensor

from medsa_model.backbone import load_base
from medsa_model.prompts import Prompt, collate
from medsa_model.sam import MedSam

CLICK = ([(10.0, 20.0)], [1], None)
CLICKS = ([(10.0, 20.0), (30.0, 5.0)], [1, 0], None)
BOX = ([], [], (4.0, 6.0, 30.0, 41.0))


def packaged(model: MedSam, image: Tensor, prompt: Prompt) -> Tensor:
    """Logits (1, 1, S, S) of the unmodified package for one image."""
    sam = model.sam
    embedding = sam.image_encoder(sam.preprocess(image))
    points = (prompt.points, prompt.labels) if prompt.points.shape[1] else None
    masks = model.rasterise(prompt) if model.rasterised_prompts else None
    sparse, dense = sam.prompt_encoder(points=points, boxes=prompt.boxes, masks=masks)
    logits, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    size = (model.image_size, model.image_size)
    return sam.postprocess_masks(logits, size, size)


@pytest.mark.parametrize("row", [CLICK, CLICKS, BOX], ids=["click", "clicks", "box"])
@pytest.mark.parametrize("rasterised", [True, False])
@torch.no_grad()
def test_one_image_equals_the_package_bit_for_bit(row, rasterised, tiny):
    model = MedSam(tiny.model.sam, rasterised)
    image = 255 * torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    prompt = collate([row])
    assert torch.equal(model(image, prompt), packaged(model, image, prompt))


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(tiny):
    images = 255 * torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    rows = [CLICK, CLICK, CLICK]
    together = tiny.model(images, collate(rows))
    for number, row in enumerate(rows):
        alone = packaged(tiny.model, images[number : number + 1], collate([row]))
        torch.testing.assert_close(together[number : number + 1], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_volume_equals_its_slices_one_by_one(tiny):
    image = 255 * torch.rand(2, 3, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    rows = [CLICK, CLICKS, BOX, BOX, CLICK, CLICKS]
    found = tiny.model(image, collate(rows))
    assert found.shape == (2, 1, 3, 48, 48)
    for number, row in enumerate(rows):
        volume, z = divmod(number, 3)
        prompt = collate([*rows, row])  # padded as in the batch
        prompt = Prompt(prompt.points[-1:], prompt.labels[-1:], prompt.boxes[-1:])
        alone = tiny.model(image[volume, None, :, z], prompt)
        torch.testing.assert_close(found[volume, :, z], alone[0], atol=1e-4, rtol=1e-4)
    flat = tiny.model.encode(image.transpose(1, 2).flatten(0, 1))
    assert torch.equal(tiny.model.encode_volume(image).flatten(0, 1), flat)


@torch.no_grad()
def test_a_missing_box_in_a_mixed_batch_is_sams_padding_token(tiny):
    sparse, _ = tiny.model.embed_prompt(collate([CLICK, BOX]))
    padding = tiny.model.sam.prompt_encoder.not_a_point_embed.weight[0]
    assert torch.equal(sparse[0, 1], padding) and torch.equal(sparse[0, 2], padding)
    assert torch.equal(sparse[1, 0], padding)


@torch.no_grad()
def test_no_prompt_has_no_tokens(tiny):
    model = MedSam(tiny.model.sam, rasterised_prompts=False)
    sparse, _ = model.embed_prompt(collate([([], [], None)]))
    assert sparse.shape[1] == 0


def test_clicks_are_drawn_at_x_y_not_at_row_column(tiny):
    picture = tiny.model.rasterise(collate([([(40.0, 8.0)], [1], None)]))[0, 0]
    row, column = divmod(int(picture.argmin()), picture.shape[1])
    scale = 48 / picture.shape[1]
    assert abs(column * scale - 40) <= scale and abs(row * scale - 8) <= scale


def test_negative_clicks_and_boxes_are_drawn_apart_from_positive_clicks(tiny):
    negative = tiny.model.rasterise(collate([([(20.0, 20.0)], [0], None)]))
    box = tiny.model.rasterise(collate([BOX]))
    assert negative.max() > 3 and 1.5 < box.max() < 2.5 and box.min() >= 0


def test_image_gradients_do_not_cross_the_batch(tiny):
    images = (255 * torch.rand(2, 3, 48, 48)).requires_grad_()
    tiny.model(images, collate([CLICK, CLICK]))[0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().sum() > 0 and images.grad[1].abs().sum() == 0


def test_any_frame_size_that_the_patch_divides():
    for size in (40, 64):
        model = load_base("vit_tiny", size, None, "pretrained", 0).model
        assert model(torch.zeros(1, 3, size, size), collate([CLICK])).shape == (1, 1, size, size)


NONE = ([], [], None)


def test_names_learn_only_where_they_are_asked(tiny):
    tiny.model.learn_classes(4, 0)
    assert tiny.model.class_embedding is not None
    image = 255 * torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    tiny.model(image, collate([NONE, CLICK, NONE], [2, -1, 1])).square().mean().backward()
    gradient = tiny.model.class_embedding.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).gt(0).tolist() == [False, True, True, False]


@torch.no_grad()
def test_no_name_is_padding_and_a_name_is_heard(tiny):
    tiny.model.learn_classes(3, 0)
    sparse, _ = tiny.model.embed_prompt(collate([CLICK, NONE], [-1, 2]))
    padding = tiny.model.sam.prompt_encoder.not_a_point_embed.weight[0]
    assert tiny.model.class_embedding is not None
    names = tiny.model.class_embedding.weight
    assert torch.equal(sparse[0, -1], padding) and torch.equal(sparse[1, -1], names[2])
    alone, _ = tiny.model.embed_prompt(collate([CLICK]))
    mean = tiny.model.mean_prompt(sparse)
    torch.testing.assert_close(mean[0], tiny.model.mean_prompt(alone)[0])
    torch.testing.assert_close(mean[1], names[2])
    image = torch.full((2, 3, 48, 48), 99.0)
    one, other = tiny.model(image, collate([NONE, NONE], [0, 1]))
    assert not torch.allclose(one, other)


def test_a_model_without_names_says_so(tiny):
    with pytest.raises(ValueError, match="the model has learnt no names"):
        tiny.model(torch.zeros(1, 3, 48, 48), collate([NONE], [0]))


def test_names_begin_near_a_click_as_the_seed_says_and_draw_nothing_else(tiny):
    before = torch.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        tiny.model.learn_classes(5, seed)
        weights.append(tiny.model.class_embedding.weight.detach().clone())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    click = tiny.model.sam.prompt_encoder.point_embeddings[1].weight.detach()
    assert weights[0].shape == (5, click.shape[1])
    spread = (weights[0] - click).std() / click.std()
    assert 0.8 < spread < 1.2
    assert tiny.model.class_embedding.weight.requires_grad
    assert (weights[0][0] != weights[0][1]).all()
