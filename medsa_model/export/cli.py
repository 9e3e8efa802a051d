"""`medsa-export`: trained adapters for other programs and people, and published ones for this one.

medsa-export adapter --adapter runs/pilot --out pilot_adapter
medsa-export bundle --adapter runs/pilot --checkpoint sam_vit_b_01ec64.pth --out pilot_bundle
medsa-export onnx --adapter runs/pilot --checkpoint sam_vit_b_01ec64.pth --out pilot_onnx
medsa-export import --weights published.pth --backbone vit_b --checkpoint FILE --out imported

Here are the words that it understands; what it does is in `commands.py`.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from medsa_model.command_line import (
    add_command,
    make_parser,
    positive,
    run_command,
    takes_file,
    takes_folder,
)

PROGRAM = "medsa-export"
COMMANDS = {
    "adapter": "write a folder to hand on: the tensors, their configuration and a model card",
    "bundle": "write a MONAI bundle with backbone and adapter",
    "onnx": "write encoder.onnx and decoder.onnx, compared with PyTorch",
    "import": "make an adapter folder of published weights of Medical SAM Adapter",
}
EXAMPLES = {
    "adapter": (
        "medsa-export adapter --adapter runs/pilot --out pilot_adapter",
        "medsa-export adapter --adapter runs/pilot/best --out pilot_best",
        "medsa-export adapter --adapter runs/pilot --without-sites --out published",
    ),
    "bundle": (
        "medsa-export bundle --adapter runs/pilot --checkpoint sam_vit_b_01ec64.pth --out bundle",
    ),
    "onnx": ("medsa-export onnx --adapter runs/demo --out demo_onnx",),
    "import": (
        "medsa-export import --weights published.pth --backbone vit_b \\\n"
        "      --checkpoint sam_vit_b_01ec64.pth --structures lesion --out imported",
        "medsa-export import --weights published.pth --backbone vit_b \\\n"
        "      --checkpoint sam_vit_b_01ec64.pth --structures liver spleen --prompts click box \\\n"
        "      --window -175 250 --out imported",
    ),
}
PROMPTS = ("click", "clicks", "box", "none")
"""What published weights can be asked with: they have learnt no names of structures."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit codes: 0, 1 for an error, 2 for wrong arguments, 130 after Ctrl-C."""
    return run_command(PROGRAM, partial(parse_and_execute, arguments))


def parse_and_execute(arguments: list[str] | None) -> int:
    """Understand the words, and do what they say."""
    options = export_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    from medsa_model.export.commands import execute  # takes seconds

    for line in execute(options):
        print(line)
    return 0


def export_parser() -> argparse.ArgumentParser:
    """The parser of the program with those of its commands."""
    parser = make_parser(
        PROGRAM, "Hand on a trained adapter in other forms, or read a published one.",
        [EXAMPLES[name][0] for name in COMMANDS],
    )  # fmt: skip
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for name, line in COMMANDS.items():
        command = add_command(commands, name, line, EXAMPLES[name])
        if name == "import":
            _add_published(command)
        else:
            takes_folder(command.add_argument(
                "--adapter", type=Path, required=True, metavar="RUN_OR_FILE",
                help="run directory, folder with the two files of an adapter, or its tensor file",
            ))  # fmt: skip
        if name in ("adapter", "bundle"):
            command.add_argument(
                "--without-sites", action="store_true",
                help="write site 1, site 2, ... in the model card in place of the sites' names",
            )  # fmt: skip
        if name != "adapter":
            takes_file(command.add_argument(
                "--checkpoint", type=Path, metavar="FILE",
                help="weights of the backbone; of vit_tiny, which is embedded, none",
            ))  # fmt: skip
        takes_folder(command.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="new or empty folder"
        ))  # fmt: skip
    return parser


def _add_published(command: argparse.ArgumentParser) -> None:
    """What published weights do not say about themselves."""
    takes_file(command.add_argument(
        "--weights", type=Path, required=True, metavar="FILE",
        help="state dict, as PyTorch or safetensors file",
    ))  # fmt: skip
    command.add_argument(
        "--backbone", required=True, choices=("vit_b", "vit_l", "vit_h", "vit_tiny"),
        help="the backbone that they were trained with",
    )  # fmt: skip
    command.add_argument(
        "--image-size", type=positive, metavar="PIXELS",
        help="side of the model frame in their training; default: that of the backbone, 1024",
    )  # fmt: skip
    command.add_argument(
        "--structures", nargs="+", default=["object"], metavar="NAME",
        help="what they segment; default: object",
    )  # fmt: skip
    command.add_argument(
        "--prompts", nargs="+", default=["click"], choices=PROMPTS, metavar="PROMPT",
        help=f"prompts in their training, of {', '.join(PROMPTS)}; default: click",
    )  # fmt: skip
    command.add_argument(
        "--window", nargs=2, type=float, metavar=("LOW", "HIGH"),
        help="they are for CT volumes, with this window in HU; default: for images",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
