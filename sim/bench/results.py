"""What a measurement gives: rows with all their samples, and the machine they were taken on."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from medsa_model.device import has_bfloat16

Fact = float | int | str | bool | None


@dataclass(frozen=True)
class Side:
    """Samples of one of the two things that a row compares, in the order they were taken.

    What is `computed` was not measured, and its label begins with that word.
    """

    label: str
    samples: Sequence[float]
    computed: bool = False

    @property
    def minimum(self) -> float:
        """The least: what others on the machine disturbed least."""
        return min(self.samples)

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Largest less least, as a share of the median."""
        return (max(self.samples) - self.minimum) / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """The side as it stands in bench.json."""
        return {
            "label": self.label, "computed": self.computed, "samples": list(self.samples),
            "minimum": self.minimum, "median": self.median, "spread": self.spread,
        }  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison, in `unit`s of which fewer are better; `plain` is `None` where there is
    nothing to compare with. `facts` are other numbers that belong to it.
    """

    name: str
    unit: str
    plain: Side | None
    ours: Side
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def ratio_of_minima(self) -> float | None:
        """How many times less ours takes, by the least samples."""
        return self.plain.minimum / self.ours.minimum if self.plain and self.ours.minimum else None

    @property
    def ratio_of_medians(self) -> float | None:
        """The same by the medians."""
        return self.plain.median / self.ours.median if self.plain and self.ours.median else None

    @property
    def spread(self) -> float:
        """The larger one of both sides."""
        return max(side.spread for side in (self.plain, self.ours) if side)

    def as_json(self) -> dict[str, Any]:
        """The row as it stands in bench.json."""
        return {
            "name": self.name, "unit": self.unit,
            "plain": self.plain.as_json() if self.plain else None, "ours": self.ours.as_json(),
            "ratio_of_minima": self.ratio_of_minima, "ratio_of_medians": self.ratio_of_medians,
            "spread": self.spread, "facts": dict(self.facts),
        }  # fmt: skip


def machine(device: torch.device) -> dict[str, Fact]:
    """What the numbers depend on, without a name of the machine."""
    cuda = device.type == "cuda"
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else None,
        "precision": "bfloat16" if has_bfloat16(device) else "float32",
    }
