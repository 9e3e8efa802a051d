"""Run directories of federations: never mixed, resumed only with the same settings."""

import pytest
import yaml

from medsa_model.config import RunConfig
from medsa_model.errors import ConfigError
from server.directory import choose_directory


def settings(**more: object) -> RunConfig:
    return RunConfig.model_validate({"name": "study", "data": {"kind": "synthetic"}, **more})


def test_a_new_run_gets_a_folder_of_its_own_that_explains_itself(tmp_path):
    place = choose_directory(settings(), tmp_path / "runs", None, resume=False)
    assert place.parent == tmp_path / "runs" / "study"
    assert yaml.safe_load((place / "config.yaml").read_text())["name"] == "study"
    assert '"flwr"' in (place / "versions.json").read_text()


def test_the_latest_run_is_resumed_by_default(tmp_path):
    for stamp in ("20260101-000000", "20260102-000000"):
        choose_directory(settings(), tmp_path, tmp_path / "study" / stamp, resume=False)
    found = choose_directory(settings(), tmp_path, None, resume=True)
    assert found.name == "20260102-000000"


def test_a_folder_with_content_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty: add --resume .* or choose another --out"):
        choose_directory(settings(), tmp_path, tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_settings_do_not_resume(tmp_path):
    out = choose_directory(settings(), tmp_path, tmp_path / "out", resume=False)
    with pytest.raises(ConfigError, match=r"other settings:\n  rounds: \d+, now 11\nrepeat them"):
        choose_directory(settings(rounds=11), tmp_path, out, resume=True)
    assert choose_directory(settings(), tmp_path, out, resume=True) == out


def test_a_run_that_has_begun_goes_before_a_later_one_that_no_site_came_to(tmp_path):
    for stamp in ("20260101-000000", "20260102-000000"):
        choose_directory(settings(), tmp_path, tmp_path / "study" / stamp, resume=False)
    (tmp_path / "study" / "20260101-000000" / "rounds" / "0000").mkdir(parents=True)
    found = choose_directory(settings(), tmp_path, None, resume=True)
    assert found.name == "20260101-000000"


def test_nothing_to_resume_is_said_and_a_complete_run_has_a_farewell_left(tmp_path):
    with pytest.raises(ConfigError, match="there is no run in"):
        choose_directory(settings(), tmp_path, None, resume=True)
    with pytest.raises(ConfigError, match="holds no run"):
        choose_directory(settings(), tmp_path, tmp_path / "other", resume=True)
    out = choose_directory(settings(), tmp_path, tmp_path / "out", resume=False)
    (out / "rounds" / "0001").mkdir(parents=True)
    (out / "final").symlink_to("rounds/0001")
    assert choose_directory(settings(), tmp_path, out, resume=True) == out
