"""`medsa-predict` on pictures: the masks of evaluation, scores, what a person sees."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import medsa_model.evaluate
from medsa_model.data.images import read_mask
from medsa_model.data.sample import Case, Sample
from medsa_model.data.transforms import to_frame
from medsa_model.evaluate import fixed_prompts
from medsa_model.prompts import Box, ByClass, Click
from medsa_model.trained import build_trained, read_trained
from tests.medsa_model.predict.made_up_adapters import disc, picture, predict

CPU = torch.device("cpu")


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
