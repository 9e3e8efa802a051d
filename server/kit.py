"""The start-up kit of a hospital: a zip whose folder NAME/ holds all that its engineer needs.

`site.yaml` (complete but for the place of the images), `ca.crt`, `README.md` (with the facts of the
run and its sha256), `run.json` with all its settings, and `site.key` unless the hospital brought a
key of its own. Equal settings give equal contents.
"""

import io
import json
import math
import re
import stat
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from medsa_model import __version__
from medsa_model.config import RunConfig, read_yaml, validate
from medsa_model.data import GENERATED, VOLUMES, DataSet
from medsa_model.data.organs import NUMBERS
from medsa_model.data.split import SplitOptions
from medsa_model.differences import differences
from medsa_model.errors import ConfigError
from medsa_model.private_files import PRIVATE, PUBLIC, read_file, write_new
from medsa_model.sam import ARCHITECTURES
from medsa_model.site_keys import public_part
from server.config import Federation
from server.keys import site_folder

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # YAML and Markdown of our own values
)
LISTING = """{
  "training": [{"image": "imagesTr/vol_17.nii.gz", "label": "labelsTr/vol_17.nii.gz"}],
  "validation": [{"image": "imagesTr/vol_23.nii.gz", "label": "labelsTr/vol_23.nii.gz"}]
}"""
COMMENTS = {
    "annotated": "# Organs that were annotated here, such as [liver, spleen]; empty: all of the "
    "classes. Of the\n# others nothing is taken as known, also not that they are absent.\n",
    "window": "# Lowest and highest CT number (HU) that can be told apart; what is beyond is "
    "clipped. This is\n# the run's window: keep it.\n",
}
"""What a hospital may change in its section `data`, explained there."""
RUN = re.compile(rb"\| sha256 \| `([0-9a-f]{64})` \|")  # in README.md


def kit_files(federation: Federation, run: RunConfig, site: str) -> dict[str, bytes]:
    """File name -> content of the kit of `site`; raises `ConfigError`."""
    key = site_folder(federation.folder, site) / "site.key"
    address, host = federation.address, federation.address.host
    where = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    generated, volumes = run.data.kind in GENERATED, run.data.kind in VOLUMES
    split = _split(federation.run)
    values = {
        "site": site, "federation": federation.name, "address": where, "version": __version__,
        "with_key": key.exists(), "generated": generated, "run": run, "split": split,
        "work": _work(run), "volumes": volumes, "organs": NUMBERS, "listing": LISTING,
        "volumes_needed": math.ceil(10 / split.test), "labels": _labels(run.data.classes),
        "folder": _folder(run.data.classes),
        "data": _data(run.data),
        "checkpoint": _checkpoint(run),
        # as JSON, which is YAML: a site may be called 007 or "no"
        "quoted": {
            "site": json.dumps(site), "address": json.dumps(where),
            "origin": json.dumps(site if generated else None),
            "labelled": json.dumps(split.labelled),
        },
    }  # fmt: skip
    return {
        "README.md": ENVIRONMENT.get_template("kit.md.j2").render(values).encode(),
        "site.yaml": ENVIRONMENT.get_template("site.yaml.j2").render(values).encode(),
        "run.json": json.dumps(json.loads(run.for_sites()), indent=2).encode() + b"\n",
        "ca.crt": read_file(federation.folder / "ca.crt"),
        **({"site.key": read_file(key)} if key.exists() else {}),
    }


def write_kit(path: Path, files: Mapping[str, bytes]) -> None:
    """Pack `files` into a folder named like the zip; raises `ConfigError` when it is there."""
    packed, now = io.BytesIO(), time.localtime()[:6]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"": b"", **files}.items():
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", now)
            entry.create_system = 3  # Unix, or the modes are not looked at
            mode = PUBLIC if name else stat.S_IFDIR | 0o700
            mode = stat.S_IFREG | PRIVATE if name == "site.key" else mode
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    write_new(path, packed.getvalue())


def changed_in_kit(path: Path, files: Mapping[str, bytes], public: bytes) -> list[str]:
    """What a kept kit has otherwise than one made now of `files`, in words; comments do not count.

    Raises `ConfigError` when it cannot be read, or its key is not the one whose PEM is `public`.
    """
    again = f"move {path} away and run `flower-server provision` again"
    try:
        with zipfile.ZipFile(path) as archive:
            found = {Path(name).name: archive.read(name) for name in archive.namelist()}
        kept = yaml.safe_load(found["site.yaml"])
        kept.items()
        authority = found["ca.crt"]
    except (OSError, zipfile.BadZipFile, KeyError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path} is no whole kit ({type(error).__name__}): {again}") from error
    key = found.get("site.key")
    if key is not None and public_part(key, f"site.key in {path}") != public:
        raise ConfigError(f"{path} holds the key of another site.pub than this site's: {again}")
    new = yaml.safe_load(files["site.yaml"])
    changed = [name for name in {**new, **kept} if new.get(name) != kept.get(name)]
    if RUN.findall(found.get("README.md", b"")) != RUN.findall(files["README.md"]):
        changed.append("the run's sha256")
    return changed if authority == files["ca.crt"] else ["ca.crt", *changed]


def kits_of_another_run(federation: Federation, run: RunConfig) -> list[str]:
    """Sites whose kit was made for a run with other settings, in words for a warning."""
    told = []
    for site in federation.sites:
        try:
            with zipfile.ZipFile(federation.folder / "kits" / f"{site.name}.zip") as archive:
                agreed = json.loads(archive.read(f"{site.name}/run.json"))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError):
            continue  # none, or of an earlier version: `provision` looks at those
        changed = differences(agreed, json.loads(run.for_sites()))
        pairs = [f"{key} {old}, now {new}" for key, (old, new) in changed.items()]
        if pairs:
            told.append(f"{site.name} ({'; '.join(pairs[:3])}{'; ...' if pairs[3:] else ''})")
    return told


def _work(run: RunConfig) -> str:
    """What a site does in a round, in words; of volumes and patients as `limits.images` counts."""
    train, privacy, volumes = run.train, run.privacy, run.data.kind in VOLUMES
    what, slices = ("volume", f" x {run.volume.slices} slices") if volumes else ("image", "")
    batch = f"{train.batch_size} {what}{'' if train.batch_size == 1 else 's'}"
    if privacy:
        views = f"{privacy.views} view{'s' if privacy.views > 1 else ''}"
        return (
            f"{run.steps_for(1)} steps, each patient in a step with probability "
            f"{privacy.sampling_rate:g}, {views}{slices} of a patient; for `limits.images` that is "
            f"steps x probability x training cases x views{' x slices' if volumes else ''}"
        )
    if train.steps is not None:
        images = run.images_for(1, volumes)
        told = f"{slices}, {images} for `limits.images`" if volumes else ""
        return f"{train.steps} steps of {batch}{told}"
    passes = f"{train.epochs:g} passes over the site's own training cases"
    told = f"{slices}; for `limits.images` that is steps x volumes x slices" if volumes else ""
    return f"{passes}, {batch} a step{told}"


def _data(data: DataSet) -> str:
    """YAML of the section `data` without its root, with comments on what a hospital may change."""
    lines = []
    for key, value in data.model_dump(mode="json", exclude={"root"}).items():
        lines.append(COMMENTS.get(key, "") + yaml.safe_dump({key: value}, sort_keys=False))
    return "".join(lines)


def _labels(classes: Sequence[str]) -> str:
    """A dataset.json that declares `classes`."""
    numbers = {name: number for number, name in enumerate(("background", *classes))}
    return json.dumps({"labels": numbers}, ensure_ascii=False)


def _folder(classes: Sequence[str]) -> str:
    """The section `data` of a site whose images lie in the layout `folder`, on one line."""
    section = {"kind": "folder", "root": "/PATH/TO/study", "classes": [*classes]}
    return json.dumps(section, ensure_ascii=False)  # which is YAML


def _split(run: Path) -> SplitOptions:
    """How the run's simulation divides cases, so that a federation uses the same parts."""
    simulation = read_yaml(run).get("sim")
    options = simulation.get("split") if isinstance(simulation, dict) else None
    content = options if isinstance(options, dict) else {}
    return validate(SplitOptions, content, [], f"{run.name}: sim.split")


def _checkpoint(run: RunConfig) -> str | None:
    """Name of the weights file that every site needs; `None` when it is embedded or random."""
    if run.model.weights == "random":
        return None
    official = ARCHITECTURES[run.model.backbone].official_file
    return official or (run.model.checkpoint.name if run.model.checkpoint else None)
