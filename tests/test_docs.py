"""Every command in README and guides is run or parsed, examples of code run, links lead somewhere.

Commands that simulate and measure are run in test_readme.py, those of federations in
test_readme_federation.py; here are those that use a finished run.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import medsa_model.predict.cli
import server.cli
from medsa_model.build import build
from medsa_model.checkpoint import write_adapter
from medsa_model.config import load_run
from medsa_model.config_reference import anchor
from medsa_model.export.cli import export_parser
from medsa_model.export.cli import main as export
from sim import table
from sim.cli import main as simulate
from tests.printed_commands import FENCE, PAGES, ROOT, fences, inline, printed

ELSEWHERE = {
    "medsa-sim ": "run in test_readme.py",
    "medsa-bench ": "begun in test_readme.py; what it measures takes minutes",
    "medsa-audit ": "run in test_readme.py",
    "flower-server ": "run or parsed in test_readme_federation.py, but for report, which is here",
    "python client/run.py ": "run or parsed in test_readme_federation.py",
    "pip ": "parsed in test_readme_federation.py by pip, which would take minutes and a network",
    "unzip ": "run in test_readme_federation.py",
}
HERE = {
    "medsa-predict ": "run here",
    "medsa-export ": "run here; parsed are onnx, which takes half a minute and is run in "
    "tests/medsa_model/export, and import, which needs an official SAM file",
    "python -m sim.table ": "run here",
    "python -m monai.bundle ": "run here, after the export of the bundle",
    "make ": "the target is looked up: it would install everything",
    ". .venv/bin/activate": "the environment of make, in which this runs or another one",
    "pytest": "it is what runs this",
    "export FLWR_": "Flower's variables, for the next one",
    "flwr run ": "run in tests/sim/test_flower_app.py, with processes of its own",
}
PREDICTS, EXPORTS, BUNDLES = (
    printed(program) for program in ("medsa-predict ", "medsa-export ", "python -m monai.bundle ")
)
TINY = ["rounds=1", "model.image_size=32", "train.epochs=null", "train.steps=1"]
TINY += ["train.batch_size=2", "sim.examples=0", "sim.rows=[]", "sim.references=[]"]
TINY += ["sim.processes=1"]
SIZE = (256, 256)  # height and width, as the pages say; the printed clicks and boxes are inside
FEDERATED = "runs/federation/demo/TIME"  # TIME is the start of a run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the printed commands name: adapters, images, a CT volume."""
    folder = tmp_path_factory.mktemp("docs")
    images = ["model.image_size=32"]
    for name in ("runs/isic_few", FEDERATED, "site_a/state/results/hospital-1b2c3d4e"):
        write_adapters(folder / name, "hospital.yaml", images)
    organs = "data={kind: phantom, classes: [liver, spleen]}"
    write_adapters(folder / "runs" / "btcv", "btcv.yaml", [organs, *images])
    for number, case in enumerate(("case_001", "case_002")):
        mask = np.zeros(SIZE, np.uint8)
        mask[60:190, 40 + number : 210 + number] = 255
        image = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        for kind, picture in (("images", image), ("drawn", mask), ("labels", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / kind / f"{case}.png", compress_level=1)
    shutil.copy(folder / "images" / "case_001.png", folder)
    Image.open(folder / "case_001.png").save(folder / "lesion.jpg")
    (csv,) = fences(PAGES["docs/hospital.md"], "csv")
    (folder / "prompts.csv").write_text(re.sub("^ +", "", csv, flags=re.MULTILINE))
    voxels = np.random.default_rng(1).normal(40, 200, (40, 36, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2, 2, 5, 1])), folder / "ct.nii.gz")
    return folder


def write_adapters(run: Path, config: str, overrides: list[str]) -> None:
    """A folder with adapters as before any training."""
    settings = load_run(ROOT / "configs" / config, overrides)
    cpu = torch.device("cpu")
    built = build(settings.model, settings.adapter, settings.seed, cpu, settings.named_classes)
    run.mkdir(parents=True)
    write_adapter(run, built.initial, built.manifest, settings.sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with finished runs of three seeds."""
    folder = tmp_path_factory.mktemp("finished")
    demo = str(ROOT / "configs" / "demo.yaml")
    for seed, name in enumerate(("isic", "isic-2", "isic-3")):
        out = ["--out", str(folder / "runs" / name), f"seed={seed}", "data.cases_per_site=6"]
        assert simulate(["--config", demo, *out, *TINY]) == 0
    (folder / FEDERATED).parent.mkdir(parents=True)
    for name in (FEDERATED, "runs/isic_few"):
        (folder / name).symlink_to(folder / "runs" / "isic")
    return folder


def words(command: str) -> list[str]:
    """The words of a printed command after its program."""
    return shlex.split(command.replace("/PATH/TO/", "").removeprefix("python -m "))[1:]


def test_every_printed_command_is_known_here():
    """Of a new one it has to be said who runs or parses it."""
    known = {**ELSEWHERE, **HERE}
    assert [command for command in printed() if not command.startswith(tuple(known))] == []
    assert [program for program in known if not printed(program)] == []
    # commands are in fences without a language: in another kind nobody would see them
    kinds = {match[1] for text in PAGES.values() for match in FENCE.finditer(text)}
    assert kinds <= {"", "csv", "json", "python", "text", "yaml"}
    for program in ELSEWHERE:
        name = "test_readme.py" if program.startswith("medsa") else "test_readme_federation.py"
        assert f'printed("{program}")' in (ROOT / "tests" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", PREDICTS)
def test_a_printed_prediction_is_understood(command, monkeypatch):
    monkeypatch.setattr("medsa_model.predict.run.run_prediction", lambda options: 42)
    assert medsa_model.predict.cli.main(words(command)) == 42


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            each, marks=() if f"\n{each}\n" in PAGES["README.md"] else pytest.mark.thorough
        )
        for each in PREDICTS
    ],
)
def test_a_printed_prediction_runs(command, place, tmp_path, monkeypatch):
    if "--input series" in command:
        pytest.importorskip("highdicom")
        write_printed_series(place / "series")
    ran = words(command)
    out = tmp_path / ran[ran.index("--out") + 1]
    ran[ran.index("--out") + 1] = str(out)
    monkeypatch.chdir(place)
    assert medsa_model.predict.cli.main(ran) == 0
    case = Path(ran[ran.index("--input") + 1]).name.partition(".")[0]
    suffix = ".nii.gz" if "runs/btcv" in command else ".png"
    cases = ["case_001", "case_002"] if case == "images" else [case]
    assert [file.name for file in sorted((out / "masks").glob(f"*{suffix}"))] == [
        f"{case}{suffix}" for case in cases
    ]
    assert (out / "report.html").exists() == ("--report" in ran)
    assert (out / "summary.json").exists() == ("--labels" in ran)
    assert (out / "masks" / f"{case}.dcm").exists() == ("--dicom-seg" in ran)
    for name in ("prediction.json", "volumes.csv", f"overlays/{cases[0]}.png"):
        assert (out / name).exists()


def write_printed_series(folder: Path) -> None:
    from tests.medsa_model.data.dicom_files import body, write_series  # needs pydicom

    if not folder.exists():
        study = dict.fromkeys(
            ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientBirthDate",
             "PatientSex", "ReferringPhysicianName", "PositionReferenceIndicator"), "",
        )  # fmt: skip
        study |= {"StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}
        study |= {"SeriesNumber": 1, "SliceThickness": 5}
        write_series(folder, body(shape=(6, 40, 36)), **study)


@pytest.mark.parametrize("command", EXPORTS)
def test_a_printed_export_is_understood(command):
    options = export_parser().parse_args(words(command))
    assert options.out and (options.command == "import") == ("--weights" in command)


@pytest.mark.parametrize("command", [c for c in EXPORTS if " adapter " in c])
def test_a_printed_export_runs(command, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    run_export(command, tmp_path)
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "adapter" / name).exists()


@pytest.mark.thorough
def test_a_printed_bundle_runs(place, tmp_path, monkeypatch):
    """By MONAI's own command line, in a process."""
    pytest.importorskip("fire")
    monkeypatch.chdir(place)
    (made,) = [command for command in EXPORTS if " bundle " in command]
    run_export(made, tmp_path)
    (place / "bundle").symlink_to(tmp_path / "bundle")
    for command in BUNDLES:
        more = shlex.split(command)[1:]
        more[more.index("--output_dir") + 1] = str(tmp_path / "masks")
        subprocess.run([sys.executable, *more], check=True, cwd=place, timeout=100)
        assert len(list((tmp_path / "masks").rglob("*.png"))) == 2


def run_export(command: str, tmp_path: Path) -> None:
    """As printed, into `tmp_path`."""
    ran = words(command)
    place = ran.index("--out") + 1
    ran[place] = str(tmp_path / ran[place])
    assert export(ran) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("command", printed("python -m sim.table "))
def test_a_printed_table_is_made(command, finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert table.main(words(command)) == 0
    assert "| federated |" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("command", printed("flower-server report "))
def test_a_printed_report_is_made(command, finished, monkeypatch):
    monkeypatch.chdir(finished)
    page = finished / FEDERATED / "report.html"
    page.unlink()
    assert server.cli.main(words(command)) == 0
    assert page.exists()


@pytest.mark.parametrize("command", printed("make "))
def test_a_printed_target_is_there(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in words(command):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_options_in_sentences_are_those_of_the_commands():
    """As `medsa-predict --print-completion bash`, which no fence has."""
    chapters = re.split(r"^## ", PAGES["docs/commands.md"], flags=re.MULTILINE)
    for program in ("medsa-sim", "medsa-predict", "medsa-export", "flower-server", "medsa-audit"):
        (chapter,) = [each for each in chapters if each.startswith((program, f"`{program}`"))]
        for command in inline(program):
            for option in re.findall(r" (--[a-z-]+)", command):
                assert re.search(rf"{option}(?![\w-])", chapter), command


def headings(text: str) -> list[str]:
    """The anchors of a page."""
    return [anchor(found) for found in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = PAGES[page] if page == "docs/commands.md" else FENCE.sub("", PAGES[page])
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, fragment = target.partition("#")
        file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert file.exists(), target
        if fragment:
            assert fragment in headings(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_headings_differ_and_files_that_are_named_exist(page):
    found = headings(PAGES[page])
    assert len(set(found)) == len(found), found
    for name in re.findall(r"configs/\w+\.yaml", PAGES[page]):
        assert (ROOT / name).exists()
    assert not re.search(r"@@|[A-Z]_HERE\b|READING|TODO", PAGES[page])


def test_numbers_of_the_readme_are_those_of_the_benchmark():
    numbers = re.findall(r"\d\.\d+ ± \d\.\d+|\d+\.\d+ (?:s|MB)\b", PAGES["README.md"])
    assert len(numbers) > 30
    assert [each for each in numbers if each not in PAGES["docs/benchmark.md"]] == []


def test_every_guide_is_linked_from_the_readme():
    for page in PAGES:
        if page != "README.md":
            assert f"]({page})" in PAGES["README.md"]
