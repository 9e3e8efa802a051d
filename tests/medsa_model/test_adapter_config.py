"""What `adapter_config.json` says is refused in one line unless this program could have said it."""

import copy
import json
import math
from pathlib import Path

import pytest

from medsa_model.adapter_config import read_sections
from medsa_model.checkpoint import CONFIG
from medsa_model.errors import CheckpointError
from medsa_model.task import Task
from tests.medsa_model.small_adapter import save, small


@pytest.fixture(scope="module")
def trained():
    return small()


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """The content of the file as a run writes it."""
    return json.loads((save(tmp_path_factory.mktemp("run"), trained) / CONFIG).read_text())


def test_what_was_written_is_read(trained, written):
    expected = (trained.model, trained.adapter, trained.task, trained.manifest)
    assert read_sections(written, Path("nowhere")) == expected


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["manifest"].update(shapes=[]), "Manifest: shapes: Input should be a valid di"),
        (lambda c: c["manifest"].update(shapes={"a": [1.5]}), "shapes.a.0: Input should be a vali"),
        (lambda c: c["manifest"]["shapes"].update({"\x1b[31m": [1]}), r"cannot be shown: \[31m"),
        (lambda c: c["manifest"].update(base_sha256="[x](http://a.b)"), "Manifest: base_sha256: S"),
        (lambda c: c["manifest"].update(image_size="32 <img>"), "Manifest: image_size: Input sho"),
        (lambda c: c["manifest"].update(updates="none"), "Manifest: updates: Input should be 'lo"),
        (lambda c: c["manifest"].update(image_size=64), "manifest_sha256 is that of another mani"),
        (lambda c: c["model"].update({"\x1b[31m": 1}), r"\(Model: \[31m: Extra inputs are not"),
        (lambda c: c["adapter"].update(kind=nested(500)), "does not say what the adapter belongs"),
        (lambda c: c["task"].update(seed=2**64), "Task: seed: Input should be less than"),
        (lambda c: c["task"].update(named=10**12), "named is 1000000000000, but there are 2 stru"),
        (lambda c: c["task"].update(window=[250, -175]), "found 250 -175; expected two CT numbers"),
        (lambda c: c["task"].update(window=[math.nan, 3]), "found nan 3; expected two CT numbers"),
        (lambda c: c["task"].update(prompts=["smile"]), "Task: prompts.0: Input should be 'cl"),
        (lambda c: c["task"].update(precision="float8"), "Task: precision: String should match"),
        (lambda c: c["task"].update(prompts=["class"]), "named is 0: no name was learnt"),
        (lambda c: c["task"].update(structures=["a", "a"]), "a structure is named twice"),
        (lambda c: c["task"].update(structures=["../a"]), "'../a' is no name of a structure"),
        (lambda c: c["task"].update(structures=["\x1b[2J"]), r"'\\x1b\[2J' is no name"),
        (lambda c: c["task"].update(structures=[" "]), "' ' is no name of a structure"),
    ],
)  # fmt: skip
def test_a_hostile_configuration_is_refused_in_one_printable_line(change, told, written):
    content = copy.deepcopy(written)
    change(content)
    with pytest.raises(CheckpointError, match=told) as raised:
        read_sections(content, Path("nowhere"))
    assert str(raised.value).isprintable()


def test_the_path_of_a_backbone_in_a_file_is_not_used(trained, written):
    content = {**written, "model": {**written["model"], "checkpoint": "/etc/passwd"}}
    assert read_sections(content, Path("nowhere"))[0] == trained.model


def test_a_manifest_of_before_it_had_kinds_of_updates_is_read(trained, written):
    """Its sum is of what it was then."""
    content = copy.deepcopy(written)
    del content["manifest"]["updates"]
    content["manifest_sha256"] = "0" * 64
    assert read_sections(content, Path("nowhere"))[3] == trained.manifest


def test_usual_names_of_structures_are_valid():
    names = ("portal_and_splenic_vein", "optic disc", "Leber (Segment II)", "脾", "a|b")
    assert Task(structures=names, prompts=("box",)).structures == names


def test_an_adapter_of_an_older_version_has_the_task_of_its_run(written, tmp_path):
    content = {key: value for key, value in written.items() if key != "task"}
    place = tmp_path / "rounds" / "0002"
    place.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"has no key task: .*Use the adapter where it lies"):
        read_sections(content, place)
    (tmp_path / "config.yaml").write_text(
        "name: old\nseed: 9\ndata: {kind: folder, classes: [optic disc]}\nprompt:\n"
        "  train: [{kind: box}]\n"
    )
    (tmp_path / "final").symlink_to(place)
    expected = Task(structures=("optic disc",), prompts=("box",), seed=9)
    for folder in (place, tmp_path / "final"):
        assert read_sections(content, folder)[2] == expected
