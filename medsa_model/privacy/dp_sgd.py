"""DP-SGD: clipped gradients of single patients, summed, with noise, and one step with them.

Abadi et al. 2016, "Deep learning with differential privacy", arXiv:1607.00133, algorithm 1, with
Opacus' sampler, clipping and noise. A gradient of one patient comes about in one of two exact ways:

- loop: the gradient of that patient's loss alone. Right for every module by construction.
- hooks: Opacus' gradients per row of dimension 0, for many patients at once. Right where every
  trained layer is called with the patient as dimension 0, which `check_gradients` tries out.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import Tensor, nn

from medsa_model.errors import PrivacyError
from medsa_model.privacy.noise import secret_generator

Parameters = Mapping[str, nn.Parameter]
LossOf = Callable[[Sequence[int]], Tensor]
"""Sum of the losses of some patients, by their numbers: each the loss of that patient alone."""
TOLERANCE = 0.01  # rounding alone decides on which side of a kink of ReLU a token is
MOVED = 0.02  # standard deviation; weights are about 0.1


def private_steps(
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    loss_of: LossOf,
    patients: int,
    steps: int,
    sampling_rate: float,
    clip_norm: float,
    noise_multiplier: float,
    expected: int,
    at_once: int | None = None,
    after_noise: Callable[[], None] | None = None,
) -> None:
    """`steps` noisy steps of `optimizer` on `parameters`, which must be all that it trains.

    In each step every one of `patients` is drawn with probability `sampling_rate`. The noise on the
    sum of gradients has the standard deviation `noise_multiplier * clip_norm`; the sum is divided
    by `expected`, which must not depend on who is drawn. A step in which nobody is drawn is noise
    alone. A gradient that is not finite counts as zero. `at_once` patients are computed together
    inside `hooked`, `None` takes one after the other. `after_noise` may change gradients by what is
    known to everybody. Sampling and noise come from the operating system's randomness: equal seeds
    give other results. Raises `PrivacyError` when a tensor has no gradient for each patient.
    """
    device = next(iter(parameters.values())).device
    private = DPOptimizer(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=expected,
        generator=secret_generator(device),
    )
    if after_noise:
        private.attach_step_hook(lambda _: after_noise())
    sampler = UniformWithReplacementSampler(
        num_samples=patients,
        sample_rate=sampling_rate,
        generator=secret_generator(torch.device("cpu")),
        steps=steps,
    )
    private.zero_grad(set_to_none=True)
    for drawn in sampler:
        clipped = 0
        for part in _parts(drawn, at_once or 1):
            clipped += find_gradients(parameters, loss_of, part, hooks=at_once is not None)
            private.signal_skip_step()  # clips and adds to the sum, no noise yet
            private.step()
            private.zero_grad(set_to_none=True)
        if clipped != len(drawn):
            raise PrivacyError(f"{clipped} gradients for {len(drawn)} patients: no step was taken")
        for parameter in parameters.values():
            keep(parameter, parameter.new_zeros((0, *parameter.shape)))
        private.step()
        private.zero_grad(set_to_none=True)


def _parts(drawn: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """As `itertools.batched`, which Python 3.11 does not have."""
    for first in range(0, len(drawn), size):
        yield drawn[first : first + size]


def find_gradients(
    parameters: Parameters, loss_of: LossOf, patients: Sequence[int], hooks: bool
) -> int:
    """Leave the gradients (patients, ...) of every parameter in its `grad_sample`, float32.

    Returns how many there are, which is the number of `patients`. Raises `PrivacyError` with the
    name of a tensor that has none, or another number.
    """
    loss_of(patients).backward()
    singles: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if not hooks:
            found = parameter.grad
            one = torch.zeros_like(parameter) if found is None else found
            keep(parameter, one[None])
        single = getattr(parameter, "grad_sample", None)
        if not isinstance(single, Tensor):
            raise PrivacyError(
                f"{name} has no gradient for each patient: it is trained in a way that Opacus' "
                "hooks do not see; set privacy.method to loop"
            )
        if len(single) != len(patients):
            raise PrivacyError(
                f"{name} has {len(single)} gradients for {len(patients)} patients: dimension 0 of "
                "its layer is no patient (a window, a slice or a prompt); set privacy.method to "
                "loop"
            )
        # half precision would round norms, and so clip too little
        singles[name] = single.to(parameter.dtype)
        parameter.grad = None
    squared = torch.stack([single.flatten(1).square().sum(1) for single in singles.values()])
    finite = squared.sum(0).isfinite()
    for name, parameter in parameters.items():
        shape = (-1, *[1] * parameter.dim())
        keep(parameter, torch.where(finite.view(shape), singles[name], 0.0))
    return len(finite)


def keep(parameter: nn.Parameter, single: Tensor | None) -> None:
    """Put the gradients of single patients where Opacus' optimizer looks for them."""
    parameter.grad_sample = single  # type: ignore[attr-defined]


def kept(parameter: nn.Parameter) -> Tensor:
    """The gradients (patients, ...) of single patients."""
    single: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
    return single


@contextmanager
def hooked(model: nn.Module) -> Iterator[None]:
    """Opacus' hooks on `model`, which stays as it is, for the calls inside.

    Raises `PrivacyError` for a trained layer with buffers.
    """
    training = model.training
    try:
        hooks = GradSampleModule(model.train(), loss_reduction="sum", strict=True)
    except NotImplementedError as error:
        raise PrivacyError(
            f"a trained layer has buffers, which may learn from patients: {error}"
        ) from error
    try:
        with warnings.catch_warnings():  # of the first adapter, whose input nothing trains
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        hooks.remove_hooks()
        model.train(training)
        left = ("grad_sample", "_forward_counter", "_current_grad_sample", "activations",
                "max_batch_len")  # fmt: skip
        for each in (*model.parameters(), *model.modules()):
            for name in left:
                if name in vars(each):
                    delattr(each, name)


def check_gradients(parameters: Parameters, loss_of: LossOf, patients: int) -> None:
    """Compare the hooks' gradients with those of single patients, on made-up patients.

    To be called inside `hooked`. Parameters are moved for it, and put back: adapters that start
    at zero would hide a fault. Raises `PrivacyError` that names the first tensor whose gradient
    for one patient is off by more than `TOLERANCE` of its norm.
    """
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in parameters.values():
                moved = MOVED * torch.randn(parameter.shape, generator=generator)
                parameter.add_(moved.to(parameter))
        _compare(parameters, loss_of, patients)
    finally:
        clear(parameters)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(start[name])


def _compare(parameters: Parameters, loss_of: LossOf, patients: int) -> None:
    find_gradients(parameters, loss_of, range(patients), hooks=True)
    together = {name: kept(parameter) for name, parameter in parameters.items()}
    for patient in range(patients):
        clear(parameters)
        loss_of([patient]).backward()
        for name, parameter in parameters.items():
            found = together[name][patient]
            expected = torch.zeros_like(found) if parameter.grad is None else parameter.grad
            off = float((found - expected).norm() / expected.norm().clamp(min=1e-6))
            if not off <= TOLERANCE:
                raise PrivacyError(
                    f"{name} has a gradient for one patient that is off by {100 * off:.3g} %: its "
                    "layer mixes patients or repeats them; set privacy.method to loop"
                )


def clear(parameters: Parameters) -> None:
    """Forget all gradients."""
    for parameter in parameters.values():
        parameter.grad = None
        keep(parameter, None)


def check_buffers(model: nn.Module, forward: Callable[[], object]) -> None:
    """Raise `PrivacyError` with the name of a buffer that a `forward` in training mode changes.

    Such figures (the running means of BatchNorm) learn from patients without noise.
    """
    before = {name: (buffer, buffer._version) for name, buffer in model.named_buffers()}
    training = model.training
    model.train()
    with torch.no_grad():
        forward()
    model.train(training)
    for name, buffer in model.named_buffers():
        known, version = before.get(name, (None, -1))
        if known is not buffer or version != buffer._version:
            raise PrivacyError(
                f"the buffer {name} changes with the images that pass: it would leave the site "
                "without noise. Use a layer without running figures, such as LayerNorm"
            )
