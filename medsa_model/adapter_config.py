"""What `adapter_config.json` says about an adapter, checked: it comes from somebody else."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, TypeAdapter, ValidationError

from medsa_model.adapters import Adapter
from medsa_model.backbone import Model
from medsa_model.checkpoint import CONFIG
from medsa_model.config import load_run
from medsa_model.errors import CheckpointError, ConfigError
from medsa_model.section import Section
from medsa_model.shown import clean
from medsa_model.state import Manifest
from medsa_model.task import Task

TOLD = 5
"""Most problems of one configuration that a message lists."""


class _Manifest(Section):
    """A manifest as a file has it: only what a model of this project can have."""

    shapes: dict[str, tuple[Annotated[StrictInt, Field(ge=0, lt=2**40)], ...]]
    base_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    image_size: StrictInt
    updates: Literal["lossless", "float16", "int8", "int4"] = "lossless"


def read_sections(content: Any, folder: Path) -> tuple[Model, Adapter, Task, Manifest]:
    """The sections and the manifest in the JSON `content` of the file in `folder`.

    The path of a backbone is left out: it is of the machine where it was written. Raises
    `CheckpointError` for anything that this program would not have written.
    """
    try:
        model = Model.model_validate(content["model"]).model_copy(update={"checkpoint": None})
        adapter: Adapter = TypeAdapter(Adapter).validate_python(content["adapter"])
        manifest = _manifest(content["manifest"], content.get("manifest_sha256"))
        task = Task.model_validate(content["task"]) if "task" in content else _task_of_run(folder)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{CONFIG} does not say what the adapter belongs to ({in_one_line(error)}); expected "
            "the keys model, adapter, task and manifest, as this version of fed-medsa writes them"
        ) from error
    return model, adapter, task, manifest


def in_one_line(error: Exception) -> str:
    """What is wrong, in one printable line: the files are somebody else's."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {clean(str(error))}"
    found = error.errors(include_input=False, include_url=False)
    lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:TOLD]]
    return f"{error.title.strip('_')}: {clean('; '.join(lines))}"


def _manifest(content: object, sha256: object) -> Manifest:
    """The manifest that a file has, and that has the sum that stands beside it if any does."""
    said = _Manifest.model_validate(content)
    if strange := [clean(name) for name in said.shapes if not name.isprintable()]:
        raise ValueError(f"names of tensors that cannot be shown: {', '.join(strange[:3])}")
    manifest = Manifest(said.shapes, said.base_sha256, said.image_size, said.updates)
    # one that was written before it had `updates` has the sum of what it was then
    if sha256 is not None and "updates" in said.model_fields_set and sha256 != manifest.sha256:
        raise ValueError("manifest_sha256 is that of another manifest")
    return manifest


def _task_of_run(folder: Path) -> Task:
    """The task of a round that was written without one: that of the run around it.

    Raises `CheckpointError` where there is no such run.
    """
    config = folder.resolve().parent.parent / "config.yaml"
    try:
        return load_run(config).task
    except ConfigError as error:
        raise CheckpointError(
            f"{CONFIG} has no key task: an older version of fed-medsa wrote it, and what was "
            "segmented stands in the config.yaml of the run alone, which is not there or cannot "
            "be read. Use the adapter where it lies in its run directory, or ask for what "
            "medsa-export adapter of this version makes of it there"
        ) from error
