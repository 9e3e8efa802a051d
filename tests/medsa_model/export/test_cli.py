"""`medsa-export`: what is printed, what is written, and what is refused before anything is."""

import json

import pytest
import torch

from medsa_model.backbone import embedded_backbone, read_tensors
from medsa_model.checkpoint import CONFIG
from medsa_model.export.cli import COMMANDS, export_parser, main
from medsa_model.trained import build_trained, read_trained
from tests.medsa_model.small_adapter import save, score, small, write_facts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    save(run, small())
    write_facts(run)
    score(run, "vienna", 0.75, 4)
    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as the published program writes it, for a block of the small backbone."""
    tensors = read_tensors(embedded_backbone())
    tensors["image_encoder.neck.0.weight"] += 0.5
    for kind in ("Space", "MLP", "Depth"):
        for layer, shape in {"D_fc1": (8, 128), "D_fc2": (128, 8)}.items():
            name = f"image_encoder.blocks.5.{kind}_Adapter.{layer}"
            tensors |= {f"{name}.weight": torch.ones(shape), f"{name}.bias": torch.ones(shape[0])}
    path = tmp_path_factory.mktemp("published") / "weights.pth"
    torch.save({"epoch": 3, "state_dict": tensors}, path)
    return path


def test_an_adapter_is_written_with_its_card_and_can_be_used(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["adapter", "--adapter", str(run), "--out", str(out)]) == 0
    assert "README.md  model card: read it" in capsys.readouterr().out
    assert "mean Dice **0.750**" in (out / "README.md").read_text()
    built = build_trained(read_trained(out), None, torch.device("cpu"))
    expected = read_trained(run).state
    parameters = dict(built.model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "import"])
def test_a_folder_that_holds_anything_is_refused_before_work_begins(command, tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    words = [command, "--adapter", "nowhere", "--out", str(tmp_path)]
    assert main(words) == 1
    assert "is not empty and nothing is ever overwritten" in capsys.readouterr().err


def test_published_weights_become_an_adapter_with_a_table_of_what_became_of_them(
    published, tmp_path, capsys
):
    words = ["import", "--weights", str(published), "--backbone", "vit_tiny", "--image-size", "32",
             "--structures", "optic cup", "--prompts", "box", "click",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [" ".join(line.split()) for line in lines]
    of_block = "image_encoder.blocks.5"
    assert f"{of_block}.MLP_Adapter 4 tensors sam.{of_block}.mlp_adapter" in table
    assert any(line.startswith(f"{of_block}.Depth_Adapter 4 tensors acts across") for line in table)
    assert any(line.startswith("image_encoder.neck.0.weight 1 tensor differs") for line in table)
    assert "not in the file, and as before training: none" in table
    trained = read_trained(tmp_path / "out")
    assert trained.task.structures == ("optic cup",) and trained.task.prompts == ("box", "click")
    assert len(trained.state) == 8 and all(each.eq(1).all() for each in trained.state.values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Imported from published weights" in card
    assert "The answers are not those of the published model." in card
    assert published.name not in card and str(tmp_path) not in card


def test_an_import_for_volumes_says_that_it_is_a_start(published, tmp_path, capsys):
    words = ["import", "--weights", str(published), "--backbone", "vit_tiny", "--image-size", "32",
             "--window", "-175", "250", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    assert "does not give the published answers" in capsys.readouterr().out
    own = json.loads((tmp_path / "out" / CONFIG).read_text())["fed_medsa"]
    assert own["task"]["window"] == [-175, 250] and own["adapter"]["depth"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "vit_b"], "--checkpoint is needed: the path of sam_vit_b_01ec64.pth"),
        (["--backbone", "vit_tiny", "--image-size", "33"], "--image-size 33: vit_tiny needs a mul"),
        (["--backbone", "vit_tiny", "--structures", "a", "a"], "--structures: a structure is name"),
        (["--backbone", "vit_tiny", "--structures", ""], "--structures: '' is no name of a struct"),
        (
            ["--backbone", "vit_tiny", "--window", "9", "-9"],
            "--window: found 9 -9; expected two CT",
        ),
        (["--backbone", "vit_tiny", "--window", "nan", "inf"], "--window: found nan inf; expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, published, tmp_path, capsys):
    words = ["import", "--weights", str(published), *options, "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_names_of_structures_cannot_be_asked_of_weights_that_learnt_none(capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            ["import", "--weights", "a", "--backbone", "vit_b", "--prompts", "class", "--out", "b"]
        )
    assert ended.value.code == 2


def test_every_command_has_help_with_examples_that_it_understands(capsys):
    parser = export_parser()
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0 and "exit codes:" in text
        examples = text.partition("examples:\n")[2].partition("exit codes:")[0]
        for example in examples.replace("\\\n", " ").strip().splitlines():
            program, *words = example.split()
            assert program == "medsa-export" and parser.parse_args(words).command == command


@pytest.mark.parametrize("command", ["adapter", "bundle"])
def test_who_hands_on_a_card_that_names_sites_is_told_to_ask_them(command, run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([command, "--adapter", str(run), "--out", str(out)]) == 0
    said = "README.md names 2 sites with their scores: ask them before it is published"
    assert said in capsys.readouterr().out


def test_no_site_is_named_when_that_is_asked_for(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["adapter", "--adapter", str(run), "--out", str(out), "--without-sites"]) == 0
    assert "ask them" not in capsys.readouterr().out
    for path in out.iterdir():
        assert not any(name in path.read_bytes() for name in (b"vienna", b"lyon"))
    card = (out / "README.md").read_text()
    assert "worst site **0.750** (site " in card and "The sites are not named here" in card


def test_the_folder_in_which_one_is_cannot_be_replaced(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for out in (".", str(tmp_path)):
        assert main(["adapter", "--adapter", str(run), "--out", out]) == 1
        assert "choose a new folder inside it, such as" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_exported_with_a_warning(run, tmp_path, capsys):
    save(tmp_path / "run", read_trained(run), 1, final=False)
    words = ["adapter", "--adapter", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "is not complete: round 1 is used" in capsys.readouterr().err
    assert read_trained(tmp_path / "out").state.keys() == read_trained(run).state.keys()
