"""Which device computes, and in which precision."""

import re
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from medsa_model.errors import ConfigError


def choose_device(wish: str) -> torch.device:
    """`auto` is the first CUDA device, then Apple's, then the processor; else the wish itself."""
    if wish != "auto":
        try:
            return torch.empty(0, device=wish).device
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device {wish!r} cannot be used: {error}") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware.

    Asked of the hardware, never timed: the precision, and so the result, must not depend on load.
    Without hardware support bfloat16 is hundreds of times slower than float32 on a processor.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
    return False


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: on a CUDA device by tensors, else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says of a process that was spawned is its parent's
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_autocast_precision(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as autocast would give it to a matrix product; itself without autocast.

    For what several layers read, so that it is rounded once, and for functions that autocast does
    not know.
    """
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision: `auto` is bfloat16 where the hardware has it; or `bfloat16`, `float32`."""
    if precision == "bfloat16" or (precision == "auto" and has_bfloat16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
