"""The result of a run in a few sentences, also when federation did not help.

Differences are those of the printed numbers. One below `MARGIN` is no clear difference, neither of
means nor at a site: after a step of training scores move by a thousandth, up or down.
"""

from collections.abc import Iterable, Mapping

from medsa_model.report_values import (
    MARGIN,
    Json,
    difference,
    direction,
    label,
    mapping,
    mean_dice,
    number,
    score,
    signed,
    site_dice,
    worst_dice,
)

VERDICTS = {  # by the direction of the means' difference, then of the worst sites'
    (1, 1): "Training together is better than training alone",
    (1, 0): "Training together is better on average, with no clear difference at the worst site",
    (1, -1): "Training together is better on average, but not at the worst site",
    (0, 1): "Training together is better at the worst site, with no clear difference on average",
    (0, 0): "No clear difference between training together and training alone",
    (0, -1): "Training together is worse at the worst site, with no clear difference on average",
    (-1, 1): "Training together is better at the worst site, but not on average",
    (-1, 0): "Training together is not better than training alone",
    (-1, -1): "Training together is not better than training alone",
}
SPOKEN = {"federated": "Federated", "local": "alone", "centralized": "centralized"}
REFERENCES = {
    "ellipse_in_box": "the ellipse that fills the prompt's box, without looking at the image",
    "otsu": "the dark side of Otsu's threshold, inside the box or connected with the click; no "
    "training",
    "scratch": "the same federation with all parameters trained from random weights",
    "train_decoder": "the same federation, which trains and sends the mask decoder too",
}


def references_in_words(names: Iterable[str]) -> str:
    """What each reference is, in one line; "" without any."""
    told = [f"{label(name)}: {REFERENCES[name]}" for name in names if name in REFERENCES]
    return f"References. {_capitalized('; '.join(told))}." if told else ""


def result_in_words(
    prompts: Mapping[str, Json], references: Mapping[str, Json], seed: str
) -> list[str]:
    """Sentences for the top of the page; the first holds the numbers.

    Args:
        prompts: prompt -> row -> ROW, main prompt first.
        references: prompt -> reference -> ROW.
        seed: as text, "" when unknown.
    """
    if not prompts:
        return []
    (prompt, rows), *others = prompts.items()
    sentences = [_numbers(prompt, rows)]
    if "federated" not in rows:
        return sentences
    if "local" in rows:
        sentences += [_against_alone(rows), _what_was_compared(prompt, rows)]
    else:
        sentences.append("No site's own model was evaluated: what federation adds is not known.")
    sentences += _against_no_adaptation(rows)
    for name, each in prompts.items():
        sentences += _against_references(name, each, mapping(references.get(name)))
    sentences += [told for name, each in others if (told := _exception(name, each))]
    seeds = f"one run with seed {seed}" if seed else "one run"
    sentences.append(f"This is {seeds}; repeat it with other seeds before relying on small gains.")
    return sentences


def _numbers(prompt: str, rows: Json) -> str:
    """Federated: mean Dice 0.881, worst site 0.852; alone: mean 0.860, worst site 0.801; ..."""
    order = ["federated", "local", "centralized", "zero_shot"]
    parts: list[str] = []
    for name in [*order, *(name for name in rows if name not in order)]:
        if name not in rows:
            continue
        mean, worst = score(mean_dice(rows[name])), score(worst_dice(rows[name]))
        spoken = SPOKEN.get(name, label(name).lower())
        spoken = spoken if parts else _capitalized(spoken)
        parts.append(f"{spoken}: mean {'' if parts else 'Dice '}{mean}, worst site {worst}")
    return "; ".join(parts) + (f" (prompt: {prompt})." if prompt else ".")


def _against_alone(rows: Json) -> str:
    one, other = rows["federated"], rows["local"]
    mean = difference(mean_dice(one), mean_dice(other))
    worst = difference(worst_dice(one), worst_dice(other))
    if mean is None or worst is None:
        return "Training together and training alone cannot be compared: a score is missing."
    verdict = VERDICTS[direction(mean), direction(worst)]
    gains = [
        difference(number(value), number(site_dice(other).get(site)))
        for site, value in site_dice(one).items()
    ]
    known = [direction(gain) for gain in gains if gain is not None]
    lower = f", lower at {known.count(-1)}" if -1 in known else ""
    sites = f"; higher at {known.count(1)} of {len(known)} sites{lower}" if known else ""
    return f"{verdict}: mean {signed(mean)}, worst site {signed(worst)}{sites}."


def _what_was_compared(prompt: str, rows: Json) -> str:
    """Which scores, of how many cases, and what counts as a difference."""
    cases = number(mapping(rows["federated"]).get("cases"))
    on = "the test cases" if cases is None else f"{cases:,.0f} test cases"
    asked = f" with the prompt {prompt}" if prompt else ""
    return (
        f"Compared: mean Dice of the common model and of each site's own model on {on}{asked}; a "
        f"difference below {MARGIN:.3f}, of means or at a site, counts as none."
    )


def _against_no_adaptation(rows: Json) -> list[str]:
    gain = difference(mean_dice(rows["federated"]), mean_dice(rows.get("zero_shot")))
    if gain is None or direction(gain) > 0:
        return []
    clearly = "clearly " if gain > 0 else ""
    return [f"The federated model is not {clearly}better than the model before adaptation."]


def _against_references(prompt: str, rows: Json, references: Json) -> list[str]:
    """What a proud reader would leave out: simpler things that do as well or better."""
    federated = mean_dice(rows.get("federated"))
    found: dict[int, list[str]] = {}
    for name, row in references.items():
        if (gain := difference(federated, mean_dice(row))) is not None:
            told = f"{label(name)} ({score(mean_dice(row))})"
            found.setdefault(direction(gain), []).append(told)
    asked = f"with the prompt {prompt} " if prompt else ""
    model = f"the federated model ({score(federated)})"
    sentences = []
    if better := found.get(-1):
        are = "is" if len(better) == 1 else "are"
        sentences.append(f"{asked}{_listed(better)} {are} better than {model}.")
    if close := found.get(0):
        between = f"between {model} and {_listed(close)}"
        sentences.append(f"{asked}there is no clear difference {between}.")
    return [_capitalized(sentence) for sentence in sentences]


def _listed(names: list[str]) -> str:
    """the reference a; the references a, b and c"""
    if len(names) == 1:
        return f"the reference {names[0]}"
    return f"the references {', '.join(names[:-1])} and {names[-1]}"


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _exception(prompt: str, rows: Json) -> str:
    """That another prompt shows no gain; "" where it shows one, or a score is missing."""
    federated, alone = mean_dice(rows.get("federated")), mean_dice(rows.get("local"))
    gain = difference(federated, alone)
    if gain is None or direction(gain) > 0:
        return ""
    found = (
        "training together is not better than training alone"
        if direction(gain)
        else "there is no clear difference between training together and training alone"
    )
    return f"With the prompt {prompt} {found}: {score(federated)} against {score(alone)}."
