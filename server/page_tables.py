"""Tables and charts of the live page as plain data: cells are texts, ready to be read."""

from datetime import UTC, datetime, timedelta

from medsa_model.report_values import Json, number, score
from server.config import Federation
from server.flower_private import NodeRow
from server.page_curves import chart, end_of_axis, look
from server.page_events import TROUBLE, in_words
from server.page_progress import Progress, SiteProgress
from server.page_words import Stage, clock
from server.status import ONLINE_FOR, ago

COLUMNS = ("Site", "What it does", "Connected", "Last contact", "Loss", "Dice", "Up", "Down")
NO_PROGRESS = SiteProgress()


def facts(federation: Federation, stage: Stage | None, progress: Progress | None) -> Json:
    """Facts in one line."""
    if stage is None:
        return {"Federation": federation.name, "Sites": str(len(federation.sites))}
    config = stage.config
    patients = config.privacy
    told = {
        "Federation": federation.name,
        "Sites": f"{len(federation.sites)}, quorum {federation.quorum}",
        "Data": config.data.kind,
        "Backbone": config.model.backbone,
        "Strategy": config.strategy.kind,
        "Differential privacy": "for patients" if patients else "none",
    }
    spent = progress.site_privacy if progress else {}
    if (epsilon := number(spent.get("epsilon"))) is not None:
        delta = number(spent.get("delta")) or 0.0
        whole = f"for whole sites, epsilon {epsilon:.3f} at delta {delta:.2g}"
        told["Differential privacy"] = f"for patients, and {whole}" if patients else whole
    return told


def site_row(
    name: str, place: int, count: int, node: NodeRow | None, progress: Progress | None,
    private: bool, complete: bool, over: bool,
) -> Json:  # fmt: skip
    """The table's row of a site: its look in the charts and its cells.

    When the run is `complete` the sites leave: then it is no trouble that they are not connected.
    What is shown when all is `over` stays on a screen, and must not grow wrong there.
    """
    site = progress.sites.get(name, NO_PROGRESS) if progress else NO_PROGRESS
    online = node is not None and node.status == "online"
    doing, trouble = site.doing, site.trouble
    if site.quarantined:
        doing, trouble = f"in quarantine: not asked any more; {doing}".rstrip("; "), True
    if not online and not complete:
        doing, trouble = f"not connected ({doing})" if doing else "not connected", True
    if complete and not site.took_part:
        doing = "never took part"
    connected = "yes" if online else "no"
    if online and over:
        connected = "no" if complete else "until the end"
    heard = last_contact(node, site)
    last = "never"
    if heard:
        last = clock(heard) if over else ago(max(0.0, (datetime.now(UTC) - heard).total_seconds()))
    loss = site.loss[max(site.loss)] if site.loss else None
    dice = score(site.dice[max(site.dice)] if site.dice else None)
    if site.test_dice is not None:
        dice = f"{score(site.test_dice)} test"
    cells = [
        cell(doing or "idle", "text trouble" if trouble else "text"),
        cell(connected, "no" if not online and not complete else ""),
        cell(last), cell(score(loss)), cell(dice),
        cell(megabytes(site.up)), cell(megabytes(site.down)),
    ]  # fmt: skip
    if private:
        cells.append(cell(score(site.epsilon)))
    return {"name": name, "look": look(place, count), "cells": cells}


def last_contact(node: NodeRow | None, site: SiteProgress) -> datetime | None:
    """When a site was heard of last: by a heartbeat, its leaving or a message, the newest."""
    times = [site.heard] if site.heard else []
    if node and node.status != "online" and node.deactivated:
        times.append(datetime.fromisoformat(node.deactivated).astimezone(UTC))
    elif node and node.online_until:
        until = datetime.fromtimestamp(node.online_until, UTC)
        times.append(until - timedelta(seconds=ONLINE_FOR))
    return max(times, default=None)


def cell(text: str, kind: str = "") -> Json:
    """A cell of a table with the names of its style."""
    return {"text": text, "kind": kind}


def charts(names: list[str], progress: Progress | None, rounds: int) -> list[Json]:
    """Validation Dice and training loss; every site has its place, also without a value."""
    sites = progress.sites if progress else {}
    dice = {name: sites.get(name, NO_PROGRESS).dice for name in names}
    loss = {name: sites.get(name, NO_PROGRESS).loss for name in names}
    mean = progress.mean_dice() if progress else {}
    last = max((turn for curve in (*dice.values(), *loss.values()) for turn in curve), default=0)
    end = end_of_axis(last, rounds)
    return [
        chart("Dice on validation cases", dice, mean, end, decimals=3),
        chart("Training loss", loss, {}, end),
    ]


def rejected(progress: Progress | None) -> list[list[str]]:
    """Round, site, reason, what and code of the newest rejected answers, newest first."""
    found = [*progress.rejected] if progress else []
    return [
        [
            str(event.get("round", "")), str(event.get("site", "")), str(event.get("reason", "")),
            str(event.get("what", "")), str(event.get("refusal") or event.get("code", "")),
        ]
        for event in reversed(found)
    ]  # fmt: skip


def events(progress: Progress | None) -> list[Json]:
    """The newest entries of the audit log, newest first."""
    found = [*progress.entries] if progress else []
    return [
        {"time": clock(datetime.fromisoformat(entry.time)), "text": in_words(entry),
         "kind": "trouble" if entry.event in TROUBLE else ""}
        for entry in reversed(found)
    ]  # fmt: skip


def megabytes(count: float) -> str:
    """10^6 bytes."""
    return f"{count / 10**6:.1f} MB"
