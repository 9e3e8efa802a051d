"""Images that are there twice: copies of a training image among test images raise their scores.

In: what is seen of each case when it is read. Out: pairs of case ids. Two images are

exact copies when all decoded pixels are equal, whatever the files are called or how they are
compressed without loss;

alike when 256 means of their grey values (16 x 16 fields; of a volume 8 x 16 x 16) differ by a root
mean square of at most `ALIKE` grey levels. That survives JPEG, other sizes and grey copies, and
misses what was cropped, turned or much brightened. The threshold was set with 2056 images of ISIC
2018 Task 1 at 256 pixels. In every eighth of them JPEG of quality 50 to 90 moves the means by at
most 0.4, another size (128 to 512 pixels) by at most 1.5, a grey copy by at most 0.2. Of the 2.1
million pairs five are nearer than 3 (0.08 to 2.4), and all five show one picture twice; the next
has 4.6.

Images of one colour are no copies of each other. Images with hardly any contrast are not compared
for likeness, for they are all alike.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from medsa_model.data.pairing import first

ALIKE = 3.0  # grey levels, root mean square
LEAST_CONTRAST = 3.0  # standard deviation of the means, in grey levels
FIELDS, DEPTH = 16, 8
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns colours to grey
Pair = tuple[str, str]


@dataclass(frozen=True)
class Fingerprint:
    """`exact`: sha256 of shape and pixels; `means` (n) float32 grey levels, `None`: no contrast."""

    exact: str
    means: Tensor | None


@dataclass(frozen=True)
class Seen:
    """A case of a part (such as "train") and the fingerprint of its image."""

    case: str
    part: str
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Duplicates:
    """Pairs of case ids: exact copies in two parts, in one part, and alike in two parts."""

    across: tuple[Pair, ...]
    within: tuple[Pair, ...]
    alike: tuple[Pair, ...]


def fingerprint(image: Tensor) -> Fingerprint | None:
    """Of an `image (3, H, W)` or `(3, D, H, W) float32 in [0, 255]`; `None` when it is blank."""
    # the channels of a volume are one memory: one of them is enough
    grey = image[:1] if image.stride(0) == 0 else image
    if bool((grey == grey.flatten(1)[:, 0].view(-1, *[1] * (grey.ndim - 1))).all()):
        return None
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(grey.contiguous().numpy().data)
    if grey.shape[0] == 3:
        grey = torch.einsum("c,c...->...", grey.new_tensor(GREY), grey)[None]
    if image.ndim == 3:
        means = F.adaptive_avg_pool2d(grey, FIELDS).flatten()
    else:
        means = F.adaptive_avg_pool3d(grey, (DEPTH, FIELDS, FIELDS)).flatten()
    return Fingerprint(digest.hexdigest(), means if means.std() >= LEAST_CONTRAST else None)


def find_duplicates(seen: Iterable[Seen]) -> Duplicates:
    """All pairs, each with its ids in order of part and case; every case is in one part."""
    ordered = sorted(seen, key=lambda each: (each.part, each.case))
    copies: dict[str, list[Seen]] = defaultdict(list)
    parts: dict[tuple[str, int], list[Seen]] = defaultdict(list)
    for each in ordered:
        copies[each.fingerprint.exact].append(each)
        if each.fingerprint.means is not None:
            parts[each.part, len(each.fingerprint.means)].append(each)
    across: list[Pair] = []
    within: list[Pair] = []
    for group in copies.values():
        by_part: dict[str, list[Seen]] = defaultdict(list)
        for each in group:
            by_part[each.part].append(each)
        for members in by_part.values():
            within += [(a.case, b.case) for a, b in pairwise(members)]
        for one, other in combinations(by_part.values(), 2):
            across += [(a.case, b.case) for a in one for b in other]
    known = set(across)
    alike = [
        pair
        for (one, size), (other, same) in combinations(parts, 2)
        if one != other and size == same
        for pair in _alike(parts[one, size], parts[other, same])
        if pair not in known
    ]
    return Duplicates(tuple(across), tuple(within), tuple(alike))


def shown(pairs: Sequence[Pair]) -> str:
    """The first pairs, for a message."""
    return first([f"{one} = {other}" for one, other in pairs])


def _alike(one: Sequence[Seen], other: Sequence[Seen]) -> list[Pair]:
    rows, columns = _means(one), _means(other)
    found: list[Pair] = []
    block = 1024  # rows at a time, for the memory of the distances
    for start in range(0, len(rows), block):
        distances = torch.cdist(rows[start : start + block], columns)
        near = (distances <= ALIKE * rows.shape[1] ** 0.5).nonzero().tolist()
        found += [(one[start + row].case, other[column].case) for row, column in near]
    return found


def _means(cases: Sequence[Seen]) -> Tensor:
    return torch.stack([m for each in cases if (m := each.fingerprint.means) is not None])
