"""What a run cost the privacy of patients, and what left the sites, for summary.json and report."""

from collections.abc import Iterable, Mapping

FACTS = ("epsilon", "delta", "accountant", "epsilon_rdp", "noise_multiplier", "sampling_rate",
         "clip_norm", "unit")  # fmt: skip
TOLD = {
    "adapters": "under the guarantee: clipped, with noise",
    "training loss": "not told",
    "number of cases": "rounded up to tens; the guarantee takes it as known, as it does the split",
    "scores": "of validation and test cases, which are not trained on: rounded to two decimals, "
    "outside the guarantee",
    "seconds, bytes, memory": "outside the guarantee",
}


def privacy_summary(events: Iterable[Mapping[str, object]]) -> dict[str, object] | None:
    """From the lines of metrics.jsonl: by site the cost after its last round; `None` without any.

    Epsilon is of a site's whole ledger, so of earlier runs on the same patients too.
    """
    per_site: dict[str, dict[str, object]] = {}
    site_level = None
    for event in events:
        if event["event"] == "privacy":
            site = str(event["site"])
            steps = int(str(per_site.get(site, {}).get("steps", 0))) + int(str(event["steps"]))
            per_site[site] = {**{name: event[name] for name in FACTS}, "steps": steps}
        elif event["event"] == "site_privacy":
            site_level = {name: event[name] for name in ("epsilon", "delta", "accountant")}
    if not per_site and site_level is None:
        return None
    units = sorted({str(facts["unit"]) for facts in per_site.values()})
    found: dict[str, object] = {"unit": " or ".join(units) or None, "per_site": per_site}
    if per_site:
        found["told"] = TOLD
    if site_level:
        found["site_level"] = {"unit": "site", **site_level}
    return found
