"""From the parsed words of the command to the files: every case is read, segmented, written.

One case is in memory at a time. A case that cannot be used is told at the end, the others are
written; after Ctrl-C what was written stays, and `prediction.json` says that it is not all.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medsa_model.checkpoint import write_json
from medsa_model.data.dicom_seg import check_installed
from medsa_model.device import choose_device
from medsa_model.errors import ConfigError, MedsaError
from medsa_model.logs import logger, set_up
from medsa_model.predict import results
from medsa_model.predict.asked import Given, choose_structures, problem_of, together, untrained
from medsa_model.predict.case import Answer, Request, segment_case
from medsa_model.predict.facts import facts_of, round_of
from medsa_model.predict.inputs import Found, find_inputs, find_masks, listed
from medsa_model.predict.page import write_page
from medsa_model.predict.prompt_files import read_prompts
from medsa_model.predict.scores import summary
from medsa_model.predict.shown import progress_of, show_end
from medsa_model.task import Task
from medsa_model.trained import build_trained, read_trained

SAFETY = "Research software, not a medical device: look at every mask before you use it."


@dataclass
class Done:
    """What a call has done so far: answers of cases, and why others have none."""

    answers: list[Answer] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def run_prediction(options: argparse.Namespace) -> int:
    """Do what `predict/cli.py` understood; the exit code: 1 when a case has no mask.

    Raises `MedsaError`, `OSError`.
    """
    set_up(False)
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(SAFETY, soft_wrap=True)
    trained = read_trained(options.adapter)
    task = trained.task
    found = find_inputs(options.input, task.volumes)
    requests = requests_of(options, task, found)
    labels = find_masks(options.labels, "--labels") if options.labels else {}
    if options.dicom_seg:
        check_dicom_seg(found)
    if found.left_out:
        logger.warning("left out of the input, %s", _counted(found.left_out))
    without = sorted({each.case for each in found.inputs} - labels.keys())
    if options.labels and without:
        logger.warning("no label and so no score, %s", _counted(without))
    device = choose_device(options.device)
    built = build_trained(trained, options.checkpoint, device)
    read = (options.input, options.labels, options.rough, options.prompts, options.adapter)
    results.choose_folder(options.out, options.overwrite, read)
    precision = options.precision or task.precision
    segment = partial(
        segment_case, built.model, task, precision, options.out, overlays=options.overlays,
        dicom_seg=options.dicom_seg,
    )  # fmt: skip
    done = Done()
    whole = False
    try:
        for source in progress_of(found.inputs, console):
            try:
                answer = segment(source, requests[source.case], labels.get(source.case))
            except MedsaError as error:
                done.problems[source.case] = str(error)
                continue
            except torch.OutOfMemoryError:
                done.problems[source.case] = (
                    f"case {source.case}: not enough memory on the device {device.type}; try "
                    "--device cpu"
                )
                continue
            done.answers.append(answer)
            if answer.problem:
                done.problems[source.case] = answer.problem
            if not console.is_terminal:
                console.print(answer.line(), soft_wrap=True)
        whole = True
    finally:
        results.remove_drafts(options.out)
        write_rest(
            options.out,
            done,
            facts_of(trained, options.adapter.name, device, precision, whole),
            task,
        )
        if not whole:
            written = f"{len(done.answers)} of {len(found.inputs)}"
            console.print(f"\nStopped: {written} cases are written in {options.out}, each whole.")
    if options.report:
        number = round_of(trained.folder)
        write_page(options.out, done.answers, done.problems, trained, number)
    show_end(console, done.answers, done.problems, options.out, len(found.inputs), options.report)
    return 1 if done.problems else 0


def requests_of(options: argparse.Namespace, task: Task, found: Found) -> dict[str, Request]:
    """Case -> what is asked there. Raises `ConfigError` for what cannot be asked."""
    if len(task.structures) > 255:
        raise ConfigError(f"{len(task.structures)} structures; a mask of 8 bits has 255 at most")
    structures = choose_structures(options.structure, task)
    cases = [each.case for each in found.inputs]
    marks: dict[str, list[Given]] = {}
    if options.marks:
        marks = {cases[0]: _marks(options, task, structures, cases)}
    if options.prompts:
        read = read_prompts(options.prompts, task, set(cases))
        marks = {case: [g for g in given if g.structure in structures]
                 for case, given in read.items()}  # fmt: skip
    for words in untrained([given for each in marks.values() for given in each], task):
        logger.warning("%s", words)
    rough: dict[str, Path] = {}
    if options.rough:
        rough = find_masks(options.rough, "--rough")
        if len(rough) == len(cases) == 1 and options.rough.is_file():
            rough = {cases[0]: options.rough}
        if "box" not in task.prompts:
            logger.warning(
                "the adapter was not trained on boxes (but on %s), which --rough gives: look at "
                "these masks with more care", ", ".join(task.prompts),
            )  # fmt: skip
    drawn = bool(marks or options.prompts or options.rough)
    requests = {
        case: Request(structures, tuple(marks.get(case, ())), rough.get(case), bool(options.rough))
        for case in cases
    }
    if not drawn:
        requests[cases[0]].by_itself(task)  # refused before anything is read
    return requests


def _marks(
    options: argparse.Namespace, task: Task, structures: Sequence[int], cases: Sequence[str]
) -> list[Given]:
    """The clicks and boxes of the command itself."""
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
    marks = [Given(structures[0], mark, numbers) for mark, numbers in options.marks]
    problems = [problem_of(mark.mark, mark.numbers, task.volumes) for mark in marks]
    if not any(problems):
        problems = [together(marks, task.structures, task.volumes)]
    if any(problems):
        raise ConfigError("; ".join(each for each in problems if each))
    return marks


def check_dicom_seg(found: Found) -> None:
    """Raise `ConfigError` when DICOM SEG is asked for and cannot be written."""
    check_installed()
    if others := [each.case for each in found.inputs if each.kind != "series"]:
        raise ConfigError(
            f"--dicom-seg needs DICOM series, whose patient and study it belongs to; {len(others)} "
            f"case(s) are none: {listed(others)}"
        )


def write_rest(out: Path, done: Done, facts: dict[str, Any], task: Task) -> None:
    """The files about all cases."""
    sizes = [size for answer in done.answers for size in answer.sizes]
    results.write_whole(out / results.VOLUMES, results.volumes_csv(sizes))
    scored = [answer.scored() for answer in done.answers if answer.metrics]
    if scored:
        write_json(out / results.SUMMARY, summary(scored))
    structures = {str(number): name for number, name in enumerate(task.structures, 1)}
    one = len(task.structures) == 1 and not task.volumes
    cases = {a.source.case: {"file": a.source.path.name, "mask": a.mask, "prompts": a.asked()}
             for a in done.answers}  # fmt: skip
    facts |= {
        "structures": structures,
        "values": {"255": task.structures[0]} if one else structures,
        "cases": cases,
        "failed": done.problems,
    }
    write_json(out / results.FACTS, facts)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} in all: {listed(names)}"
