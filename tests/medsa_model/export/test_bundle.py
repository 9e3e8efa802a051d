"""MONAI bundles: MONAI's own parser runs them, and masks are those of a naive computation."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, MetaProperties
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image

from medsa_model.adapters import Msa
from medsa_model.backbone import Model
from medsa_model.build import build
from medsa_model.checkpoint import STATE
from medsa_model.data.sample import Sample
from medsa_model.data.transforms import from_frame, to_frame
from medsa_model.data.volume_frames import from_volume_frame, to_volume_frame
from medsa_model.errors import ConfigError
from medsa_model.evaluate_volumes import Volume
from medsa_model.export.bundle import write_bundle
from medsa_model.export.bundle_network import Network
from medsa_model.prompts import collate
from medsa_model.sam import MedSam
from medsa_model.task import Task
from medsa_model.trained import Trained, build_trained
from medsa_model.volume_chunks import encode_in_chunks

ROOT = Path(__file__).resolve().parents[3]
SIZE = 32
VOLUME = Volume(slices=4, overlap=1)


def trained(volumes: bool) -> Trained:
    """Adapters away from their start: of volumes with depth and names, else with neither."""
    model = Model(image_size=SIZE)
    adapter = Msa(depth=volumes, condition="hyper" if volumes else "none", blocks="last-1")
    named = 2 if volumes else 0
    built = build(model, adapter, 0, torch.device("cpu"), named)
    noise, scale = torch.Generator().manual_seed(7 if volumes else 3), 0.1 if volumes else 0.3
    state = {name: tensor + scale * torch.randn(tensor.shape, generator=noise)
             for name, tensor in built.initial.items()}  # fmt: skip
    task = (
        Task(structures=("liver", "spleen"), named=2, prompts=("class",), volumes=True,
             volume=VOLUME, window=(-100.0, 200.0))
        if volumes
        else Task(structures=("lesion",), prompts=("box", "none"))
    )  # fmt: skip
    return Trained(Path("nowhere"), model, adapter, task, built.manifest, state)


@pytest.fixture(scope="module")
def image_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(trained(False), tmp_path_factory.mktemp("bundle") / "lesions")


@pytest.fixture(scope="module")
def volume_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(trained(True), tmp_path_factory.mktemp("bundle") / "organs")


def written(given: Trained, out: Path) -> Path:
    lines = write_bundle(given, None, out)
    assert any("inference.json" in line for line in lines)
    return out


def parsed(bundle: Path, **changes: Any) -> ConfigParser:
    """The configuration as MONAI's command line changes it."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser.update({"bundle_root": str(bundle), "device": "$torch.device('cpu')", **changes})
    return parser


def picture(path: Path) -> Path:
    """A noisy picture that is not square."""
    levels = np.random.default_rng(3).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(levels).resize((41, 53), Image.Resampling.BICUBIC).save(path)
    return path


def scan(path: Path) -> Path:
    """A volume whose axes go to anterior, inferior and right, with slices of 3 mm."""
    rough = np.random.default_rng(4).normal(50, 150, (8, 7, 6)).astype(np.float32)
    voxels = rough.repeat(4, 0).repeat(1, 1).repeat(5, 2).astype(np.int16)
    affine = np.array([[0, 0, 2.0, 5], [1.5, 0, 0, -7], [0, -3.0, 0, 40], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    assert "".join(nibabel.aff2axcodes(affine)) == "AIR"
    nibabel.save(image, path)
    return path


@torch.no_grad()
def naive_image(model: MedSam, path: Path, box: tuple[float, ...] | None) -> NDArray[np.uint8]:
    """The mask (H, W) by itself, or with a box in pixels of the file."""
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float()
    frame = to_frame(Sample(pixels, torch.zeros(1, *pixels.shape[1:], dtype=torch.bool), "", ""),
                     SIZE)  # fmt: skip
    row: Any = ([], [], None)
    if box is not None:
        y, x = (new / old for new, old in zip(frame.content, frame.original, strict=True))
        row = ([], [], (box[0] * x, box[1] * y, (box[2] + 1) * x - 1, (box[3] + 1) * y - 1))
    logits = model(frame.image[None].float(), collate([row]))
    found = from_frame(logits[0], frame.content, frame.original)[0]
    return ((found > 0) * 255).numpy().astype(np.uint8)


@torch.no_grad()
def naive_volume(model: MedSam, path: Path) -> NDArray[np.uint8]:
    """Numbers of the structures in the axes of the file, each asked for by its name."""
    file = nibabel.load(path)
    frame = orientations.axcodes2ornt(("S", "P", "L"))
    turn = orientations.ornt_transform(orientations.io_orientation(file.affine), frame)
    hounsfield = orientations.apply_orientation(file.get_fdata(dtype=np.float32), turn)
    grey = (np.clip(hounsfield, -100, 200) + np.float32(100)) * np.float32(255 / 300)
    voxels = torch.from_numpy(np.ascontiguousarray(grey)).expand(3, -1, -1, -1)
    nothing = torch.zeros(1, *voxels.shape[1:], dtype=torch.bool)
    framed = to_volume_frame(Sample(voxels, nothing, "", "", (3.0, 1.5, 2.0)), SIZE, None)
    image = framed.image.float().expand(3, -1, -1, -1)
    embedding = encode_in_chunks(model, image, VOLUME.slices, VOLUME.overlap)
    planes = [torch.zeros(framed.original)]
    for structure in range(2):
        depth = len(framed.image)
        prompt = collate([([], [], None)] * depth, [structure] * depth)
        logits = model.to_frame(model.decode(embedding, prompt)[0])[:, 0]
        planes.append(from_volume_frame(logits, framed))
    numbers = torch.stack(planes).argmax(0).numpy().astype(np.uint8)
    back = orientations.ornt_transform(frame, orientations.io_orientation(file.affine))
    return np.asarray(orientations.apply_orientation(numbers, back))


@pytest.mark.parametrize("box", [None, (5, 8, 30, 40)])
def test_an_image_is_segmented(image_bundle: Path, tmp_path: Path, box: Any) -> None:
    """By itself and with a box: every pixel as the naive computation has it."""
    path = picture(tmp_path / "case one.png")
    changes = {"dataset_dir": str(path), "output_dir": str(tmp_path / "masks"), "box": box}
    parsed(image_bundle, **changes).get_parsed_content("run")
    mask = np.asarray(Image.open(tmp_path / "masks" / "case one.png"))
    model = build_trained(trained(False), None, torch.device("cpu")).model
    assert 0 < (mask > 0).mean() < 1
    np.testing.assert_array_equal(mask, naive_image(model, path, box))


def test_a_volume_of_another_orientation_is_segmented(volume_bundle: Path, tmp_path: Path) -> None:
    """Every voxel as the naive computation has it, on the image, in more than one chunk."""
    (tmp_path / "scans").mkdir()
    path = scan(tmp_path / "scans" / "case.nii.gz")
    changes = {"dataset_dir": str(tmp_path / "scans"), "output_dir": str(tmp_path / "masks")}
    parsed(volume_bundle, **changes).get_parsed_content("run")
    mask, image = nibabel.load(tmp_path / "masks" / "case.nii.gz"), nibabel.load(path)
    assert mask.shape == image.shape and image.shape[1] > VOLUME.slices
    np.testing.assert_array_equal(mask.affine, image.affine)
    model = build_trained(trained(True), None, torch.device("cpu")).model
    found = np.asarray(mask.dataobj)
    assert set(np.unique(found)) == {0, 1, 2}
    np.testing.assert_array_equal(found, naive_volume(model, path))


def test_a_bad_case_costs_no_other_and_is_told_at_the_end(
    image_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        picture(folder / name)
    (folder / "b.png").write_bytes(b"")
    changes = {"dataset_dir": str(folder), "output_dir": str(tmp_path / "masks")}
    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        parsed(image_bundle, **changes).get_parsed_content("run")
    told = str(caught.value.__cause__ or caught.value)
    assert "1 case(s) have no mask" in told and "case b" in told
    written = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in written] == ["a.png", "c.png"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}


def test_the_network_alone_answers_for_a_long_volume_as_the_steps_do(volume_bundle: Path) -> None:
    """Its slices see each other in the chunks of the task alone."""
    network = parsed(volume_bundle).get_parsed_content("network_def")
    depth = VOLUME.slices + 3
    image = torch.rand(1, 3, SIZE, SIZE, depth, generator=torch.Generator().manual_seed(2)) * 255
    spleen = collate([([], [], None)] * depth, [1] * depth)
    slices_first = image[0].movedim(-1, 1)
    with torch.no_grad():
        embedding = encode_in_chunks(network.model, slices_first, VOLUME.slices, VOLUME.overlap)
        logits = network.model.to_frame(network.model.decode(embedding, spleen, depth)[0])[:, 0]
        assert torch.equal(network(image)[0, 1].movedim(-1, 0), logits)
        at_once = network.model(slices_first[None], spleen)[0, 0]
    assert not torch.allclose(at_once, logits, atol=1e-3)


def test_the_network_alone_has_the_shapes_of_monai(image_bundle: Path, volume_bundle: Path) -> None:
    """And the answers of the model, slices last."""
    network = parsed(volume_bundle).get_parsed_content("network_def")
    image = torch.rand(2, 3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (2, 2, SIZE, SIZE, 3)
        spleen = collate([([], [], None)] * 6, [1] * 6)
        expected = network.model(image.movedim(-1, 2), spleen)
        assert torch.equal(logits[:, 1:], expected.movedim(2, -1))
        assert torch.equal(network(image, spleen), logits[:, 1:])
        by_itself = parsed(image_bundle).get_parsed_content("network_def")
        assert by_itself(image[..., 0]).shape == (2, 1, SIZE, SIZE)


def test_a_network_that_needs_a_prompt_says_so() -> None:
    given = trained(False)
    task = given.task.model_copy(update={"prompts": ("click", "box")})
    model = build_trained(given, None, torch.device("cpu")).model
    with pytest.raises(ConfigError, match="click, box"):
        Network(model, task)(torch.zeros(1, 3, SIZE, SIZE))


def test_the_files_are_those_of_the_specification(volume_bundle: Path) -> None:
    """The keys that it asks for, all of MONAI's properties, no pickle, no trace of the maker."""
    names = {str(path.relative_to(volume_bundle)) for path in volume_bundle.rglob("*.*")}
    assert {"configs/metadata.json", "configs/inference.json", "configs/logging.conf",
            "docs/README.md", f"models/{STATE}", "models/adapter_config.json"} <= names  # fmt: skip
    assert not [name for name in names if name.endswith((".pt", ".pth", ".ts", ".pkl"))]
    assert "Apache License" in (volume_bundle / "LICENSE").read_text()
    meta = json.loads((volume_bundle / "configs" / "metadata.json").read_text())
    assert meta.keys() >= {
        "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "task", "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    for tensor, channels in (("inputs", 3), ("outputs", 2)):
        (content,) = meta["network_data_format"][tensor].values()
        assert content.keys() >= {
            "type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range",
            "is_patch_data", "channel_def",
        }  # fmt: skip
        assert content["num_channels"] == len(content["channel_def"]) == channels
    parser = parsed(volume_bundle)
    wanted = {**InferProperties, **MetaProperties}
    assert [p["id"] for p in wanted.values() if p["required"] and p["id"] not in parser] == []
    content = b"".join(p.read_bytes() for p in volume_bundle.rglob("*") if p.is_file())
    for trace in (ROOT, volume_bundle.parent, Path.home()):
        assert str(trace).encode() not in content


@pytest.mark.thorough
def test_the_command_of_monai(image_bundle: Path, tmp_path: Path) -> None:
    """`python -m monai.bundle run`, from another folder."""
    pytest.importorskip("fire")
    (tmp_path / "input").mkdir()
    path = picture(tmp_path / "input" / "case.png")
    command = [
        sys.executable, "-m", "monai.bundle", "run",
        "--config_file", str(image_bundle / "configs" / "inference.json"),
        "--bundle_root", str(image_bundle), "--dataset_dir", str(tmp_path / "input"),
        "--output_dir", str(tmp_path / "masks"), "--box", "[5, 8, 30, 40]",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "masks" / "case.png"))
    model = build_trained(trained(False), None, torch.device("cpu")).model
    np.testing.assert_array_equal(mask, naive_image(model, path, (5, 8, 30, 40)))
