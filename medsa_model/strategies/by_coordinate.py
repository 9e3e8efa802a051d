"""Rules that look at every number by itself, and which sites have a say about it.

The median and the trimmed mean of the sites' changes, added to the current state, are those of
their states: subtracting the current state and adding it again would only cost digits.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from medsa_model.state import AdapterState
from medsa_model.stored_state import parts
from medsa_model.strategies.update import Update


def by_coordinate(
    current: AdapterState,
    updates: Sequence[Update],
    least: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> AdapterState:
    """A state float32 like `current`, of which every number is that of `reduce`.

    `reduce` gets what the sites that have a say sent, (sites, numbers) float32 sorted by value, so
    that nothing depends on the order of the sites, and gives (numbers,) float64.
    """
    following = {}
    for name, value in current.items():
        flat = torch.empty(value.numel())
        for start, stop, voters in blocks(updates, name, value.shape, least):
            states = [updates[site].state for site in voters]
            for part, values in parts(states, name, start, stop):
                # in place; torch's would find the positions too, and takes ten times as long
                values.numpy().sort(axis=0)
                flat[part] = reduce(values).float()
        following[name] = flat.view(value.shape)
    return following


def blocks(
    updates: Sequence[Update], name: str, shape: torch.Size, least: int
) -> Iterator[tuple[int, int, Sequence[int]]]:
    """Which updates are combined to the numbers `start` to `stop` of a flattened tensor.

    All of them, except for a row of `Update.rows` that at least `least` sites trained: it is
    combined over these alone. With fewer, those who may be faulty could be most of them, and who
    trained nothing has at least left the row as it was. How many cases trained a row does not
    count: a site says that itself. Gives (start, stop, positions in `updates`).
    """
    everybody = range(len(updates))
    if not any(name in update.rows for update in updates):
        yield 0, shape.numel(), everybody
        return
    width = shape[1:].numel()
    for row in range(shape[0]):
        trained = [site for site in everybody if _trained(updates[site], name, row)]
        yield row * width, (row + 1) * width, trained if len(trained) >= least else everybody


def _trained(update: Update, name: str, row: int) -> bool:
    return name in update.rows and update.rows[name][row] > 0
