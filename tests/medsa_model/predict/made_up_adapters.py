"""Adapters as a run writes them, of the embedded backbone in a frame of 64 pixels; small inputs."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from medsa_model.adapters import Msa
from medsa_model.backbone import Model
from medsa_model.build import Built, build
from medsa_model.checkpoint import Round, save_round
from medsa_model.evaluate_volumes import Volume
from medsa_model.predict.cli import main
from medsa_model.task import Task

SIZE = 64
MODEL, ADAPTER = Model(image_size=SIZE), Msa()
VOLUME = Volume(slices=4, overlap=1)
WINDOW = (-175.0, 250.0)


def task_of(
    structures: Sequence[str] = ("lesion",), prompts: Sequence[str] = ("click", "box"),
    named: bool = False, volumes: bool = False,
) -> Task:  # fmt: skip
    return Task(
        structures=tuple(structures), named=len(structures) if named else 0,
        prompts=tuple(prompts), volumes=volumes, window=WINDOW if volumes else None, volume=VOLUME,
        precision="float32",
    )  # fmt: skip


@cache
def built(named: int) -> Built:
    """The model itself, of which adapters of `named` names are written."""
    return build(MODEL, ADAPTER, 0, torch.device("cpu"), named)


def write_adapter(run: Path, task: Task) -> Path:
    """A round directory of a run, with adapters that do something."""
    model = built(task.named)
    generator = torch.Generator().manual_seed(7)
    state = {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.initial.items()
    }
    sections = {
        "model": MODEL.model_dump(mode="json"), "adapter": ADAPTER.model_dump(mode="json"),
        "task": task.model_dump(mode="json"),
    }  # fmt: skip
    return save_round(run, Round(3, state, {}, {}), model.manifest, sections)


def predict(adapter: Path, source: Path, out: Path, *words: str) -> int:
    """The command in this process, on the processor."""
    given = ["--adapter", str(adapter), "--input", str(source), "--out", str(out)]
    return main([*given, "--device", "cpu", *words])


def picture(seed: int = 0, height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """A dark disc and a bright one on noise, (height, width, 3)."""
    pixels = np.random.default_rng(seed).integers(100, 140, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    pixels[np.hypot(x - 25, y - 20) < 12] = (40, 20, 30)
    pixels[np.hypot(x - 60, y - 30) < 9] = (230, 220, 200)
    return pixels.astype(np.uint8)


def disc(height: int = 48, width: int = 80) -> NDArray[np.bool_]:
    """Where the dark disc of `picture` is."""
    y, x = np.mgrid[:height, :width]
    return np.asarray(np.hypot(x - 25, y - 20) < 12)


AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2.5, 0, -30], [0, 0, 4, 100], [0, 0, 0, 1]])  # LAS


def scan() -> NDArray[np.int16]:
    """HU of a body with one bright organ, in the axes left, anterior, superior: (24, 20, 6)."""
    x, y, _ = np.mgrid[:24, :20, :6]
    voxels = np.random.default_rng(3).normal(0, 15, (24, 20, 6))
    voxels[np.hypot(x - 11.5, (y - 9.5) * 1.2) > 10.5] = -1000
    voxels[organ()] += 180
    return voxels.astype(np.int16)


def organ() -> NDArray[np.bool_]:
    """Where the organ of `scan` is, on the slices 1 to 4."""
    x, y, z = np.mgrid[:24, :20, :6]
    return np.asarray((np.hypot(x - 8, y - 11) < 4.5) & (z > 0) & (z < 5))


def save_nifti(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Path:
    nibabel.Nifti1Image(voxels, affine).to_filename(path)
    return path


def in_axes(voxels: NDArray[Any], codes: str) -> nibabel.Nifti1Image:
    """`voxels` of `AFFINE` stored along other axes of the same patient."""
    ornt = nibabel.orientations
    image = nibabel.Nifti1Image(voxels, AFFINE)
    turn = ornt.ornt_transform(ornt.io_orientation(AFFINE), ornt.axcodes2ornt(tuple(codes)))
    return image.as_reoriented(turn)
