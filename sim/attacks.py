"""Virtual sites that send wrong updates on purpose, to compare how federations bear them.

The attackers train and take part like all others; what they send, or learn from, is changed. Their
own test cases are scored in no row. Attacks as in Blanchard et al. 2017, "Machine learning with
adversaries", and Fang et al. 2020, "Local model poisoning attacks", section 5.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from flwr.app import Context, Message
from pydantic import Field

from client.app import Mod
from medsa_model.data.patients import generator
from medsa_model.data.sample import Case, Sample
from medsa_model.records import to_arrays, to_state
from medsa_model.section import Section
from medsa_model.state import AdapterState, Manifest

Answering = Callable[[Message, Context], Message]


class Attack(Section):
    """Who attacks, and how."""

    kind: Literal["scale", "nan", "label_flip"]
    """`scale`: the change of each round times `factor`, so that -1 is a sign flip; `nan`: values
    that are no numbers; `label_flip`: trained on masks whose structure and background changed
    places."""
    sites: int = Field(1, ge=1)
    """How many sites attack; which ones is drawn by the run's seed."""
    factor: float = Field(-10.0, allow_inf_nan=False)
    """Of `scale`."""
    unchecked: bool = False
    """True: values of updates are not looked at, as in FedAvg of the literature; what is not finite
    after the mean still changes nothing."""

    def draw(self, sites: Sequence[str], seed: int) -> tuple[str, ...]:
        """The attackers among `sites`, sorted."""
        chosen = generator(seed, "attack").permutation(sorted(sites))[: self.sites]
        return tuple(sorted(map(str, chosen)))


def with_labels_flipped(case: Case) -> Case:
    """The case with structure and background changed."""
    return replace(case, load=partial(_flipped, case.load))


def _flipped(load: Callable[[], Sample]) -> Sample:
    sample = load()
    return replace(sample, mask=~sample.mask)


def attacking(
    attack: Attack, attackers: Collection[str], name_of: Callable[[Context], str],
    manifest_of: Callable[[], Manifest],
) -> Mod:  # fmt: skip
    """A mod of Flower's ClientApp that changes what `attackers` answer to training messages.

    What they send is coded as the run says, or they would only be found out.
    """

    def mod(message: Message, context: Context, answer: Answering) -> Message:
        reply = answer(message, context)
        if (
            message.metadata.message_type != "train" or reply.has_error()
            or name_of(context) not in attackers
        ):  # fmt: skip
            return reply
        manifest = manifest_of()
        shapes, kind = manifest.shapes, manifest.updates
        before = to_state(message.content.array_records["arrays"], shapes)
        trained = to_state(reply.content.array_records["arrays"], shapes, before, kind)
        update = changed(attack, before, trained)
        reply.content["arrays"] = to_arrays(update, shapes, before, kind)
        return reply

    return mod


def changed(attack: Attack, before: AdapterState, trained: AdapterState) -> AdapterState:
    """What an attacker sends in place of `trained`, having started from `before`."""
    if attack.kind == "nan":
        return {name: torch.full_like(value, torch.nan) for name, value in trained.items()}
    if attack.kind == "scale":
        return {n: before[n] + attack.factor * (value - before[n]) for n, value in trained.items()}
    return trained
