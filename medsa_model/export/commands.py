"""What the commands of `medsa-export` do; each returns lines to print."""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from medsa_model.backbone import Model, file_sha256
from medsa_model.errors import ConfigError
from medsa_model.export.adapter_folder import CARD, check_new, write_adapter
from medsa_model.export.model_card import model_card
from medsa_model.export.published import Published, import_published, read_published
from medsa_model.export.run_scores import find_origin
from medsa_model.export.site_names import named_hospitals
from medsa_model.logs import set_up
from medsa_model.sam import ARCHITECTURES
from medsa_model.shown import clean
from medsa_model.task import Task
from medsa_model.trained import Trained, read_trained

OTHERWISE = ", or write it --without-sites"


def execute(options: argparse.Namespace) -> list[str]:
    """Carry out one command."""
    set_up(verbose=False)
    check_new(options.out)
    if options.command == "import":
        return import_adapter(options)
    trained = read_trained(options.adapter)
    if options.command == "bundle":
        from medsa_model.export.bundle import write_bundle

        names = not options.without_sites
        lines = write_bundle(trained, options.checkpoint, options.out, names)
        named = named_hospitals(find_origin(trained.folder)) if names else 0
        return [*lines, *ask_first(named, "models/README.md", OTHERWISE)]
    if options.command == "onnx":
        from medsa_model.export.onnx import write_onnx

        return write_onnx(trained, options.checkpoint, options.out)
    return export_adapter(trained, options.out, not options.without_sites)


def export_adapter(trained: Trained, out: Path, names: bool) -> list[str]:
    """Write the folder to hand on; with `names` its card names the sites."""
    origin = find_origin(trained.folder)
    lines = write_adapter(trained, model_card(trained, origin, names=names), out)
    if not names:
        return lines
    return [*lines, *ask_first(named_hospitals(origin), CARD, OTHERWISE)]


def ask_first(sites: int, card: str, otherwise: str) -> list[str]:
    """What is to be done before a card that names sites is published; nothing where none is."""
    if not sites:
        return []
    named = "1 site with its scores" if sites == 1 else f"{sites} sites with their scores"
    return [f"{card} names {named}: ask them before it is published{otherwise}"]


def import_adapter(options: argparse.Namespace) -> list[str]:
    """Make an adapter folder of published weights, and tell what became of every tensor."""
    model, task = described(options)
    tensors = read_published(options.weights)
    trained, found = import_published(tensors, model, task)
    card = model_card(trained, None, remarks(options.weights, found, task.volumes))
    written = write_adapter(trained, card, options.out)
    return [*told(found, len(tensors)), "", *limits(found, task.volumes), "", *written]


def described(options: argparse.Namespace) -> tuple[Model, Task]:
    """The sections that the options describe; raises `ConfigError`."""
    official = ARCHITECTURES[options.backbone].official_file
    if official and options.checkpoint is None:
        raise ConfigError(
            f"--checkpoint is needed: the path of {official}, whose sha256 goes into the adapter "
            "and whose frozen weights are compared with those of the file"
        )
    try:
        model = Model(
            backbone=options.backbone, image_size=options.image_size, checkpoint=options.checkpoint
        )
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--image-size {options.image_size}: {said}") from error
    try:
        task = Task(
            structures=tuple(options.structures), prompts=tuple(dict.fromkeys(options.prompts)),
            volumes=options.window is not None, window=options.window and tuple(options.window),
        )  # fmt: skip
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(each) for each in error.errors())) from error
    return model, task


def _problem(found: ErrorDetails) -> str:
    """One thing that is wrong with the task, under the name of its option."""
    option = f"--{found['loc'][0]}: " if found["loc"] else ""
    return option + found["msg"].removeprefix("Value error, ")


def told(found: Published, count: int) -> list[str]:
    """A table: what was mapped to what, what was not and why, and what is lacking."""
    modules = Counter((clean(_module(name)), _module(ours)) for name, ours in found.mapped.items())
    reasons = Counter((clean(_module(name)), why) for name, why in found.not_mapped.items())
    lacking = Counter((_module(name), "") for name in found.lacking)
    return [
        f"mapped: {len(found.mapped)} of {count} tensors",
        *_listed(modules),
        f"equal to the backbone, and taken from there: {found.same}",
        f"not mapped: {len(found.not_mapped) or 'none'}",
        *_listed(reasons),
        f"not in the file, and as before training: {len(found.lacking) or 'none'}",
        *_listed(lacking),
    ]


def _module(name: str) -> str:
    """The adapter that a tensor is of, or the decoder; of others their own name."""
    if found := re.match(r"(.*_(?:A|a)dapter)\.", name):
        return found[1]
    return re.sub(r"^((?:sam\.)?mask_decoder)\..*", r"\1", name)


def _listed(counted: Mapping[tuple[str, str], int]) -> Iterable[str]:
    """Lines with a name, how many tensors it stands for, and a word on them."""
    width = max((len(name) for name, _ in counted), default=0)
    for (name, word), count in counted.items():
        yield f"  {name:{width}}  {count:4} tensor{' ' if count == 1 else 's'}  {word}".rstrip()


def limits(found: Published, volumes: bool) -> list[str]:
    """In what the imported adapter is not the published model."""
    lines = [
        "For images the adapted blocks are the function of the published ones (GELU, half of the "
        "adapter beside the MLP). How images are scaled and prompts are drawn may differ: measure "
        "the published scores again."
    ]
    if volumes:
        lines = [
            "For volumes the published code mixes what is found across slices in another way: the "
            "adapter is a start for further training, and does not give the published answers."
        ]
    if changed := sum("answers will differ" in why for why in found.not_mapped.values()):
        lines.append(
            f"Frozen tensors that differ from the backbone's, and were not taken: {changed}. "
            "The answers are not those of the published model."
        )
    return lines


def remarks(weights: Path, found: Published, volumes: bool) -> list[str]:
    """The same for the model card, with where it comes from."""
    return [
        "**Imported from published weights of Medical SAM Adapter**, not trained by fed-medsa: "
        f"{len(found.mapped)} tensors of a file with sha256 `{file_sha256(weights)}`. Licence and "
        "citation are for those who published it to say.",
        *limits(found, volumes),
    ]
