"""What ends a case ends no other: every error becomes words, and nobody is shown a secret."""

import errno
import logging

import pytest
import torch

from medsa_model.errors import DataError
from medsa_model.logs import logger
from medsa_model.predict.failures import told


def words(error: Exception, device: str = "cpu") -> str:
    problems: list[str] = []
    with told(problems, "a", device):
        raise error
    (problem,) = problems
    return problem


def real_error() -> Exception:
    """Of PyTorch's processor allocator, asked for more than any machine has."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**58, dtype=torch.uint8)
    return raised.value


def test_memory_that_is_short_says_what_can_be_done_on_that_device():
    lacking = torch.OutOfMemoryError("CUDA out of memory")
    for error, device in ((lacking, "cuda"), (RuntimeError("MPS backend out of memory"), "mps")):
        advice = f"case a: not enough memory on the device {device}; try --device cpu"
        assert words(error, device) == advice
    for error in (MemoryError(), real_error(), lacking):
        said = words(error)
        assert said.startswith("case a: not enough memory; ") and "--device" not in said
    assert "--device" not in words(real_error(), "cuda")  # it is the processor's that is short


def test_errors_of_the_project_and_of_the_disk_are_told_without_a_path():
    assert words(DataError("case a: is broken")) == "case a: is broken"
    error = OSError(errno.EACCES, "Permission denied", "/patients/a.png")
    assert words(error) == "case a: a file cannot be read or written (Permission denied)"


def test_what_nobody_foresaw_is_logged_and_only_its_kind_is_told(caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    said = words(KeyError("DOE^JOHN"))
    assert "KeyError" in said and "DOE" not in said and "nobody foresaw" in said
    (record,) = {id(each): each for each in caplog.records}.values()
    assert record.levelno == logging.ERROR and "case a" in record.message and record.exc_info


def test_ctrl_c_ends_all():
    problems: list[str] = []
    with pytest.raises(KeyboardInterrupt), told(problems, "a", "cpu"):
        raise KeyboardInterrupt
    assert problems == []
