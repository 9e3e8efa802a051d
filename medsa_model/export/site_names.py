"""The names of sites in a model card: which it shows, and a run without them.

Hospitals may have agreed to train together and not to be named beside their scores.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import replace

from medsa_model.export.run_scores import Origin
from medsa_model.report_run import data_in_words
from medsa_model.report_values import Json

TOLD = ("train", "evaluate", "rejected", "privacy")
"""Events of which a card tells the site."""


def named_sites(origin: Origin) -> list[str]:
    """The sites that the card of an adapter names."""
    events = [event for kind in TOLD for event in origin.run.of(kind)]
    return sorted({str(event["site"]) for event in events if "site" in event})


def named_hospitals(origin: Origin | None) -> int:
    """How many of them can be hospitals: none where a program painted the images."""
    if origin is None or "painted" in data_in_words(origin.run):
        return 0
    return len(named_sites(origin))


def without_names(origin: Origin) -> Origin:
    """The same with `site 1`, `site 2`, ... in place of the names, also inside sentences.

    The numbers are drawn anew each time: in the order of the names, or of anything else that is
    known, they would tell who is meant.
    """
    names = [str(event["site"]) for event in origin.run.events if "site" in event]
    drawn = sorted(set(names))
    random.SystemRandom().shuffle(drawn)
    width = len(str(len(drawn)))
    numbers = {name: f"site {number:0{width}}" for number, name in enumerate(drawn, 1)}
    events = [_renamed(event, numbers) for event in origin.run.events]
    what, _, name = origin.row.partition("/")
    row = f"{what}/{numbers.get(name, 'a site')}" if name else what
    return replace(origin, run=replace(origin.run, events=events), row=row)


def _renamed(event: Json, numbers: Mapping[str, str]) -> Json:
    """An event with a number for its site; a reason may speak of any of them."""
    told = dict(event)
    if "site" in event:
        told["site"] = numbers[str(event["site"])]
    if "reason" in event:
        told["reason"] = _in_text(str(event["reason"]), numbers)
    return told


def _in_text(text: str, numbers: Mapping[str, str]) -> str:
    names = sorted(filter(None, numbers), key=len, reverse=True)  # "a b" before "a"
    if not names:
        return text
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)"
    return re.sub(pattern, lambda found: numbers[found[0]], text)
