"""Who took part in a run: tables by site and by round, and a sentence for the top of the page."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from medsa_model.report_tables import Cell, Table
from medsa_model.report_timeline import Timeline, Turn
from medsa_model.report_values import MISSING, Json, duration, number, short_bytes

NAMED = 6  # sites in a sentence


def turns_table(timeline: Timeline) -> Table:
    """By site, in how many rounds what came of it."""
    shown = [
        turn for turn in Turn
        if turn is Turn.DELIVERED or any(timeline.rounds_with(s, turn) for s in timeline.sites)
    ]  # fmt: skip
    body = []
    for site in timeline.sites:
        counts = [len(timeline.rounds_with(site, turn)) for turn in shown]
        body.append([Cell(site), *(Cell(f"{count:,}", count) for count in counts)])
    return Table("Rounds", ["Site", *(turn.value.capitalize() for turn in shown)], body)


def costs_table(timeline: Timeline, events: Sequence[Json]) -> Table:
    """By site: training time, memory and bytes.

    Bytes are of messages with tensors or scores; of a round that was repeated the last ones count.
    """
    trained = {(str(e.get("site")), e.get("round")): e for e in events if e.get("event") == "train"}
    scored = {
        (str(e.get("site")), e.get("round"), e.get("part")): e
        for e in events if e.get("event") == "traffic"
    }  # fmt: skip
    body = []
    for site in timeline.sites:
        training = [event for (name, _), event in trained.items() if name == site]
        sent = training + [event for (name, *_), event in scored.items() if name == site]
        body.append([Cell(site), *_costs(training, sent)])
    header = ["Site", "Mean training", "Waited for input", "Largest memory", "Up", "Down"]
    return Table("Time, memory and bytes", header, body)


def _costs(training: list[Json], sent: list[Json]) -> list[Cell]:
    def known(events: list[Json], key: str) -> list[float]:
        return [value for each in events if (value := number(each.get(key))) is not None]

    seconds, waited = known(training, "seconds"), known(training, "waited")
    mean = fmean(seconds) if seconds else None
    share = 100 * sum(waited) / sum(seconds) if waited and sum(seconds) > 0 else None
    memory = max(known(training, "memory"), default=None)
    cells = [
        Cell(duration(mean), mean),
        Cell(MISSING if share is None else f"{share:.0f} %", share),
        Cell(MISSING if memory is None else short_bytes(memory), memory),
    ]
    for key in ("up_bytes", "down_bytes"):
        total = sum(known(sent, key)) if sent else None
        cells.append(Cell(MISSING if total is None else short_bytes(total), total))
    return cells


def incomplete_rounds_table(timeline: Timeline) -> Table:
    """The rounds in which not every site delivered, and what came of the others.

    Rounds in a row with the same words are one line, with their mean duration.
    """
    spans: list[tuple[list[int], dict[str, Turn | None]]] = []
    for turn in timeline.rounds:
        words: dict[str, Turn | None] = {
            site: found for site in timeline.sites
            if (found := timeline.turns[site].get(turn)) is not Turn.DELIVERED
        }  # fmt: skip
        if spans and spans[-1][0][-1] == turn - 1 and spans[-1][1] == words:
            spans[-1][0].append(turn)
        else:
            spans.append(([turn], words))
    body = []
    for turns, words in spans:
        if not words:
            continue
        first, last = turns[0], turns[-1]
        here = len(timeline.sites) - len(words)
        known = [timeline.seconds[turn] for turn in turns if turn in timeline.seconds]
        took = fmean(known) if known else None
        body.append([
            Cell(f"{first}" if first == last else f"{first} to {last}", first),
            Cell(f"{here} of {len(timeline.sites)}", here),
            Cell(duration(took), took),
            Cell("; ".join(f"{site}: {found or 'no answer yet'}" for site, found in words.items()),
                 style="text"),
        ])  # fmt: skip
    return Table("", ["Rounds", "Delivered", "Mean duration", "Not delivered"], body)


def participation_in_words(timeline: Timeline) -> str:
    """Whether every site delivered in every round, and which did not; "" without a round."""
    if not timeline.rounds:
        return ""
    count = len(timeline.rounds)
    if timeline.whole:
        rounds = "the one round" if count == 1 else f"each of the {count} rounds"
        return f"Every site delivered in {rounds}."
    delivered = {site: len(timeline.rounds_with(site, Turn.DELIVERED)) for site in timeline.sites}
    fewer = sorted((n, site) for site, n in delivered.items() if n < count)
    told = ", ".join(f"{site} in {n}" for n, site in fewer[:NAMED])
    others = " and others" if len(fewer) > NAMED else ""
    rest = "" if len(fewer) == len(timeline.sites) else "; the other sites in all"
    return f"Not every site delivered in all of {count} rounds: {told}{others}{rest}."


def quarantine_in_words(events: Iterable[Json]) -> list[str]:
    """A sentence for every site that was put in quarantine or let in again."""
    told = []
    for event in events:
        site, turn = event.get("site"), number(event.get("round"))
        when = "" if turn is None else f" after round {turn:.0f}"
        if event.get("event") == "quarantined":
            told.append(f"{site} was put in quarantine{when}: it is not asked any more.")
        elif event.get("event") == "readmitted":
            told.append(f"{site} was readmitted{when}.")
    return told
