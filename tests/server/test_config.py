"""The federation YAML: paths belong to its folder, and every problem is told at once."""

from pathlib import Path

import pytest
import yaml

from medsa_model.errors import ConfigError
from server.config import Federation, is_loopback, load_federation

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL: dict[str, object] = {
    "name": "north",
    "run": "run.yaml",
    "address": {"host": "coordinator.example.org"},
    "sites": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
}


def write(place: Path, **more: object) -> Path:
    path = place / "federation.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | more))
    return path


def load(place: Path, *overrides: str, **more: object) -> Federation:
    return load_federation(write(place, **more), overrides)


def problems(place: Path, *overrides: str, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(place, *overrides, **more)
    return str(caught.value)


def sites(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def test_the_shipped_example_loads():
    federation = load_federation(CONFIGS / "federation.yaml")
    assert federation.run.is_file() and federation.quorum <= len(federation.sites)


def test_a_federation_needs_few_words(tmp_path):
    federation = load(tmp_path)
    assert federation.folder == tmp_path / "federation"
    assert federation.run == tmp_path / "run.yaml" and federation.runs == tmp_path / "runs"
    assert (federation.quorum, federation.short_round, federation.serve) == (3, "repeat", False)
    address = federation.address
    assert (address.port, address.listen, address.tls) == (9092, "0.0.0.0", True)


def test_paths_are_relative_to_the_yaml_file(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    members = [{"name": "a", "public_key": "keys/a.pub"}, {"name": "b", "public_key": "/k/b.pub"},
               {"name": "c"}]  # fmt: skip
    path = write(tmp_path / "study", folder="f", run="../r.yaml", runs="out", sites=members)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for given in (path, Path("../study/federation.yaml")):
        federation = load_federation(given)
        study = (tmp_path / "study").resolve()
        assert federation.folder == study / "f" and federation.runs == study / "out"
        assert federation.run.resolve() == tmp_path.resolve() / "r.yaml"
        keys = [site.public_key for site in federation.sites]
        assert keys == [study / "keys" / "a.pub", Path("/k/b.pub"), None]
        assert [site.name for site in federation.sites] == ["a", "b", "c"]


def test_overrides_win(tmp_path):
    federation = load(tmp_path, "quorum=3", "address.listen_port=8443", "folder=other")
    assert federation.quorum == 3 and federation.address.listen_port == 8443
    assert federation.folder == tmp_path / "other"


def test_all_problems_are_told_at_once(tmp_path):
    said = problems(
        tmp_path, "round_seconds=0", name="a/b", quorm=2, short_round="stop", repeats=-1,
        address={"host": "", "port": 70000, "tsl": True}, certificate_days=0,
        sites=[{"name": "a"}, {"name": "b", "key": "b.pub"}, {"name": "c d"}],
    )  # fmt: skip
    assert "federation.yaml is not valid (11 problems)" in said
    for key in ("name", "quorm", "short_round", "repeats", "round_seconds", "certificate_days",
                "address.host", "address.port", "address.tsl", "sites.1.key",
                "sites.2.name"):  # fmt: skip
        assert f"\n  {key} " in said
    assert "did you mean 'quorum'?" in said and "did you mean 'tls'?" in said


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "federation.yaml").write_text("serve: true\n")
    with pytest.raises(ConfigError) as caught:
        load_federation(tmp_path / "federation.yaml")
    assert "(4 problems)" in str(caught.value)
    for key in ("name", "run", "address", "sites"):
        assert f"\n  {key:7}  missing" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("a", "b", "a"), "sites are named twice: a"),
        (("North", "b", "north"), "sites are named twice: North, north"),
        (("a", "a", "b", "b"), "sites are named twice: a, b"),
    ],
)
def test_sites_must_be_different(tmp_path, names, found):
    """Their names become folders, which not every disk tells apart by case."""
    said = problems(tmp_path, sites=sites(*names))
    assert found in said and "\n  sites " in said


@pytest.mark.parametrize("quorum", [4, 100])
def test_a_quorum_that_cannot_be_reached(tmp_path, quorum):
    assert f"quorum is {quorum}, but there are 3 sites" in problems(tmp_path, quorum=quorum)
    assert load(tmp_path, quorum=3).quorum == 3


def test_the_default_quorum_needs_three_sites(tmp_path):
    assert "quorum is 3, but there are 2 sites" in problems(tmp_path, sites=sites("a", "b"))
    assert load(tmp_path, sites=sites("a"), quorum=1).quorum == 1


def test_a_federation_of_nobody(tmp_path):
    assert "\n  sites " in problems(tmp_path, sites=[])


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "10.0.0.5", "hospital.example.org", ""])
def test_without_tls_the_world_must_not_reach_the_port(tmp_path, listen):
    """Only a reverse proxy on the same machine may."""
    said = problems(tmp_path, address={"host": "h", "tls": False, "listen": listen})
    assert f"tls is false and listen is {listen}: without TLS listen at 127.0.0.1" in said
    assert "\n  address " in said


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1", "127.0.0.2", "localhost"])
def test_without_tls_behind_a_proxy(tmp_path, listen):
    address = {"host": "h", "tls": False, "listen": listen}
    assert load(tmp_path, address=address).address.tls is False
    assert is_loopback(listen)


def test_without_tls_the_default_address_is_not_allowed(tmp_path):
    assert "tls is false and listen is 0.0.0.0" in problems(tmp_path, "address.tls=false")


@pytest.mark.parametrize("name", ["", ".x", "a/b", "../a", "a b", "ä", "x" * 65])
def test_names_that_cannot_be_folders(tmp_path, name):
    assert "\n  sites.0.name " in problems(tmp_path, sites=sites(name, "b", "c"))
    assert "\n  name " in problems(tmp_path, name=name)
