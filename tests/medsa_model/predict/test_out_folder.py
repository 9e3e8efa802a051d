"""The folder of results: whose it is, what may be removed, what counts as nothing."""

import json
from pathlib import Path

import pytest

from medsa_model.errors import ConfigError
from medsa_model.predict.facts import ABOUT
from medsa_model.predict.out_folder import choose_folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def made(folder: Path, *names: str, cases: object = None) -> Path:
    """A folder with files of these names, and with `prediction.json` when `cases` are given."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    if cases is not None:
        folder.mkdir(exist_ok=True)
        (folder / "prediction.json").write_text(json.dumps({"about": ABOUT, "cases": cases}))
    return folder


def test_masks_of_somebody_else_are_never_removed(tmp_path):
    alone = made(tmp_path / "alone", "masks/patient.png")
    other = made(tmp_path / "other", "masks/patient.png", "volumes.csv")
    (other / "prediction.json").write_text('{"cases": {}}')  # of another program
    broken = made(tmp_path / "broken", "masks/patient.png", "prediction.json")
    for folder in (alone, other, broken):
        before = files(folder)
        with pytest.raises(ConfigError, match=r"no prediction\.json of medsa-predict.*masks"):
            choose_folder(folder, True, [])
        with pytest.raises(ConfigError, match="is not empty"):
            choose_folder(folder, False, [])
        assert files(folder) == before


def test_results_go_with_what_a_killed_process_left(tmp_path):
    names = [
        ".draft.volumes.csv", ".prediction.json.draft", ".summary.json.draft", ".draft.report.html",
        "volumes.csv", "masks/a.png", "masks/.draft.b.png", "overlays/a.png",
    ]  # fmt: skip
    folder = made(tmp_path / "out", *names, cases={"a": {}})
    with pytest.raises(ConfigError, match="is not empty"):
        choose_folder(folder, False, [])
    choose_folder(folder, True, [])
    assert files(folder) == {"masks", "overlays"}
    made(folder, ".draft.mine.csv", cases={"a": {}})
    with pytest.raises(ConfigError, match=r"does not write \(\.draft\.mine\.csv\)"):
        choose_folder(folder, True, [])


def test_a_folder_without_a_mask_counts_as_empty(tmp_path):
    folder = tmp_path / "out"
    for names, cases in (
        ((), None), (("volumes.csv",), {}), ((".prediction.json.draft",), None),
        (("volumes.csv", ".draft.volumes.csv"), {}),
    ):  # fmt: skip
        made(folder, *names, cases=cases)
        choose_folder(folder, False, [])
        assert files(folder) == {"masks", "overlays"}
    for names, cases in (
        (("volumes.csv",), None), (("overlays/a.png",), {}), (("summary.json",), {}),
        ((), {"a": {}}), ((), {}),  # the last may be a call at its first case
    ):  # fmt: skip
        place = made(tmp_path / f"{names}{cases}", *names, cases=cases)
        with pytest.raises(ConfigError, match="is not empty"):
            choose_folder(place, False, [])


def test_a_link_is_not_followed(tmp_path):
    mine = made(tmp_path / "mine", "patient.png")
    folder = made(tmp_path / "out", cases={"a": {}})
    (folder / "masks").symlink_to(mine)
    choose_folder(folder, True, [])
    assert files(mine) == {"patient.png"} and not (folder / "masks").is_symlink()
