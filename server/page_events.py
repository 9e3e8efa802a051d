"""Entries of a coordinator's audit log in plain words."""

from collections.abc import Mapping

from medsa_model.audit_log import Entry
from medsa_model.report_values import duration, mapping, number

TROUBLE = frozenset(
    {"discarded", "left-out", "missing", "quarantined", "rejected", "repeated", "skipped", "torn"}
)
"""Events that somebody should look at."""
WORK = {
    "train": "to train", "val": "to score validation cases", "test": "to score test cases",
}  # fmt: skip
PART = {"val": "validation", "test": "test"}


def in_words(entry: Entry) -> str:
    """One sentence without hashes and numbers of nodes; an unknown event is told by its name."""
    facts = entry.facts
    site, reason = str(facts.get("site", "")), str(facts.get("reason", ""))
    turn = f"Round {facts.get('round', '?')}"
    match entry.event:
        case "started":
            after = int(number(facts.get("after_round")) or 0)
            return f"The run goes on after round {after}" if after else "The run starts"
        case "joined":
            cases = mapping(facts.get("cases"))
            told = ", ".join(f"{count} {part}" for part, count in cases.items())
            return f"{site} introduced itself" + (f"; cases: {told}" if told else "")
        case "left-out":
            return f"{site} is left out: {reason}"
        case "asked":
            what = str(facts.get("what"))
            return f"{turn}: {_sites(facts)} asked {WORK.get(what, what)}"
        case "train":
            return f"{turn}: update from {site}{_training(facts)}"
        case "traffic":
            part = str(facts.get("part"))
            return f"{turn}: scores on {PART.get(part, part)} cases from {site}"
        case "missing":
            return f"{turn}: no answer from {site} in time"
        case "rejected":
            shown = facts.get("refusal") or facts.get("code")
            return f"{turn}: {facts.get('what')} of {site} not used: {reason} ({shown})"
        case "quarantined":
            return f"{turn}: {site} is in quarantine and is not asked any more"
        case "readmitted":
            return f"{site} is readmitted after its quarantine"
        case "repeated":
            return f"{turn} is repeated: {_updates(facts)} not enough"
        case "skipped":
            return f"{turn} is skipped: {_updates(facts)} not enough"
        case "discarded":
            return f"{turn} is skipped: the mean of its updates is not finite"
        case "privacy":
            return f"{turn}: {site} has spent {_epsilon(facts)} on its patients"
        case "site_privacy":
            return f"{turn}: noise for whole sites, {_epsilon(facts)} so far"
        case "saved":
            return f"{turn} is saved: the mean of {_count(facts)}"
        case "finished":
            return "The run is complete"
        case "torn":
            return f"A crash has torn a line of {facts.get('bytes')} bytes in this log"
    return entry.event


def _sites(facts: Mapping[str, object]) -> str:
    """`3 sites are`, or the name of a single one."""
    sites = facts.get("sites")
    names = [str(site) for site in sites] if isinstance(sites, list) else []
    return f"{names[0]} is" if len(names) == 1 else f"{len(names)} sites are"


def _count(facts: Mapping[str, object]) -> str:
    sites = facts.get("sites")
    count = len(sites) if isinstance(sites, list) else 0
    return "1 usable update" if count == 1 else f"{count} usable updates"


def _updates(facts: Mapping[str, object]) -> str:
    count = _count(facts)
    return f"{count} is" if count.startswith("1 ") else f"{count} are"


def _training(facts: Mapping[str, object]) -> str:
    """Loss and time of a training, as far as they are told."""
    loss, seconds = number(facts.get("loss")), number(facts.get("seconds"))
    told = [f"loss {loss:.3f}"] if loss is not None else []
    told += [f"trained for {duration(seconds)}"] if seconds is not None else []
    return f" ({', '.join(told)})" if told else ""


def _epsilon(facts: Mapping[str, object]) -> str:
    epsilon, delta = number(facts.get("epsilon")), number(facts.get("delta"))
    shown = "an unknown epsilon" if epsilon is None else f"epsilon {epsilon:.3f}"
    return shown if delta is None else f"{shown} at delta {delta:.2g}"
