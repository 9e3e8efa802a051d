"""Clicks and boxes of the cases, from the command itself or from `--prompts FILE`."""

from collections.abc import Sequence
from pathlib import Path

from medsa_model.errors import ConfigError
from medsa_model.logs import logger
from medsa_model.predict.asked import Given, Mark, problem_of, together
from medsa_model.predict.inputs import listed
from medsa_model.predict.prompt_files import Prompts, read_prompts
from medsa_model.task import Task


def marks_of_command(
    given: Sequence[tuple[Mark, tuple[float, ...]]], task: Task, structures: Sequence[int],
    cases: Sequence[str],
) -> Prompts:  # fmt: skip
    """The clicks and boxes of the command, which are on one structure of one case.

    Raises `ConfigError` when there are several, and for marks that cannot be.
    """
    if len(cases) > 1:
        raise ConfigError(
            f"--click, --not and --box are for one case, the input has {len(cases)} "
            f"({listed(cases)}); give one file, or --prompts FILE"
        )
    if len(structures) > 1:
        raise ConfigError(
            f"--click, --not and --box are for one structure; give --structure with one of "
            f"[{', '.join(task.structures)}], or --prompts FILE for several"
        )
    marks = [Given(structures[0], mark, numbers) for mark, numbers in given]
    problems = [problem_of(mark.mark, mark.numbers, task.volumes) for mark in marks]
    if not any(problems):
        problems = [together(marks, task.structures, task.volumes)]
    if any(problems):
        raise ConfigError("; ".join(each for each in problems if each))
    return {cases[0]: marks}


def marks_of_file(
    path: Path, task: Task, structures: Sequence[int], cases: Sequence[str]
) -> tuple[Prompts, dict[str, str]]:
    """Case -> its prompts on `structures` (from 0); and of the other cases why they have none.

    Warns of prompts on other structures. Raises `ConfigError` for problems of the file, and when no
    case has a prompt.
    """
    read = read_prompts(path, task, set(cases))
    kept = {case: [each for each in marks if each.structure in structures]
            for case, marks in read.items()}  # fmt: skip
    count = sum(map(len, read.values()))
    others = {each.structure for marks in read.values() for each in marks} - {*structures}
    names = listed([task.structures[number] for number in sorted(others)])
    if others:
        left = count - sum(map(len, kept.values()))
        logger.warning(
            "--structure leaves out %d of the %d prompts of %s: those on %s",
            left, count, path.name, names,
        )  # fmt: skip
    marks = {case: given for case, given in kept.items() if given}
    asked = ", ".join(task.structures[number] for number in structures)
    if not marks:
        raise ConfigError(
            f"--prompts {path}: no prompt"
            + (f" on [{asked}], which --structure asks for, but on {names}" if others else
               " is in it; expected some for each case of the input")
        )  # fmt: skip
    lacking = {
        case: f"--prompts {path.name} has no prompt on [{asked}] for it, which --structure asks for"
        if case in read else f"--prompts {path.name} has no prompt for it"
        for case in cases if case not in marks
    }  # fmt: skip
    return marks, lacking
