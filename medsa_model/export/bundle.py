"""A trained adapter as a MONAI bundle: a folder that `python -m monai.bundle run` segments with.

    configs/inference.json, metadata.json, logging.conf
    models/                 the adapter as `adapter_folder` writes it, instead of a pickled model.pt
    docs/README.md
    LICENSE                 of the code

The network and the steps are code of this package, which has to be installed where the bundle runs.
"""

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medsa_model.checkpoint import write_json
from medsa_model.errors import CheckpointError
from medsa_model.export.adapter_folder import check_new, write_adapter
from medsa_model.export.bundle_configs import LOGGING, inference, metadata
from medsa_model.export.model_card import model_card
from medsa_model.export.run_scores import find_origin
from medsa_model.report import TEMPLATES
from medsa_model.sam import ARCHITECTURES
from medsa_model.trained import Trained


def write_bundle(
    trained: Trained, checkpoint: Path | None, out: Path, names: bool = True
) -> list[str]:
    """Write the folder `out`, which must be new or empty, whole or not at all; returns lines.

    With `names` its model card names the sites.

    The backbone is not in it: of one that is not embedded every user has the file, and `checkpoint`
    is not read. Raises `ConfigError` for an `out` that holds anything, `CheckpointError` when it
    cannot be written.
    """
    check_new(out)
    file = ARCHITECTURES[trained.model.backbone].official_file
    needed = file if trained.model.weights == "pretrained" else None
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        (draft / "configs").mkdir(parents=True)
        (draft / "docs").mkdir()
        card = model_card(trained, find_origin(trained.folder), names=names)
        write_adapter(trained, card, draft / "models")
        content = metadata(trained)
        write_json(draft / "configs" / "metadata.json", content)
        write_json(draft / "configs" / "inference.json", inference(trained))
        (draft / "configs" / "logging.conf").write_text(LOGGING, encoding="utf-8")
        (draft / "LICENSE").write_text(licence(), encoding="utf-8")
        text = _readme(trained, needed, content["task"])
        (draft / "docs" / "README.md").write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise CheckpointError(f"--out {out} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    lines = [f"{path}  {path.stat().st_size:,} bytes" for path in files]
    if needed:
        lines.append(f"to run it, give --checkpoint with the path of {needed}")
    return lines


def licence() -> str:
    """The text of the licence that is installed with the package; raises `CheckpointError`."""
    try:
        text = distribution("fed-medsa").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise CheckpointError(
            "fed-medsa is not installed with its licence, which goes into a bundle: install it "
            "with pip"
        )
    return text


def _readme(trained: Trained, needed: str | None, title: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    task = trained.task
    by_itself = bool(task.named) or ("none" in task.prompts and len(task.structures) == 1)
    return environment.get_template("bundle_readme.md.j2").render(
        title=title, task=task, needed=needed, base_sha256=trained.manifest.base_sha256,
        backbone=trained.model.backbone, size=trained.manifest.image_size, by_itself=by_itself,
    )  # fmt: skip
