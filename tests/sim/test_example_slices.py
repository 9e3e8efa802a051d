"""Pictures of volumes: which slice, in which proportions, and that prompts and answers are those of
evaluation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from medsa_model.adapters import Msa
from medsa_model.adapters.freeze import trained_parameters
from medsa_model.config import RunConfig, validate
from medsa_model.data.sample import Case, Sample
from medsa_model.evaluate import score
from medsa_model.evaluate_volumes import predict_volume
from medsa_model.prompts import Box, tight_box
from medsa_model.sam import MedSam
from medsa_model.state import adapter_state, load_adapter_state
from sim.example_slices import Listener
from sim.example_tiles import CLICK, FOUND, TILE, TRUTH
from sim.examples import write_examples

SPACING = (4.0, 1.0, 3.0)  # a slice has 40 rows and 20 columns: 40 mm x 60 mm
MM = TILE / 60  # pixels of a tile per mm
FRAME = TILE / 48  # pixels of a tile per pixel of the model frame
ROWS, COLUMNS = slice(16, 34), slice(7, 15)  # the second structure where it is largest
PLACE = 2  # the first of two equal slices
SHOWN = [1, 2, 3, 4]


def sample() -> Sample:
    """Three structures: none, a bar on four slices, and a larger one that is not to be shown."""
    mask = torch.zeros(3, 6, 40, 20, dtype=torch.bool)
    mask[1, 1:5, 16:24, COLUMNS] = True
    mask[1, PLACE : PLACE + 2, ROWS, COLUMNS] = True
    mask[2, 4, :, 1:18] = True
    generator = torch.Generator().manual_seed(0)
    image = 100 + 20 * torch.rand(1, 6, 40, 20, generator=generator) + 60 * mask[1]
    return Sample(image.expand(3, -1, -1, -1), mask, "one", "one", SPACING)


CASE = Case("one", "one", "site_a", None, sample, volume=True)


def config(kind: dict[str, object], **volume: float) -> RunConfig:
    settings = {
        "name": "pictures", "rounds": 1, "model": {"image_size": 48}, "volume": volume,
        "data": {"kind": "phantom", "classes": ["liver", "spleen", "aorta"]},
        "prompt": {"train": [{"kind": kind["kind"]}], "evaluate": [kind]},
    }  # fmt: skip
    return validate(RunConfig, settings, [], "f")


@pytest.fixture
def model(tiny) -> MedSam:
    Msa().inject(tiny.model, 0)
    tiny.model.learn_classes(3, 0)
    return tiny.model.eval()


@pytest.fixture
def states(model):
    """Two rows that answer differently."""
    first = adapter_state(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return {"zero-shot": first, "federated": adapter_state(model)}


def drawn(folder, states, model, settings, case=CASE):
    """The entry of the only example, and its tiles without their frames."""
    write_examples(folder, {"site_a": [case]}, {"site_a": states}, model, settings)
    (entry,) = json.loads((folder / "examples.json").read_text())
    strip = np.asarray(Image.open(folder / entry["file"]))
    assert strip.shape[0] == TILE + 4
    return entry, [tile[2:-2, 2:-2] for tile in np.split(strip, len(states) + 2, axis=1)]


def places(tile, colour) -> np.ndarray:
    """(y, x) of the pixels of a colour."""
    return np.argwhere((tile == np.array(colour)).all(-1))


def test_the_largest_slice_is_shown_in_proportions_of_mm(model, states, tmp_path):
    entry, tiles = drawn(tmp_path, states, model, config({"kind": "box"}))
    assert entry["prompt"] == "box, spleen on slice 3 of 6, Dice of all its slices"
    assert (entry["case"], list(entry["dice"])) == ("one", ["zero-shot", "federated"])
    height = round(40 * MM)
    for tile in tiles:
        assert (tile[height:] == 255).all() and (tile[:height] < 255).any(-1).all()
    low, high = np.array([16 * 1, 7 * 3]) * MM, np.array([34 * 1, 15 * 3]) * MM - 1
    truth, prompt = places(tiles[1], TRUTH), places(tiles[0], CLICK)
    np.testing.assert_allclose((truth.min(0), truth.max(0)), (low, high), atol=2)
    np.testing.assert_allclose((prompt.min(0), prompt.max(0)), (low, high), atol=FRAME)
    grey = sample().image[0, PLACE].numpy()  # and the slice is not mirrored or turned
    shown = np.array(Image.fromarray(tiles[1][:height]).convert("L").resize((20, 40)))
    away = ~ndimage.binary_dilation(sample().mask[1, PLACE].numpy(), iterations=2)
    assert np.corrcoef(shown[away], grey[away])[0, 1] > 0.8


KINDS = [
    {"kind": "click"}, {"kind": "click", "followed": True}, {"kind": "box", "overlap": 0.6},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_prompt_is_the_one_that_evaluation_asked(kind, model, states, tmp_path, monkeypatch):
    settings = config(kind)
    asked, decode = [], MedSam.decode

    def noted(self, embedding, prompt, *more):
        asked.append(prompt)
        return decode(self, embedding, prompt, *more)

    with monkeypatch.context() as patch:
        patch.setattr(MedSam, "decode", noted)
        evaluated = settings.prompt.evaluate[:1]
        predict_volume(model, CASE, evaluated, settings.seed, "auto", settings.volume)
    number = 0 if "followed" in kind else SHOWN.index(PLACE)
    tile = places(drawn(tmp_path, states, model, settings)[1][0], CLICK)
    if asked[0].boxes is None:
        x, y = ((asked[0].points[number, 0] + 0.5) * FRAME).tolist()
        np.testing.assert_allclose(tile.mean(0), (y, x), atol=1)
        return
    x0, y0, x1, y1 = (asked[0].boxes[number] * FRAME).tolist()
    np.testing.assert_allclose(tile.min(0), (y0, x0), atol=1.5)
    np.testing.assert_allclose(tile.max(0), (y1 + FRAME - 1, x1 + FRAME - 1), atol=1.5)


def test_a_prompt_on_another_slice_is_not_taken_for_this_one():
    """The largest slice of the frame, which is followed, may be another than the file's."""
    here, other = np.zeros((2, 8, 8), bool)
    here[2:5, 2:5], other[2:5, 2:6] = True, True
    for followed, row in ((other, None), (here, ([], [], (2.0, 2.0, 4.0, 4.0)))):
        listener = Listener(Box(followed=True), here)
        assert listener.draw(followed, np.random.default_rng(0)) == ([], [], tight_box(followed))
        assert listener.on([3, 4], 4) == listener.on([4], 4) == row


@pytest.mark.parametrize("kind", [{"kind": "click"}, {"kind": "class"}], ids=str)
def test_answers_and_dice_are_those_of_evaluation(kind, model, states, tmp_path):
    settings = config(kind)
    entry, tiles = drawn(tmp_path, states, model, settings)
    outlines = []
    for (row, state), tile in zip(states.items(), tiles[2:], strict=True):
        load_adapter_state(model, state)
        kinds = settings.prompt.evaluate[:1]
        (whole,) = predict_volume(model, CASE, kinds, settings.seed, "auto", settings.volume)
        assert whole.structures == (1, 2)
        assert entry["dice"][row] == score(whole)[0].dice
        found = whole.found[0, PLACE].numpy()
        inside, around = ndimage.binary_erosion(found), ndimage.binary_dilation(found)
        outline = places(tile, FOUND)
        assert found.any() and len(outline)
        y, x = ((outline + 0.5) / MM / SPACING[1:]).astype(int).T
        assert (around & ~inside)[y, x].all()
        hit = np.zeros_like(found)
        hit[y, x] = True
        # every voxel of the outline is near one that is drawn
        assert ndimage.binary_dilation(hit, iterations=2)[found & ~inside].all()
        outlines.append(outline)
    assert not np.array_equal(*outlines)


@pytest.mark.parametrize(
    ("kind", "volume", "words"),
    [
        ({"kind": "class"}, {}, "class, spleen"),
        # every section of the file is asked about on two slices of the frame
        ({"kind": "click"}, {"slice_distance": 2.0}, "click, spleen"),
    ],
)
def test_what_is_not_drawn_on_the_slice_is_told_in_words(
    kind, volume, words, model, states, tmp_path
):
    entry, tiles = drawn(tmp_path, states, model, config(kind, **volume))
    assert entry["prompt"].startswith(words)
    differing = (tiles[0] != tiles[1]).any(-1)
    assert differing[:20].sum() > 200  # letters, above the structure
    assert np.array_equal(differing[20:], (tiles[1] == np.array(TRUTH)).all(-1)[20:])


def test_a_volume_without_a_structure_has_no_picture(model, states, tmp_path):
    def nothing() -> Sample:
        found = sample()
        return Sample(found.image, found.mask & False, "none", "none", SPACING)

    empty = Case("none", "none", "site_a", None, nothing, volume=True)
    cases = {"site_a": [empty, CASE]}
    write_examples(tmp_path, cases, {"site_a": states}, model, config({"kind": "box"}))
    entries = json.loads((tmp_path / "examples.json").read_text())
    assert [entry["case"] for entry in entries] == ["one"]
    assert len(list(tmp_path.glob("*.png"))) == 1
