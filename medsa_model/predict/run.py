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

from rich.console import Console

from medsa_model.checkpoint import write_json
from medsa_model.data.dicom_seg import check_installed
from medsa_model.device import choose_device
from medsa_model.errors import ConfigError
from medsa_model.logs import logger, set_up
from medsa_model.predict import results
from medsa_model.predict.asked import choose_structures, untrained
from medsa_model.predict.case import Answer, Request, segment_case
from medsa_model.predict.facts import facts_of, round_of
from medsa_model.predict.failures import told
from medsa_model.predict.inputs import (
    Found,
    find_inputs,
    find_masks,
    listed,
    masks_of_cases,
)
from medsa_model.predict.marks import marks_of_command, marks_of_file
from medsa_model.predict.out_folder import choose_folder, remove_drafts
from medsa_model.predict.page import write_page
from medsa_model.predict.prompt_files import Prompts
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
    cases = [each.case for each in found.inputs]
    labels = masks_of_cases(options.labels, "--labels", cases) if options.labels else {}
    if options.dicom_seg:
        check_dicom_seg(found)
    if found.left_out:
        logger.warning("left out of the input, %s", _counted(found.left_out))
    without = [case for case in cases if case not in labels]
    if options.labels and without:
        logger.warning("no label and so no score, %s", _counted(without))
    device = choose_device(options.device)
    built = build_trained(trained, options.checkpoint, device)
    read = (options.input, options.labels, options.rough, options.prompts, options.adapter)
    choose_folder(options.out, options.overwrite, read)
    precision = options.precision or task.precision
    segment = partial(
        segment_case, built.model, task, precision, options.out, overlays=options.overlays,
        dicom_seg=options.dicom_seg,
    )  # fmt: skip
    facts = facts_of(trained, options.adapter.name, device, precision)
    done = Done()
    whole = False
    # written at once: by this file the folder is known as this program's, whatever happens
    write_json(options.out / results.FACTS, {**facts, **told_in_json(done, task, whole)})
    try:
        for source in progress_of(found.inputs, console):
            problems: list[str] = []
            answer: Answer | None = None
            with told(problems, source.case, device.type):
                answer = segment(source, requests[source.case], labels.get(source.case))
            if answer:
                done.answers.append(answer)
                problems += answer.problems
            if problems:
                done.problems[source.case] = "; ".join(problems)
            if answer and not console.is_terminal:
                console.print(answer.line(), soft_wrap=True)
        whole = True
    finally:
        remove_drafts(options.out)
        write_rest(options.out, done, {**facts, **told_in_json(done, task, whole)})
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
    marks: Prompts = {}
    rough: dict[str, Path] = {}
    lacking: dict[str, str] = {}
    if options.marks:
        marks = marks_of_command(options.marks, task, structures, cases)
    elif options.prompts:
        marks, lacking = marks_of_file(options.prompts, task, structures, cases)
    elif options.rough:
        rough = masks_of_cases(options.rough, "--rough", cases)
        if others := [case for case in cases if case not in rough]:
            there = listed(sorted(find_masks(options.rough, "--rough")))
            why = f"--rough has no mask with its name; masks there: {there}"
            lacking = dict.fromkeys(others, why)
        if "box" not in task.prompts:
            logger.warning(
                "the adapter was not trained on boxes (but on %s), which --rough gives: look at "
                "these masks with more care", ", ".join(task.prompts),
            )  # fmt: skip
    for words in untrained([given for each in marks.values() for given in each], task):
        logger.warning("%s", words)
    requests = {
        case: Request(
            structures, tuple(marks.get(case, ())), rough.get(case), lacking.get(case, "")
        )
        for case in cases
    }
    if not marks and not rough:
        requests[cases[0]].by_itself(task)  # refused before anything is read
    return requests


def check_dicom_seg(found: Found) -> None:
    """Raise `ConfigError` when DICOM SEG is asked for and cannot be written."""
    check_installed()
    if others := [each.case for each in found.inputs if each.kind != "series"]:
        raise ConfigError(
            f"--dicom-seg needs DICOM series, whose patient and study it belongs to; {len(others)} "
            f"case(s) are none: {listed(others)}"
        )


def told_in_json(done: Done, task: Task, whole: bool) -> dict[str, Any]:
    """What `prediction.json` says of the cases; `whole`: whether every case was tried."""
    structures = {str(number): name for number, name in enumerate(task.structures, 1)}
    one = len(task.structures) == 1 and not task.volumes
    cases = {a.source.case: {"file": a.source.path.name, "mask": a.mask, "prompts": a.asked()}
             for a in done.answers}  # fmt: skip
    return {
        "complete": whole,
        "structures": structures,
        "values": {"255": task.structures[0]} if one else structures,
        "cases": cases,
        "failed": done.problems,
    }


def write_rest(out: Path, done: Done, facts: dict[str, Any]) -> None:
    """The files about all cases; `facts` are the content of `prediction.json`."""
    sizes = [size for answer in done.answers for size in answer.sizes]
    results.write_whole(out / results.VOLUMES, results.volumes_csv(sizes))
    scored = [answer.scored() for answer in done.answers if answer.metrics]
    if scored:
        write_json(out / results.SUMMARY, summary(scored))
    write_json(out / results.FACTS, facts)


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} in all: {listed(names)}"
