"""`medsa-predict` on pictures: the masks of evaluation, whole files, plain words when it fails."""

import csv
import json
import math
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import medsa_model.evaluate
import medsa_model.predict.run
from medsa_model.backbone import embedded_backbone, file_sha256
from medsa_model.data.images import read_mask
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import fixed_prompts
from medsa_model.prompts import Box, ByClass, Click
from medsa_model.trained import build_trained, read_trained
from tests.medsa_model.predict.made_up_adapters import (
    disc,
    picture,
    predict,
    save_nifti,
    scan,
    task_of,
    write_adapter,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lesion(tmp_path_factory) -> Path:
    """An adapter of one structure, trained on clicks and boxes."""
    return write_adapter(tmp_path_factory.mktemp("lesion"), task_of())


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """An adapter that learnt the names of two structures."""
    task = task_of(("dark", "bright"), ("click", "class"), named=True)
    return write_adapter(tmp_path_factory.mktemp("several"), task)


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Two pictures in a folder."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name, seed in (("a.png", 1), ("b.bmp", 2)):
        Image.fromarray(picture(seed)).save(folder / name)
    return folder


def mask(out: Path, case: str) -> np.ndarray:
    return np.asarray(Image.open(out / "masks" / f"{case}.png"))


def sample_of(pixels: np.ndarray, masks: np.ndarray, case: str) -> Case:
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    sample = Sample(image, torch.from_numpy(masks), case, case)
    return Case(case, case, None, None, lambda: sample)


def evaluated(adapter: Path, case: Case, kind: object) -> np.ndarray:
    """What evaluation finds, (K, H, W) bool."""
    trained = read_trained(adapter)
    model = build_trained(trained, None, CPU).model
    (found,) = medsa_model.evaluate.predict(model, case, [kind], 0, "float32")  # type: ignore[list-item]
    return found.found.numpy()


def test_a_click_gives_what_evaluation_gives_for_it(lesion, inputs, tmp_path):
    pixels = np.asarray(Image.open(inputs / "a.png"))
    case = sample_of(pixels, disc()[None], "a")
    frame = to_frame(case.load(), 64)
    ((((x, y),), _, _),) = fixed_prompts(Click(), frame, [0], 0, "a")
    # the frame has 64 of the image's 80 pixels
    place = f"{(x + 0.5) * 80 / 64 - 0.5},{(y + 0.5) * 48 / frame.content[0] - 0.5}"
    assert predict(lesion, inputs / "a.png", tmp_path / "out", "--click", place) == 0
    expected = evaluated(lesion, case, Click())[0]
    assert expected.any() and not expected.all()
    assert np.array_equal(mask(tmp_path / "out", "a"), 255 * expected)
    again = read_mask(tmp_path / "out/masks/a.png", "a", (48, 80), 1)
    assert np.array_equal(again.numpy(), expected)


def test_a_rough_mask_gives_what_evaluation_gives_for_its_box(lesion, inputs, tmp_path):
    rough = tmp_path / "rough"
    rough.mkdir()
    Image.fromarray(255 * disc().astype(np.uint8)).save(rough / "a.png")
    assert predict(lesion, inputs / "a.png", tmp_path / "out", "--rough", str(rough)) == 0
    pixels = np.asarray(Image.open(inputs / "a.png"))
    expected = evaluated(lesion, sample_of(pixels, disc()[None], "a"), Box())[0]
    assert expected.any()
    assert np.array_equal(mask(tmp_path / "out", "a"), 255 * expected)


def test_names_give_what_evaluation_gives_and_the_more_probable_one_wins(
    several, inputs, tmp_path, monkeypatch
):
    logits = []
    answers = medsa_model.evaluate.answers

    def listened(*given):
        logits.append(answers(*given))
        return logits[-1]

    monkeypatch.setattr("medsa_model.predict.segment.answers", listened)
    out = tmp_path / "out"
    assert predict(several, inputs / "a.png", out) == 0
    pixels = np.asarray(Image.open(inputs / "a.png"))
    found = evaluated(several, sample_of(pixels, np.ones((2, 48, 80), bool), "a"), ByClass())
    (each,) = logits
    assert np.array_equal(each.numpy() > 0, found) and found.any(0).any()
    expected = np.zeros((48, 80), np.uint8)
    for y in range(48):
        for x in range(80):
            one, other = each[0, y, x], each[1, y, x]
            if max(one, other) > 0:
                expected[y, x] = 1 if one >= other else 2
    assert np.array_equal(mask(out, "a"), expected)
    facts = json.loads((out / "prediction.json").read_text())
    assert facts["values"] == facts["structures"] == {"1": "dark", "2": "bright"}
    assert facts["cases"]["a"]["prompts"] == {"dark": "by name", "bright": "by name"}
    manifest = read_trained(several).manifest
    assert facts["adapter"]["base_sha256"] == manifest.base_sha256
    assert facts["adapter"]["manifest_sha256"] == manifest.sha256
    assert facts["adapter"]["round"] == 3 and facts["complete"]


@pytest.mark.parametrize(
    "orientation", [6, *(pytest.param(other, marks=pytest.mark.thorough) for other in (3, 8))]
)
def test_a_photograph_is_segmented_as_it_is_shown(lesion, tmp_path, orientation):
    stored, upright = tmp_path / "stored.jpg", tmp_path / "upright.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(picture()).save(stored, quality=95, exif=exif)
    shown = np.asarray(Image.open(stored))
    turns = {3: 2, 6: -1, 8: 1}[orientation]  # counterclockwise quarters, EXIF 2.32
    turned = np.rot90(shown, turns)
    Image.fromarray(turned).save(upright)
    words = ("--click", "20,25", "--click", "18,22", "--not", "2,3")
    for path in (stored, upright):
        assert predict(lesion, path, tmp_path / path.stem, *words) == 0
    found = mask(tmp_path / "stored", "stored")
    assert found.shape == turned.shape[:2]
    assert np.array_equal(found, mask(tmp_path / "upright", "upright")) and found.any()


def test_bad_files_stand_beside_good_ones(lesion, inputs, tmp_path, capsys):
    (inputs / "broken.png").write_bytes((inputs / "a.png").read_bytes()[:500])
    (inputs / "notes.txt").write_text("none")
    save_nifti(inputs / "ct.nii.gz", scan())
    prompts = tmp_path / "prompts.csv"
    lines = ["a,,click,20,20,,,", "b,,click,90,20,,,", "broken,,click,1,1,,,"]
    prompts.write_text("\n".join(["case,structure,kind,x0,y0,x1,y1,z", *lines]))
    out = tmp_path / "out"
    assert predict(lesion, inputs, out, "--prompts", str(prompts), "--report") == 1
    shown = capsys.readouterr()
    assert "2 in all: ct.nii.gz, notes.txt" in shown.err
    assert "case b: click 90,20 lies outside of the image, which is 80 x 48 pixels" in shown.err
    assert "case broken: the image file is truncated" in shown.err
    assert "1 of 3 cases" in shown.out and "not a medical device" in shown.out.splitlines()[0]
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]
    facts = json.loads((out / "prediction.json").read_text())
    assert list(facts["cases"]) == ["a"] and set(facts["failed"]) == {"b", "broken"}
    page = (out / "report.html").read_text()
    assert "must not leave this site" in page and "case broken: the image file" in page
    assert "default-src 'none'" in page and page.count("data:image/jpeg;base64,") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for path in (out / "masks/a.png", out / "overlays/a.png", out / "report.html"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "masks").stat().st_mode) == 0o700


def test_labels_are_scored_as_nnu_net_does(several, inputs, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    truth = np.zeros((48, 80), np.uint8)
    truth[disc()] = 1
    Image.fromarray(truth).save(labels / "a.png")
    Image.fromarray(np.full((48, 80), 7, np.uint8)).save(labels / "b.png")
    out = tmp_path / "out"
    assert predict(several, inputs, out, "--labels", str(labels), "--no-overlays") == 1
    shown = capsys.readouterr()
    assert "case b: the mask b.png has the values 7; expected 0 background, 1 dark" in shown.err
    assert (out / "masks/b.png").exists() and not list((out / "overlays").iterdir())
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) == {"foreground_mean", "mean", "metric_per_case"}
    (case,) = summary["metric_per_case"]
    assert case["prediction_file"] == "masks/a.png" and set(case["metrics"]) == {"1", "2"}
    found = mask(out, "a")
    for structure in (1, 2):
        counts = {"TP": 0, "FP": 0, "FN": 0, "TN": 0}
        for one, other in zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True):
            same = (one == structure) == (other == structure)
            counts[("T" if same else "F") + ("P" if one == structure else "N")] += 1
        metrics = case["metrics"][str(structure)]
        assert {name: metrics[name] for name in counts} == counts
        union = counts["TP"] + counts["FP"] + counts["FN"]
        if union:
            assert metrics["IoU"] == counts["TP"] / union
            assert metrics["Dice"] == 2 * counts["TP"] / (union + counts["TP"])
        else:
            assert math.isnan(metrics["Dice"])
        assert metrics["n_ref"] == int((truth == structure).sum())
        assert metrics["n_pred"] == int((found == structure).sum())
    rows = list(csv.DictReader((out / "volumes.csv").read_text().splitlines()))
    assert [(row["case"], row["structure"]) for row in rows] == [
        ("a", "dark"), ("a", "bright"), ("b", "dark"), ("b", "bright"),
    ]  # fmt: skip
    assert [int(row["voxels"]) for row in rows[:2]] == [(found == 1).sum(), (found == 2).sum()]
    assert {row["area_mm2"] for row in rows} == {row["volume_mm3"] for row in rows} == {""}


def test_results_are_never_overwritten_unasked(lesion, inputs, tmp_path, capsys):
    out, source = tmp_path / "out", inputs / "a.png"
    assert predict(lesion, source, out, "--click", "20,20") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert predict(lesion, inputs / "b.bmp", out, "--click", "60,30") == 1
    assert "is not empty" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    words = ("--rough", str(out / "masks"), "--overwrite")
    assert predict(lesion, source, out, *words) == 1
    assert "which is read" in capsys.readouterr().err and (out / "masks/a.png").exists()
    assert predict(lesion, inputs / "b.bmp", out, "--click", "60,30", "--overwrite") == 0
    assert [path.name for path in (out / "masks").iterdir()] == ["b.png"]
    (out / "mine.txt").write_text("keep")
    assert predict(lesion, source, out, "--click", "60,30", "--overwrite") == 1
    assert "does not write (mine.txt)" in capsys.readouterr().err
    assert (out / "masks/b.png").exists()


def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    lesion, several, inputs, tmp_path, capsys
):
    out, one = tmp_path / "out", inputs / "a.png"
    save_nifti(tmp_path / "ct.nii.gz", scan())
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no backbone")
    wanted, found = file_sha256(embedded_backbone()), file_sha256(other)
    for adapter, source, words, said in (
        (lesion, one, (), "no prompt is given, and the adapter was trained on click, box alone"),
        (lesion, one, ("--click", "1,2,3"), "click has 3 numbers; expected X,Y for an image"),
        (lesion, one, ("--not", "1,2"), "clicks off it alone"),
        (lesion, one, ("--box", "9,2,3,4"), "box ends before it begins"),
        (lesion, inputs, ("--click", "1,2"), "are for one case, the input has 2"),
        (lesion, one, ("--structure", "bone", "--click", "1,2"), "expected some of [lesion]"),
        (several, one, ("--click", "1,2"), "for one structure; give --structure with one of"),
        (lesion, tmp_path / "ct.nii.gz", ("--click", "1,2"), "trained on images (PNG"),
        (lesion, tmp_path / "nothing", ("--click", "1,2"), "no such file or folder"),
        (lesion, one, ("--click", "1,2", "--checkpoint", str(other)), f"{wanted}, but"),
        (lesion, one, ("--click", "1,2", "--checkpoint", str(other)), found),
        (lesion, one, ("--click", "1,2", "--dicom-seg"), "--dicom-seg needs DICOM series"),
    ):  # fmt: skip
        assert predict(adapter, source, out, *words) == 1
        assert said in capsys.readouterr().err, said
        assert not out.exists()


def test_a_prompt_of_another_kind_than_in_training_is_a_warning(several, inputs, tmp_path, capsys):
    words = ("--box", "10,8,40,32", "--structure", "dark")
    assert predict(several, inputs / "a.png", tmp_path / "out", *words) == 0
    assert "not trained on prompts of the kind box" in capsys.readouterr().err
    assert set(np.unique(mask(tmp_path / "out", "a"))) <= {0, 1}


def test_a_terminal_gets_a_bar_and_a_table_and_a_file_plain_lines(
    lesion, inputs, tmp_path, capsys, monkeypatch
):
    words = ("--click", "20,20")
    assert predict(lesion, inputs / "a.png", tmp_path / "one", *words) == 0
    plain = capsys.readouterr().out
    assert re.search(r"^a: lesion [\d,]+ pixels$", plain, re.MULTILINE) and "\x1b" not in plain
    assert "┃" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert predict(lesion, inputs / "a.png", tmp_path / "two", *words) == 0
    shown = capsys.readouterr().out
    assert "1/1" in shown and "┃" in shown and "\x1b[" in shown


def test_an_interruption_leaves_what_was_written(several, inputs, tmp_path, capsys, monkeypatch):
    segment = medsa_model.predict.run.segment_case

    def interrupted(model, task, precision, out, source, *given, **named):
        if source.case == "b":
            raise KeyboardInterrupt
        return segment(model, task, precision, out, source, *given, **named)

    monkeypatch.setattr("medsa_model.predict.run.segment_case", interrupted)
    out = tmp_path / "out"
    assert predict(several, inputs, out) == 130
    shown = capsys.readouterr()
    assert "1 of 2 cases are written" in shown.out and "Interrupted" in shown.err
    facts = json.loads((out / "prediction.json").read_text())
    assert list(facts["cases"]) == ["a"] and not facts["complete"]
    assert (out / "masks/a.png").exists() and (out / "volumes.csv").exists()


def test_overlays_are_large_enough_and_show_the_outline(lesion, inputs, tmp_path):
    assert predict(lesion, inputs / "a.png", tmp_path / "out", "--click", "25,20") == 0
    shown = np.asarray(Image.open(tmp_path / "out/overlays/a.png")).astype(int)
    assert shown.shape[1] == 512
    found = mask(tmp_path / "out", "a") > 0
    orange = (shown == (230, 159, 0)).all(-1)[: round(512 * 48 / 80)]
    assert orange.any()
    edge = np.zeros_like(found)  # pixels of the mask with a neighbour outside of it, and around
    for y, x in np.argwhere(found):
        around = found[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        edge[y, x] = not around.all() or y in (0, 47) or x in (0, 79)
    click = np.zeros_like(found)
    click[18:23, 23:28] = True
    for y, x in np.argwhere(orange):
        row, column = int(y * 80 / 512), int(x * 80 / 512)
        near = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
        assert edge[near].any() or click[near].any()
