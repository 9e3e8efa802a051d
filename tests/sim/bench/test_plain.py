"""The plain model does the same work as ours: same logits, same gradients, same trained tensors."""

import copy

import pytest
import torch

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.losses import Loss
from medsa_model.sam import MedSam
from medsa_model.train import batch_loss
from sim.bench.models import made_up
from sim.bench.plain import PlainBlock, plain_copy

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def adapted(base: MedSam, depth: bool) -> MedSam:
    """`base` with adapters that do something: they start at zero otherwise."""
    Msa(depth=depth).inject(base, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(base).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return base


@pytest.mark.parametrize("slices", [0, 3])
def test_logits_and_gradients_are_ours(tiny, slices):
    ours = adapted(tiny.model, slices > 0)
    plain = plain_copy(ours)
    assert sum(isinstance(module, PlainBlock) for module in plain.modules()) == 6
    assert [*trained_parameters(plain)] == [*trained_parameters(ours)]
    batch = made_up(2, slices, 48, 7)
    torch.testing.assert_close(
        plain(batch.image, batch.prompt), ours(batch.image, batch.prompt), **CLOSE
    )
    for model in (plain, ours):
        batch_loss(model, batch, Loss().build(), torch.device("cpu")).backward()
    found, expected = trained_parameters(plain), trained_parameters(ours)
    for name, parameter in expected.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(found[name].grad, parameter.grad, **CLOSE)


def test_padding_is_projected(tiny):
    """Windows of 8 x 8 tokens for a frame of 6 x 6: the waste that is measured is there."""
    plain = plain_copy(adapted(tiny.model, False))
    seen = []
    block = plain.sam.image_encoder.blocks[0].block
    block.attn.qkv.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    plain.encode(made_up(1, 0, 48, 0).image)
    assert seen == [(1, 8, 8, 128)]


def test_a_copy_has_weights_of_its_own(tiny):
    ours = adapted(tiny.model, False)
    before = copy.deepcopy(ours.state_dict())
    with torch.no_grad():
        for parameter in plain_copy(ours).parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
