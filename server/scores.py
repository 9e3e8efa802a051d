"""What a site answers to an evaluation: means over its cases, by prompt and by structure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, MetricRecord

from medsa_model.rejections import Code, Rejected
from medsa_model.validation import Range, check_echo, check_records, read_numbers
from server.exchange import Answer
from server.introduction import told

LONGEST_MM = 1e5  # of a distance in an image


@dataclass(frozen=True)
class Score:
    """Means over a site's `cases`. `hd95` (mm) and `nsd` are of volumes alone."""

    dice: float
    iou: float
    cases: int
    hd95: float | None = None
    nsd: float | None = None


@dataclass(frozen=True)
class Scores:
    """What a site answers to an evaluation, by prompt and by prompt and structure.

    `empty` counts its cases without a structure, which are in none of them.
    """

    by_prompt: dict[str, Score]
    empty: int
    by_structure: dict[str, dict[str, Score]] = field(default_factory=dict)


def read_scores(
    answer: Answer, prompts: Sequence[str], structures: Sequence[str], most_cases: int,
    echo: Mapping[str, str],
) -> Scores:  # fmt: skip
    """The scores in an answer, of at most the `most_cases` cases that the site introduced itself
    with, to the question that `echo` repeats; raises `Rejected` when they are none.
    """
    if answer.message.has_error():
        raise Rejected(answer.code or Code.ERROR, told(answer.message))
    content = answer.message.content
    check_records(content, {"metrics": MetricRecord, "echo": ConfigRecord})
    check_echo(content.config_records["echo"], echo)
    of_score: dict[str, Range] = {
        "dice": (0.0, 1.0), "iou": (0.0, 1.0), "cases": (1, most_cases), "hd95": (0.0, LONGEST_MM),
        "nsd": (0.0, 1.0),
    }  # fmt: skip
    means = [*prompts, *(f"{prompt}/{name}" for prompt in prompts for name in structures)]
    allowed = {f"{of}/{name}": ends for of in means for name, ends in of_score.items()}
    counts = {"empty": (0, most_cases)}
    allowed["num-examples"] = (0, most_cases)
    numbers = read_numbers(content.metric_records["metrics"], counts, allowed)
    by_prompt, by_structure = {}, {}
    for prompt in prompts:
        if score := _read_score(numbers, prompt):
            by_prompt[prompt] = score
        found = {name: _read_score(numbers, f"{prompt}/{name}") for name in structures}
        if known := {name: score for name, score in found.items() if score}:
            by_structure[prompt] = known
    return Scores(by_prompt, int(numbers["empty"]), by_structure)


def _read_score(numbers: Mapping[str, float], of: str) -> Score | None:
    """The means of a prompt, or of a structure with a prompt; `None` when no case has any."""
    dice, iou, cases, hd95, nsd = (
        numbers.get(f"{of}/{name}") for name in ("dice", "iou", "cases", "hd95", "nsd")
    )
    if all(value is None for value in (dice, iou, cases, hd95, nsd)):
        return None
    if dice is None or iou is None or cases is None:
        raise Rejected(Code.METRICS, f"of {of} it has some of Dice, IoU and cases, expected all")
    return Score(float(dice), float(iou), int(cases), hd95, nsd)
