"""What ends one case and not the call: errors become words, and the next case has its turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medsa_model.errors import MedsaError
from medsa_model.logs import logger

ALLOCATOR = "DefaultCPUAllocator"  # PyTorch's of the processor raises RuntimeError, with this name


@contextmanager
def told(problems: list[str], case: str, device: str) -> Iterator[None]:
    """Add to `problems` in words what goes wrong inside, and go on after it.

    `device` is the kind that computes, such as cpu. What nobody foresaw is logged with its
    traceback; the words have only its kind, since messages of libraries can quote tags of patients.
    """
    try:
        yield
    except MedsaError as error:
        problems.append(str(error))
    except Exception as error:
        problems.append(f"case {case}: {_in_words(error, case, device)}")


def _in_words(error: Exception, case: str, device: str) -> str:
    of_device = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)  # Apple
    if of_device and device != "cpu":
        return f"not enough memory on the device {device}; try --device cpu"
    if of_device or isinstance(error, MemoryError) or ALLOCATOR in str(error):
        return (
            "not enough memory; end other programs, cut the volume or shrink the image, or use a "
            "machine with more memory"
        )
    if isinstance(error, OSError):
        return f"a file cannot be read or written ({error.strerror or type(error).__name__})"
    logger.exception("case %s: an error that nobody foresaw:", case)
    return (
        f"an error that nobody foresaw ({type(error).__name__}); its traceback above is for "
        "those who maintain the program"
    )
