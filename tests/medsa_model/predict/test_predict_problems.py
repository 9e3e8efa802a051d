"""`medsa-predict` when something is wrong: plain words, whole files, and no case costs another."""

import errno
import json
import re
import stat
from pathlib import Path

import numpy as np
from PIL import Image

import medsa_model.predict.case
import medsa_model.predict.run
from medsa_model.backbone import embedded_backbone, file_sha256
from medsa_model.data.sample import Sample
from tests.medsa_model.predict.made_up_adapters import (
    disc,
    picture,
    predict,
    save_nifti,
    scan,
)


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


def test_prompts_that_are_left_out_are_counted_and_no_case_goes_without(
    several, inputs, tmp_path, capsys
):
    """An adapter that knows names would segment a case without a prompt all the same."""
    Image.fromarray(picture(3)).save(inputs / "c.png")
    prompts = tmp_path / "prompts.csv"
    header = "case,structure,kind,x0,y0,x1,y1,z\n"
    lines = "a,dark,click,20,20,,,\na,bright,click,60,30,,,\nb,bright,click,60,30,,,\n"
    prompts.write_text(header + lines)
    out, words = tmp_path / "out", ("--prompts", str(prompts))
    assert predict(several, inputs, out, *words, "--structure", "dark", "--no-overlays") == 1
    said = capsys.readouterr().err
    assert "--structure leaves out 2 of the 3 prompts of prompts.csv: those on bright" in said
    assert "case b: --prompts prompts.csv has no prompt on [dark] for it" in said
    assert "case c: --prompts prompts.csv has no prompt for it" in said
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]
    new = tmp_path / "new"
    prompts.write_text(header + "b,bright,click,60,30,,,\n")
    assert predict(several, inputs, new, *words, "--structure", "dark") == 1
    assert "no prompt on [dark], which --structure asks for, but on bright" in (
        capsys.readouterr().err
    )
    for name, content in (("empty.csv", header), ("empty.json", "{}")):
        (tmp_path / name).write_text(content)
        assert predict(several, inputs, new, "--prompts", str(tmp_path / name)) == 1
        assert f"{name}: no prompt is in it; expected some for each case" in capsys.readouterr().err
    assert not new.exists()


def test_masks_of_other_names_are_no_labels(lesion, inputs, tmp_path, capsys):
    truth = tmp_path / "truth.png"
    Image.fromarray(255 * disc().astype(np.uint8)).save(truth)
    out, words = tmp_path / "out", ("--click", "20,20", "--no-overlays")
    assert predict(lesion, inputs / "a.png", out, *words, "--labels", str(truth)) == 0
    (case,) = json.loads((out / "summary.json").read_text())["metric_per_case"]
    assert case["reference_file"] == "truth.png" and case["metrics"]["1"]["n_ref"] == disc().sum()
    folder, new = tmp_path / "labels", tmp_path / "new"
    folder.mkdir()
    truth.rename(folder / "truth.png")
    for option in ("--labels", "--rough"):
        given = words if option == "--labels" else ()
        assert predict(lesion, inputs / "a.png", new, *given, option, str(folder)) == 1
        assert "no mask has the name of a case. Masks: truth. Cases: a." in capsys.readouterr().err
    assert not new.exists()


def test_no_file_says_where_on_this_machine_the_call_was(several, inputs, tmp_path):
    """Summaries are handed on: a path can have the name of a patient, and of an account."""
    (inputs / "broken.png").write_bytes((inputs / "a.png").read_bytes()[:500])
    labels = tmp_path / "labels"
    labels.mkdir()
    for name, value in (("a", 1), ("b", 7)):
        Image.fromarray(value * disc().astype(np.uint8)).save(labels / f"{name}.png")
    out = tmp_path / "out"
    assert predict(several, inputs, out, "--labels", str(labels), "--report") == 1
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {"summary.json", "prediction.json", "volumes.csv", "report.html"} <= {
        path.name for path in written
    }
    for path in written:
        content = path.read_bytes()
        for place in (tmp_path, Path.cwd(), several):
            assert str(place).encode() not in content, path.name


def test_any_error_of_a_case_leaves_the_others(several, inputs, tmp_path, capsys, monkeypatch):
    def failing(case: str, sample: Sample) -> Sample:
        if case == "a":
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"
            )
        return sample

    segment = medsa_model.predict.case.segment_image
    monkeypatch.setattr(
        "medsa_model.predict.case.segment_image",
        lambda model, sample, *given: segment(model, failing(sample.case, sample), *given),
    )
    out = tmp_path / "out"
    assert predict(several, inputs, out) == 1
    shown = capsys.readouterr()
    assert "Problem: case a: not enough memory; " in shown.err and "Traceback" not in shown.err
    facts = json.loads((out / "prediction.json").read_text())
    assert list(facts["cases"]) == ["b"] and list(facts["failed"]) == ["a"] and facts["complete"]
    assert [path.name for path in (out / "masks").iterdir()] == ["b.png"]


def test_a_disk_that_is_full_at_the_end_leaves_a_folder_that_can_be_used_again(
    lesion, inputs, tmp_path, capsys, monkeypatch
):
    write = Path.write_text

    def full(path: Path, text: str, **words: str) -> int:
        if path.name == ".prediction.json.draft" and '"a.png"' in text:
            write(path, text[:9], **words)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text, **words)

    out, words = tmp_path / "out", ("--click", "20,20", "--no-overlays")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert predict(lesion, inputs / "a.png", out, *words) == 1
    assert "No space left on device" in capsys.readouterr().err
    facts = json.loads((out / "prediction.json").read_text())
    assert facts["cases"] == {} and not facts["complete"] and (out / "masks/a.png").exists()
    assert predict(lesion, inputs / "b.bmp", out, *words) == 1
    assert "is not empty" in capsys.readouterr().err
    assert predict(lesion, inputs / "b.bmp", out, *words, "--overwrite") == 0
    assert {path.name for path in out.rglob("*") if path.is_file()} == {
        "b.png", "volumes.csv", "prediction.json",
    }  # fmt: skip


def test_a_call_without_a_mask_is_repeated_without_more_words(lesion, inputs, tmp_path):
    out = tmp_path / "out"
    assert predict(lesion, inputs / "a.png", out, "--click", "200,20") == 1
    assert (out / "prediction.json").exists()
    assert predict(lesion, inputs / "a.png", out, "--click", "20,20") == 0


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


def test_numbers_below_zero_are_outside_and_no_options(lesion, inputs, tmp_path, capsys):
    for words in (("--click", "-5,3"), ("--click=-5,3",), ("--box", "-2,1,5,5")):
        assert predict(lesion, inputs / "a.png", tmp_path / "out", *words) == 1
        assert "lies outside of the image" in capsys.readouterr().err


def test_a_case_without_a_rough_mask_is_told_which_names_there_are(
    lesion, inputs, tmp_path, capsys
):
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for name in ("a.png", "b_segmentation.png"):
        Image.fromarray(255 * disc().astype(np.uint8)).save(drawn / name)
    out = tmp_path / "out"
    assert predict(lesion, inputs, out, "--rough", str(drawn), "--no-overlays") == 1
    said = capsys.readouterr().err
    assert "case b: --rough has no mask with its name; masks there: a, b_segmentation" in said
    assert [path.name for path in (out / "masks").iterdir()] == ["a.png"]
