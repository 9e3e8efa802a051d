"""The site YAML: paths belong to its folder, and every problem is told at once."""

from pathlib import Path

import pytest
import yaml

from client.config import CoordinatorAddress, Limits, SiteConfig, load_site
from medsa_model.errors import ConfigError

MINIMAL: dict[str, object] = {
    "site": "hospital-north",
    "coordinator": {"address": "coordinator.example.org:9092"},
    "data": {"kind": "folder"},
}


def write(place: Path, **more: object) -> Path:
    path = place / "site.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | more))
    return path


def problems(place: Path, *overrides: str, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_site(write(place, **more), overrides)
    return str(caught.value)


def test_a_kit_needs_nothing_but_its_folder(tmp_path):
    """Every default is a file beside the YAML, whatever folder the command is started in."""
    config = load_site(write(tmp_path))
    assert config.key == tmp_path / "site.key"
    assert config.coordinator.ca == tmp_path / "ca.crt"
    assert config.state == tmp_path / "state"
    assert config.data.root is None and config.checkpoint is None
    assert config.limits == Limits()


def test_paths_are_relative_to_the_yaml_file(tmp_path, monkeypatch):
    (tmp_path / "kit").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = write(
        tmp_path / "kit", key="keys/k", state="../s", checkpoint="w.pth",
        data={"kind": "folder", "root": "images"},
        coordinator={"address": "a:1", "ca": "c/ca.crt"},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path / "elsewhere")
    for given in (path, Path("../kit/site.yaml")):
        config = load_site(given)
        kit = (tmp_path / "kit").resolve()
        assert config.key == kit / "keys" / "k" and config.key.is_absolute()
        assert config.state == (tmp_path / "s").resolve()  # messages name no `..`
        assert config.checkpoint == kit / "w.pth"
        assert config.data.root == kit / "images"
        assert config.coordinator.ca == kit / "c" / "ca.crt"
        assert config.coordinator.address == "a:1"


def test_whole_paths_stay_as_they_are(tmp_path):
    data = {"kind": "folder", "root": "/mnt/images"}
    config = load_site(write(tmp_path, key="/etc/k", state="/var/s", checkpoint="/w", data=data))
    found = [config.key, config.state, config.checkpoint, config.data.root]
    assert [str(path) for path in found] == ["/etc/k", "/var/s", "/w", "/mnt/images"]


@pytest.mark.parametrize("given", ["..", "a/../..", "a/.."])
def test_a_path_may_end_above(tmp_path, given):
    (tmp_path / "kit" / "a").mkdir(parents=True)
    config = load_site(write(tmp_path / "kit", state=given))
    assert config.state == (tmp_path / "kit" / given).resolve() and ".." not in str(config.state)


def test_a_link_keeps_its_name(tmp_path):
    """Official weights are known by it."""
    (tmp_path / "blob").touch()
    (tmp_path / "sam_vit_b_01ec64.pth").symlink_to(tmp_path / "blob")
    config = load_site(write(tmp_path, checkpoint="sam_vit_b_01ec64.pth"))
    assert config.checkpoint == tmp_path / "sam_vit_b_01ec64.pth"


def test_a_configuration_knows_its_file(tmp_path, monkeypatch):
    """For messages about what is missing in it."""
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_site(Path("site.yaml")).file == tmp_path / "site.yaml"


@pytest.mark.parametrize("port", [0, 65536])
def test_a_health_port_that_can_be_none(tmp_path, port):
    said = problems(tmp_path, health=f"127.0.0.1:{port}")
    assert "\n  health " in said and f"the port is {port}, expected one from 1 to 65535" in said


def test_without_a_ca_the_systems_authorities_are_asked(tmp_path):
    config = load_site(write(tmp_path, coordinator={"address": "a:1", "ca": None}))
    assert config.coordinator.ca is None


def test_overrides_win_and_their_paths_belong_to_the_yaml_too(tmp_path):
    path = write(tmp_path, device="cuda:1")
    config = load_site(path, ["data.root=images", "device=cpu", "limits.steps=7", "key=other"])
    assert config.data.root == tmp_path / "images" and config.key == tmp_path / "other"
    assert config.device == "cpu" and config.limits.steps == 7


def test_all_problems_are_told_at_once(tmp_path):
    said = problems(
        tmp_path, "limits.megabytes=0", site="../x", colour="red", workers=-1,
        coordinator={"address": "https://host:9092/", "port": 1},
        data={"kind": "folders"}, limits={"round": 3}, split={"test": 0.6, "val": 0.5},
    )  # fmt: skip
    assert "site.yaml is not valid (9 problems)" in said
    for key in ("site ", "colour ", "workers ", "coordinator.address ", "coordinator.port ",
                "data.kind ", "limits.round ", "limits.megabytes ", "split "):  # fmt: skip
        assert f"\n  {key}" in said
    assert "did you mean 'rounds'?" in said


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "site.yaml").write_text("device: cpu\n")
    with pytest.raises(ConfigError) as caught:
        load_site(tmp_path / "site.yaml")
    assert "(3 problems)" in str(caught.value)
    for key in ("site", "coordinator", "data"):
        assert f"\n  {key:11}  missing" in str(caught.value)


@pytest.mark.parametrize("content", ["", "- site", "site: [", "site: x\n\tdevice: cpu"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path, content):
    (tmp_path / "site.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"site\.yaml"):
        load_site(tmp_path / "site.yaml")


def test_a_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"site\.yaml: no such file"):
        load_site(tmp_path / "site.yaml")


@pytest.mark.parametrize(
    "address", ["coordinator.example.org:9092", "10.0.0.1:1", "[::1]:65535", "[fd00::12AB]:443"]
)
def test_addresses(address):
    assert CoordinatorAddress(address=address).address == address


@pytest.mark.parametrize(
    "address",
    ["coordinator.example.org", "https://host:9092", "host:", ":9092", "host:port", "::1:9092",
     "host:9092/x", "ho st:9092", "[::1]", "host:123456", "host:0", "host:65536", "[::1]:99999"],
)  # fmt: skip
def test_what_is_no_address(tmp_path, address):
    assert "coordinator.address" in problems(tmp_path, coordinator={"address": address})


@pytest.mark.parametrize("site", ["", ".x", "-x", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_names_that_cannot_be_folders(tmp_path, site):
    assert "\n  site " in problems(tmp_path, site=site)


def test_a_limit_is_never_negative(tmp_path):
    names = ("rounds", "steps", "images", "megabytes", "least_training_cases",
             "least_evaluated_cases")  # fmt: skip
    said = problems(tmp_path, limits=dict.fromkeys(names, 0))
    assert "(6 problems)" in said and all(f"limits.{name} " in said for name in names)


def test_a_loaded_configuration_cannot_be_changed(tmp_path):
    """The site's limits are what its engineer wrote."""
    config = load_site(write(tmp_path))
    assert isinstance(config, SiteConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.limits.steps = None
