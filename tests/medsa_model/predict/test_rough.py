"""Rough masks of volumes whose slices are resampled: asked is what the model frame has."""

import csv

import numpy as np
import torch

from medsa_model.data.sample import Sample
from medsa_model.data.volume_frames import to_volume_frame
from medsa_model.predict.places import slice_of_volume
from medsa_model.predict.segment import slices_of_mask
from tests.medsa_model.predict.made_up_adapters import (
    VOLUME,
    organ,
    predict,
    save_nifti,
    scan,
    task_of,
    write_adapter,
)


def test_the_slices_of_a_mask_are_those_of_the_frame_that_is_segmented():
    generator = np.random.default_rng(0)
    left_out = 0
    for slices, distance in ((6, 12.0), (7, 9.0), (5, 1.7), (9, None), (11, 5.0), (1, 30.0)):
        masks = generator.random((3, slices, 7, 9)) < 0.01
        masks[0] = masks[2] = False
        masks[2, 0, 5, 5] = True
        masks[1, slices // 2, 3, 4] = True
        rough = torch.from_numpy(masks)
        image = torch.rand(1, slices, 7, 9)
        sample = Sample(
            image, torch.zeros(1, slices, 7, 9, dtype=torch.bool), "a", "a", (4.0, 2, 3)
        )
        framed = to_volume_frame(Sample(image, rough, "a", "a", (4.0, 2, 3)), 16, distance)
        shown = slices_of_mask(rough, sample, distance)
        assert torch.equal(shown, framed.shown)
        depth = len(framed.image)
        for place in range(depth):
            source = slice_of_volume(place, depth, slices)
            assert torch.equal(shown[:, place], rough[:, source].flatten(1).any(1))
        left_out += int((rough.flatten(2).any(2).any(1) & ~shown.any(1)).sum())
    assert left_out


def test_a_rough_mask_on_slices_that_are_left_out_is_told_and_ends_no_call(tmp_path, capsys):
    task = task_of(("liver", "spleen"), ("box",), volumes=True)
    thick = VOLUME.model_copy(update={"slice_distance": 12.0})  # every third slice of 4 mm
    adapter = write_adapter(tmp_path / "thick", task.model_copy(update={"volume": thick}))
    source, rough = tmp_path / "ct", tmp_path / "rough"
    for folder in (source, rough):
        folder.mkdir()
    lost = np.zeros((24, 20, 6), np.uint8)
    lost[5:10, 5:10, 0] = 1
    lost[12:16, 5:10, 1] = 2
    for case, mask in (("a", lost), ("b", organ().astype(np.uint8))):
        save_nifti(source / f"{case}.nii.gz", scan())
        save_nifti(rough / f"{case}.nii.gz", mask)
    out = tmp_path / "out"
    assert predict(adapter, source, out, "--rough", str(rough), "--no-overlays") == 1
    said = capsys.readouterr().err
    assert "case a: the rough mask shows liver only on slices that are left out" in said
    assert "2 of the 6 slices (one every 12 mm); draw it on the neighbouring slices too" in said
    assert [path.name for path in (out / "masks").iterdir()] == ["b.nii.gz"]
    (row,) = csv.DictReader((out / "volumes.csv").read_text().splitlines())
    assert row["prompt"] == "boxes of the rough mask on 2 slices of 2 (resampled from 6)"
