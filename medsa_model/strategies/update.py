"""What a strategy aggregates: the updates of the sites."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Memory = dict[str, Tensor]
"""What a strategy keeps between rounds, by name; empty for most."""

LARGEST_VALUE = 1e6
"""Of a value in an update that is aggregated; trained adapters stay below 100."""


@dataclass(frozen=True)
class Update:
    """What one site answers to a training message: its state and its number of cases.

    `state` may be on disk (`StoredState`), where each look at a tensor reads it anew. Its values
    are finite and at most `LARGEST_VALUE` in size; whoever receives it has seen to that.

    `rows`: of a tensor by name, how many cases trained each of its rows. A site that annotates some
    of the structures alone has learnt nothing about the names of the others.
    """

    state: Mapping[str, Tensor]
    examples: int
    rows: Mapping[str, Sequence[int]] = field(default_factory=dict)


def check_enough(kind: str, updates: Sequence[Update], least: int) -> None:
    """Raise `ValueError` when a rule of this `kind` has fewer updates than it needs."""
    if len(updates) < least:
        raise ValueError(
            f"the rule {kind} has the updates of {len(updates)} sites, expected at least {least}: "
            "with fewer it promises nothing; keep the state and repeat the round"
        )
