"""DP-SGD against loops over single patients, in every kind of adapter; its noise and sampling."""

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

from medsa_model.adapters import Full, Lora, Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.data.frames import Batch
from medsa_model.errors import PrivacyError
from medsa_model.losses import Loss
from medsa_model.privacy.dp_sgd import (
    check_buffers,
    check_gradients,
    find_gradients,
    hooked,
    private_steps,
)
from medsa_model.privacy.made_up import made_up
from medsa_model.prompts import Box, ByClass, Click, Clicks
from medsa_model.train import batch_loss

KINDS = (Click(), Clicks(), Box(), ByClass())
CPU = torch.device("cpu")
ADAPTERS = {
    "msa": Msa(),
    "add": Msa(condition="add"),
    "concat": Msa(condition="concat"),
    "hyper": Msa(condition="hyper", condition_steps=2),
    "lora": Lora(),
    "lora qkv": Lora(targets="qkv"),
    "ffa": Lora(frozen_a=True),
}
DEEP = {"depth": Msa(depth=True), "depth hyper": Msa(depth=True, condition="hyper"), "lora": Lora()}


def smooth(model: nn.Module) -> None:
    """GELU for ReLU: at a kink, rounding alone would decide whether a gradient is there."""
    for module in model.modules():
        for name in ("activation", "act"):
            if isinstance(getattr(module, name, None), nn.ReLU):
                setattr(module, name, nn.GELU())


def adapted(tiny, section) -> nn.Module:
    """With changes at every place, of which none is zero."""
    tiny.model.learn_classes(3, 0)
    section.inject(tiny.model, 0)
    tiny.model.class_embedding.requires_grad_(True)
    smooth(tiny.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(tiny.model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return tiny.model


def volumes(part: Sequence[int], views: int) -> Batch:
    """The made-up images of a patient as the slices of a volume."""
    flat = made_up(part, 48, KINDS, views, 3)
    image = flat.image.unflatten(0, (len(part), views)).transpose(1, 2)
    return Batch(image, flat.mask, flat.prompt, flat.owner, flat.seed)


def alone(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The plain gradient, of a batch with one patient."""
    model.zero_grad()
    batch_loss(model, batch, Loss().build(), CPU).backward()
    return {name: p.grad.clone() for name, p in trained_parameters(model).items()}


def by_hooks(model: nn.Module, batch: Batch, patients: int) -> dict[str, Tensor]:
    parameters = trained_parameters(model)

    def loss_of(part: Sequence[int]) -> Tensor:
        return len(part) * batch_loss(model, batch, Loss().build(), CPU, patients=len(part))

    with hooked(model):
        find_gradients(parameters, loss_of, range(patients), hooks=True)
        return {name: p.grad_sample.clone() for name, p in parameters.items()}


def assert_each_patients_own(model: nn.Module, found, singles: list[dict[str, Tensor]]) -> None:
    assert found.keys() == trained_parameters(model).keys()
    for name, together in found.items():
        assert together.shape == (len(singles), *singles[0][name].shape), name
        for patient, single in enumerate(singles):
            expected = single[name]
            limit = 1e-4 * expected.norm() + 1e-8
            assert (together[patient] - expected).norm() <= limit, (name, patient)
            assert expected.norm() > 0, name


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_hooks_give_the_gradient_of_each_patient_alone(kind, views, tiny):
    model = adapted(tiny, ADAPTERS[kind])
    singles = [alone(model, made_up([patient], 48, KINDS, views, 3)) for patient in range(3)]
    found = by_hooks(model, made_up(range(3), 48, KINDS, views, 3), 3)
    assert_each_patients_own(model, found, singles)


@pytest.mark.parametrize("kind", DEEP)
def test_hooks_give_the_gradient_of_each_volume_alone(kind, tiny):
    model = adapted(tiny, DEEP[kind])
    singles = [alone(model, volumes([patient], 3)) for patient in range(2)]
    found = by_hooks(model, volumes(range(2), 3), 2)
    assert_each_patients_own(model, found, singles)


def test_the_production_check_passes_and_puts_parameters_back(tiny):
    model = adapted(tiny, Msa(condition="hyper"))
    parameters = trained_parameters(model)
    before = {name: p.detach().clone() for name, p in parameters.items()}

    def loss_of(part):
        batch = made_up(part, 48, KINDS, 1, 3)
        return len(part) * batch_loss(model, batch, Loss().build(), CPU, patients=len(part))

    with hooked(model):
        check_gradients(parameters, loss_of, 2)
    assert all(torch.equal(before[name], p) for name, p in parameters.items())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


@pytest.mark.parametrize("fault", ["window", "slice", "mixed"])
def test_the_production_check_names_the_tensor_of_a_wrong_layer(fault, tiny):
    """A layer that sees windows, slices or other patients as its samples."""
    model = adapted(tiny, Msa())

    class Wrong(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, tokens: Tensor) -> Tensor:
            if fault == "mixed":
                return self.inner(tokens + tokens.mean(0, keepdim=True))
            parts = 2 if fault == "slice" else 4
            return self.inner(tokens.reshape(parts * len(tokens), -1, tokens.shape[-1])).reshape(
                tokens.shape
            )

    block = model.sam.image_encoder.blocks[0]
    name, adapter = next(
        (n, m) for n, m in block.named_children() if type(m).__name__ == "Bottleneck"
    )
    setattr(block, name, Wrong(adapter))
    parameters = trained_parameters(model)

    def loss_of(part):
        batch = made_up(part, 48, KINDS, 1, 3)
        return len(part) * batch_loss(model, batch, Loss().build(), CPU, patients=len(part))

    with hooked(model), pytest.raises(PrivacyError, match=r"(inner|blocks\.0).*privacy\.method"):
        check_gradients(parameters, loss_of, 2)


def test_a_tensor_that_hooks_do_not_see_is_refused_by_name(tiny):
    Full().inject(tiny.model, 0)
    parameters = trained_parameters(tiny.model)

    def loss_of(part):
        batch = made_up(part, 48, (Click(), Box()), 1, 1)
        return len(part) * batch_loss(tiny.model, batch, Loss().build(), CPU, patients=len(part))

    with hooked(tiny.model), pytest.raises(PrivacyError, match=r"sam.*privacy\.method to loop"):
        check_gradients(parameters, loss_of, 2)


def test_a_buffer_that_learns_is_refused_by_name(tiny):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, affine=False))
    image = torch.rand(2, 3, 4, 4)
    with pytest.raises(PrivacyError, match=r"1\.num_batches_tracked"):
        check_buffers(model, lambda: model(image))
    check_buffers(tiny.model, lambda: tiny.model.encode(torch.rand(1, 3, 48, 48)))


class Weights(nn.Module):
    """Patient i has the gradient `given[i]`."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(given.shape[1]))
        self.given = given

    def loss_of(self, part: Sequence[int]) -> Tensor:
        return (self.given[list(part)] @ self.weight).sum()


def change(given: Tensor, *, steps=1, rate=1.0, clip=1.0, noise=0.0, expected=1) -> Tensor:
    """What `steps` steps with learning rate 1 subtract from zero weights."""
    model = Weights(given)
    optimizer = torch.optim.SGD([model.weight], lr=1.0)
    parameters = {"weight": model.weight}
    private_steps(optimizer, parameters, model.loss_of, len(given), steps, rate, clip, noise,
                  expected)  # fmt: skip
    return -model.weight.detach()


numbers = some.floats(-100, 100, width=32)


@settings(max_examples=1000, deadline=None)
@given(some.data(), some.integers(1, 6), some.integers(1, 5), some.floats(0.01, 10))
def test_one_patient_changes_the_clipped_sum_by_at_most_the_norm(data, patients, size, clip):
    """Removed, or with any gradient at all, also one that is not finite."""
    gradients = some.lists(
        some.lists(numbers, min_size=size, max_size=size), min_size=patients, max_size=patients
    )
    everybody = torch.tensor(data.draw(gradients))
    one = data.draw(some.integers(0, patients - 1))
    if data.draw(some.booleans()):
        everybody[one, 0] = data.draw(some.sampled_from([torch.nan, torch.inf, 1e30]))
    rest = torch.cat([everybody[:one], everybody[one + 1 :]])
    without = change(rest, clip=clip) if len(rest) else torch.zeros(size)
    assert float((change(everybody, clip=clip) - without).norm()) <= clip * (1 + 1e-5)


def test_noise_has_the_stated_size_and_is_never_the_same():
    torch.manual_seed(0)
    one = change(torch.zeros(3, 20_000), noise=1.5, clip=0.2, expected=3)
    torch.manual_seed(0)
    other = change(torch.zeros(3, 20_000), noise=1.5, clip=0.2, expected=3)
    assert float(one.std()) == pytest.approx(1.5 * 0.2 / 3, rel=0.05)
    assert float((one - other).std()) == pytest.approx(2**0.5 * 1.5 * 0.2 / 3, rel=0.05)


def test_patients_are_drawn_each_by_itself_and_empty_steps_are_steps():
    """With four patients and probability 0.25 a third of the steps draw nobody."""
    steps = 400
    drawn = change(torch.eye(4), steps=steps, rate=0.25)
    torch.testing.assert_close(drawn, drawn.round(), rtol=0, atol=1e-2)  # Opacus clips to 1 - 1e-6
    # 5 standard deviations of a binomial law
    assert bool(((drawn - 100).abs() < 5 * (steps * 0.25 * 0.75) ** 0.5).all())
    nobody = change(torch.zeros(1, 20_000), rate=1e-9, steps=4, noise=1.0)
    assert float(nobody.std()) == pytest.approx(2.0, rel=0.05)


def test_loop_and_hooks_take_the_same_step():
    layer = nn.Linear(3, 2)
    images = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(2))
    results = []
    for at_once in (None, 2, 5):
        model = copy.deepcopy(layer)
        parameters = dict(model.named_parameters())

        def loss_of(part, model=model):
            return model(images[list(part)]).square().mean((1, 2)).sum()

        optimizer = torch.optim.SGD(parameters.values(), lr=1.0)
        with hooked(model):
            private_steps(optimizer, parameters, loss_of, 5, 3, 1.0, 0.05, 0.0, 5, at_once)
        results.append(model.weight.detach() - layer.weight.detach())
    assert float(results[0].norm()) > 0
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(results[0], results[2], rtol=1e-4, atol=1e-7)
