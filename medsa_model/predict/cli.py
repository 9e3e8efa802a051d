"""`medsa-predict`: masks on new images and volumes from a trained adapter, without labels.

medsa-predict --adapter runs/demo --input lesion.jpg --click 120,85 --out masks
medsa-predict --adapter runs/btcv --input ct/ --out organs --report
medsa-predict --adapter adapter/ --input images/ --rough drawn/ --labels truth/ --out scored

Here are the words it understands; what it does is in `predict/run.py`.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    EXIT_CODES,
    INTERRUPTED,
    make_parser,
    run_command,
    takes_file,
    takes_folder,
)

EXAMPLES = (
    "medsa-predict --adapter runs/demo --input lesion.jpg --click 120,85 --out masks",
    "medsa-predict --adapter runs/demo --input lesion.jpg --box 40,30,210,180 --out masks",
    "medsa-predict --adapter runs/ct --input scan.nii.gz --box 60,40,180,150,33 "
    "--structure liver --out masks",
    "medsa-predict --adapter runs/ct --input series/ --out masks --report",
    "medsa-predict --adapter runs/demo --input images/ --prompts prompts.csv --out masks",
    "medsa-predict --adapter runs/demo --input images/ --rough drawn/ --labels truth/ --out masks",
)
DESCRIPTION = """\
Segment new images or volumes with a trained adapter. Research software, not a medical device:
look at every mask before you use it.

Coordinates are numbers of pixels of the input, from 0: x to the right, y down, on the image as
viewers show it. In a volume a click has the voxel numbers i,j,k of the file's axes, counted from 0
as nibabel, 3D Slicer and FSLeyes do (the cursor of ITK-SNAP counts from 1); of a DICOM series i is
the column, j the row, k the slice along the normal of the slices. Both corners of a box are inside.
Of a volume Z is the slice along the file's axis that leads from feet to head, X and Y are the
numbers along the other two; prompts on some slices are followed through the others.

--prompts FILE.csv has the header case,structure,kind,x0,y0,x1,y1,z and a line for each click (kind
click), click off the structure (kind not) and box (kind box); x1 and y1 of clicks, and z of images,
stay empty. Or FILE.json: {"CASE": [{"structure": "liver", "click": [x, y], "not": [x, y],
"box": [x0, y0, x1, y1]}]}, in volumes with the slice as a further number. All lines of one
structure and case make one prompt. A case is named as its file, without the ending.

Masks: of one structure on images 0 and 255; else 0 and the numbers of the structures from 1, with
their names in prediction.json. Where structures overlap the more probable one has the pixel.
Rough masks and labels have the same values, and volumes the voxels of their image."""
MARKS = {
    "click": ("X,Y[,Z]", (2, 3), "a click on the structure; may be repeated"),
    "not": ("X,Y[,Z]", (2, 3), "a click off the structure; may be repeated"),
    "box": ("X0,Y0,X1,Y1[,Z]", (4, 5), "the box around the structure, of a volume on slice Z"),
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 1 for an error, 130 after Ctrl-C."""
    before = os.umask(0o077)  # masks and overlays are patients' data
    try:
        return run_command("medsa-predict", partial(parse_and_run, arguments))
    finally:
        os.umask(before)


def parse_and_run(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    parser = prediction_parser()
    options = parser.parse_args(joined(sys.argv[1:] if arguments is None else arguments))
    options.marks = options.marks or []
    given = {"--click, --not or --box": options.marks, "--prompts": options.prompts,
             "--rough": options.rough}  # fmt: skip
    several = [name for name, value in given.items() if value]
    if len(several) > 1:
        parser.error(f"{' and '.join(several)} exclude each other: give one of them")
    if options.report and not options.overlays:
        parser.error("--report shows the overlays: leave --no-overlays out")
    from medsa_model.predict.run import run_prediction  # takes seconds

    return run_prediction(options)


def joined(words: Sequence[str]) -> list[str]:
    """`--click -5,3` as `--click=-5,3`: else it would be taken for an option, and not be told that
    numbers start at 0."""
    result: list[str] = []
    for word in words:
        if result and result[-1] in {f"--{mark}" for mark in MARKS} and re.match(r"-[\d.]", word):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


def prediction_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "medsa-predict", DESCRIPTION, EXAMPLES,
        EXIT_CODES
        | {
            1: "error, told in a message; also when a case has no mask, the others are written",
            INTERRUPTED: "Ctrl-C; what was written stays",
        },
    )  # fmt: skip
    path = partial(parser.add_argument, type=Path)
    takes_folder(
        path(
            "--adapter", required=True, metavar="RUN_OR_FILE",
            help="run directory, folder with the adapter's two files, or its tensor file",
        )
    )  # fmt: skip
    takes_file(
        path(
            "--checkpoint", metavar="FILE", help="the backbone's file; not needed for vit_tiny"
        )
    )  # fmt: skip
    takes_file(
        path(
            "--input", required=True, metavar="FILE_OR_FOLDER",
            help="PNG, JPEG, BMP, TIFF, .nii, .nii.gz, a folder of these, a DICOM series (the "
            "folder of its slices), or a folder of series",
        )
    )  # fmt: skip
    takes_folder(path("--out", required=True, metavar="DIR", help="a new or empty folder"))
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the results of an earlier call first"
    )
    _add_prompts(parser)
    more = parser.add_argument_group("what else")
    takes_folder(
        more.add_argument(
            "--labels", type=Path, metavar="FOLDER",
            help="masks with the names of the cases: scores in summary.json, as nnU-Net's",
        )
    )  # fmt: skip
    more.add_argument(
        "--report", action="store_true",
        help="report.html with the overlays, for this site alone: it shows patients' images",
    )  # fmt: skip
    more.add_argument(
        "--no-overlays", dest="overlays", action="store_false", help="write masks alone"
    )
    more.add_argument(
        "--dicom-seg", action="store_true", help="of DICOM series also write masks/CASE.dcm"
    )
    more.add_argument("--device", default="auto", help="such as cpu, cuda:1; default the first GPU")
    more.add_argument(
        "--precision", choices=("auto", "bfloat16", "float32"), help="default as in the training"
    )
    return parser


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_argument_group(
        "what is asked", "Without any of these: structures by their names, or no prompt, as the "
        "adapter was trained.",
    )  # fmt: skip
    for mark, (form, lengths, words) in MARKS.items():
        prompts.add_argument(
            f"--{mark}", dest="marks", action="append", metavar=form, help=words,
            type=partial(numbers, mark, lengths),
        )  # fmt: skip
    takes_file(prompts.add_argument("--prompts", type=Path, metavar="FILE", help="CSV or JSON"))
    takes_folder(
        prompts.add_argument(
            "--rough", type=Path, metavar="FILE_OR_FOLDER",
            help="the box around a rough mask with the case's name, in a volume on every slice",
        )
    )  # fmt: skip
    prompts.add_argument(
        "--structure", action="append", default=[], metavar="NAME",
        help="which structure; may be repeated; default all",
    )  # fmt: skip


def numbers(mark: str, lengths: tuple[int, int], text: str) -> tuple[str, tuple[float, ...]]:
    """The numbers of a click or a box with its kind."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in lengths or not all(map(math.isfinite, found)):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected {lengths[0]} numbers, or {lengths[1]} in a volume, with commas "
            "and without spaces"
        )
    return mark, found


if __name__ == "__main__":
    raise SystemExit(main())
