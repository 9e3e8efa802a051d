"""A batch in parts, which are computed one after the other when memory is short."""

from itertools import pairwise

from medsa_model.data.frames import Batch


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """`batch` in `count` parts with nearly equal numbers of images or volumes, in their order.

    A part for each image when they are fewer. A part about which nothing is asked is left out.
    Parts of a pinned batch are not pinned: rows that are picked lie in ordinary memory.
    """
    images = len(batch.image)
    count = min(count, images)
    if count == 1:
        return [batch]
    edges = [images * number // count for number in range(count + 1)]
    parts = (_part(batch, *between) for between in pairwise(edges))
    return [part for part in parts if len(part.owner)]


def _part(batch: Batch, first: int, last: int) -> Batch:
    """The images `first` to `last` without the latter, and what is asked about them."""
    slices = batch.image.shape[2] if batch.image.dim() == 5 else 1
    start, stop = first * slices, last * slices
    rows = ((batch.owner >= start) & (batch.owner < stop)).nonzero()[:, 0]
    return Batch(
        batch.image[first:last],
        batch.mask[rows],
        batch.prompt.each(lambda tensor: tensor[rows]),
        batch.owner[rows] - start,
        batch.seed,
        batch.keys[start:stop],
    )
