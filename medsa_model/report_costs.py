"""What a run cost: bytes that were sent, parameters that train, privacy that was spent, time."""

from medsa_model.privacy.summary import FACTS, privacy_summary
from medsa_model.report_run import Run, seconds_of_rounds
from medsa_model.report_tables import privacy_table, trained_table
from medsa_model.report_values import Json, duration, human_bytes, label, mapping, number


def costs_of(run: Run) -> Json:
    """What was sent, what trains, privacy, and time."""
    sent = mapping(run.summary.get("communication")) | mapping(run.report.get("communication"))
    for way in ("up", "down"):
        counted = [number(event.get(f"{way}_bytes")) or 0 for event in run.of("train")]
        sent.setdefault(f"total_{way}_bytes", sum(counted) or None)
    full, up = number(sent.get("full_model_bytes")), number(sent.get("up_bytes_per_site_round"))
    communication = {
        "Up, each site and round": sent.get("up_bytes_per_site_round"),
        "Down, each site and round": sent.get("down_bytes_per_site_round"),
        "Up, all sites and rounds": sent.get("total_up_bytes"),
        "Down, all sites and rounds": sent.get("total_down_bytes"),
        "Full model, for comparison": full,
    }
    shown = {
        key: human_bytes(count) for key, value in communication.items() if (count := number(value))
    }
    if full and up:
        shown["An update against the full model"] = f"1/{full / up:,.0f} ({100 * up / full:.2f} %)"
    model = mapping(run.summary.get("model"))
    total, trains = (number(model.get(f"{key}_parameters")) for key in ("total", "trainable"))
    percent = number(model.get("trainable_percent"))
    if total and trains and percent is not None:
        shown["Parameters that train"] = f"{trains:,.0f} of {total:,.0f} ({percent:.2f} %)"
    trained = mapping(run.report.get("trained"))
    privacy = _spent(run)
    return {
        "communication": shown,
        "trained": trained_table(trained) if trained else None,
        "privacy": privacy,
        "spent": privacy_table(mapping(privacy.get("per_site"))),
        "site_level": _site_level(mapping(privacy.get("site_level"))),
        "told": mapping(privacy.get("told")),
        "times": _times(run),
        "has_times_of_rows": bool(mapping(run.report.get("seconds"))),
    }


def _spent(run: Run) -> Json:
    """What the summary says, of a run without one what its events say so far."""
    if run.finished:
        return mapping(run.summary.get("privacy"))
    whole = [e for e in run.of("privacy") if {"site", "steps", *FACTS} <= e.keys()]
    whole += [e for e in run.of("site_privacy") if {"epsilon", "delta", "accountant"} <= e.keys()]
    return mapping(privacy_summary(whole))


def _times(run: Run) -> dict[str, str]:
    """Time of the rounds of each row, and of the whole command, which also reads and evaluates."""
    times = {
        f"Training, {label(row)}": duration(number(seconds))
        for row, seconds in mapping(run.report.get("seconds")).items()
        if number(seconds)  # what does not train took no time
    }
    if not times and run.of("round"):
        times["All rounds"] = duration(seconds_of_rounds(run))
    command = mapping(run.report.get("command"))
    if (whole := number(command.get("seconds"))) is not None:
        what = (
            "The last command, which went on with the run"
            if command.get("resumed")
            else ("The whole command: reading, training, evaluation")
        )
        times[what] = duration(whole)
    return times


def _site_level(spent: Json) -> str:
    """What the noise for whole sites comes to; empty without any."""
    epsilon, delta = number(spent.get("epsilon")), number(spent.get("delta"))
    return "" if epsilon is None else f"epsilon {epsilon:.3f} at delta {delta or 0:.2g}"
