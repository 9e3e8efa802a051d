"""What is asked of the machine."""

import subprocess
import sys

import pytest
import torch

from medsa_model.device import in_autocast_precision, peak_memory

CHILD = """
import torch
from medsa_model.device import peak_memory
print(peak_memory(torch.device("cpu")))
"""


@pytest.mark.thorough
def test_the_peak_of_a_process_is_not_that_of_its_parent():
    torch.ones(500_000_000, dtype=torch.float32)
    mine = peak_memory(torch.device("cpu"))
    child = subprocess.run(
        [sys.executable, "-c", CHILD], check=True, capture_output=True, text=True
    )
    assert mine > 2 * 10**9 > int(child.stdout) > 50 * 10**6


def test_what_several_layers_read_is_rounded_once():
    tensor = torch.rand(3, requires_grad=True)
    assert in_autocast_precision(tensor) is tensor
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_autocast_precision(tensor), tensor.bfloat16())
