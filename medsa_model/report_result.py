"""The result of a run in a few sentences, also when federation did not help.

Differences are those of the printed numbers. "Better" needs a higher printed number; equal ones
are not better.
"""

from medsa_model.report_values import (
    Json,
    difference,
    label,
    mean_dice,
    number,
    score,
    signed,
    site_dice,
    worst_dice,
)

SPOKEN = {"federated": "Federated", "local": "alone", "centralized": "centralized"}


def result_in_words(prompts: dict[str, Json], references: Json, seed: str) -> list[str]:
    """Sentences for the top of the page; the first holds the numbers.

    Args:
        prompts: prompt -> row -> ROW, main prompt first.
        references: reference -> ROW for the main prompt.
        seed: as text, "" when unknown.
    """
    if not prompts:
        return []
    (prompt, rows), *others = prompts.items()
    sentences = [_numbers(prompt, rows)]
    if "federated" not in rows:
        return sentences
    if "local" in rows:
        sentences.append(_against_alone(rows))
    else:
        sentences.append("No site's own model was evaluated: what federation adds is not known.")
    sentences += _against_others(rows, references)
    sentences += [_exception(name, each) for name, each in others if _no_gain(each)]
    seeds = f"one run with seed {seed}" if seed else "one run"
    sentences.append(f"This is {seeds}; repeat it with other seeds before relying on small gains.")
    return sentences


def _numbers(prompt: str, rows: Json) -> str:
    """Federated: mean Dice 0.881, worst site 0.852; alone: 0.860 / 0.801; ..."""
    order = ["federated", "local", "centralized", "zero_shot"]
    parts: list[str] = []
    for name in [*order, *(name for name in rows if name not in order)]:
        if name not in rows:
            continue
        mean, worst = score(mean_dice(rows[name])), score(worst_dice(rows[name]))
        spoken = SPOKEN.get(name, label(name).lower())
        spoken = spoken if parts else spoken[0].upper() + spoken[1:]
        numbers = f"{mean} / {worst}" if parts else f"mean Dice {mean}, worst site {worst}"
        parts.append(f"{spoken}: {numbers}")
    return "; ".join(parts) + (f" (prompt: {prompt})." if prompt else ".")


def _against_alone(rows: Json) -> str:
    one, other = rows["federated"], rows["local"]
    mean = difference(mean_dice(one), mean_dice(other))
    worst = difference(worst_dice(one), worst_dice(other))
    if mean is None or worst is None:
        return "Training together and training alone cannot be compared: a score is missing."
    better_mean, better_worst = mean > 0, worst > 0
    if better_mean and better_worst:
        verdict = "Training together is better than training alone"
    elif better_mean:
        verdict = "Training together is better on average, but not at the worst site"
    elif better_worst:
        verdict = "Training together is better at the worst site, but not on average"
    else:
        verdict = "Training together is not better than training alone"
    gains = [
        difference(number(value), number(site_dice(other).get(site)))
        for site, value in site_dice(one).items()
    ]
    known = [gain for gain in gains if gain is not None]
    sites = f"; higher at {sum(gain > 0 for gain in known)} of {len(known)} sites" if known else ""
    return f"{verdict}: mean {signed(mean)}, worst site {signed(worst)}{sites}."


def _against_others(rows: Json, references: Json) -> list[str]:
    """What a proud reader would leave out: simpler things that do as well."""
    federated = mean_dice(rows["federated"])
    sentences = []
    gain = difference(federated, mean_dice(rows.get("zero_shot")))
    if gain is not None and gain <= 0:
        sentences.append("The federated model is not better than the model before adaptation.")
    ahead = [
        f"{label(name)} {score(mean_dice(row))}"
        for name, row in references.items()
        if (gain := difference(federated, mean_dice(row))) is not None and gain <= 0
    ]
    if ahead:
        sentences.append(f"References with an equal or higher mean Dice: {', '.join(ahead)}.")
    return sentences


def _no_gain(rows: Json) -> bool:
    gain = difference(mean_dice(rows.get("federated")), mean_dice(rows.get("local")))
    return gain is not None and gain <= 0


def _exception(prompt: str, rows: Json) -> str:
    federated, alone = score(mean_dice(rows["federated"])), score(mean_dice(rows["local"]))
    return f"With the prompt {prompt} it is not better than alone: {federated} against {alone}."
