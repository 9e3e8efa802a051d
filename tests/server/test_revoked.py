"""Revoked keys stay out, whatever happens to names, kits and files."""

import json

import pytest

from medsa_model.errors import ConfigError
from medsa_model.site_keys import fingerprint, make_key_pair
from server.config import Federation
from server.keys import read_public_key
from server.revoked import (
    admitted,
    read_revoked,
    revoke,
    revoked_keys,
    start_revocations,
)


def key(folder, site) -> bytes:
    return read_public_key(folder / "sites" / site / "site.pub", site)


def add(folder, site) -> bytes:
    place = folder / "sites" / site
    place.mkdir(parents=True)
    make_key_pair(place / "site.key", place / "site.pub", site)
    return key(folder, site)


@pytest.fixture
def federation(tmp_path) -> Federation:
    """Three sites, of which c has no key yet; a key of z is left from earlier."""
    start_revocations(tmp_path)
    for site in ("a", "b", "z"):
        add(tmp_path, site)
    return Federation.model_validate(
        {
            "name": "f", "folder": tmp_path, "run": "run.yaml", "address": {"host": "localhost"},
            "sites": [{"name": name} for name in "abc"],
        }
    )  # fmt: skip


def test_sites_of_the_yaml_that_have_a_key_are_admitted(federation):
    keys = {site: key(federation.folder, site) for site in "ab"}
    assert admitted(federation) == {keys["a"]: "a", keys["b"]: "b"}
    assert read_revoked(federation.folder) == set() and revoked_keys(federation.folder) == {}


def test_a_revoked_key_is_out_and_known_as_such(federation):
    folder = federation.folder
    name = fingerprint(key(folder, "a"))
    message = revoke(folder, "a")
    assert name in message and "for good" in message
    assert "sites/a" in message and "kits/a.zip" in message and "provision" in message
    assert set(admitted(federation).values()) == {"b"}
    assert read_revoked(folder) == {name}
    assert revoked_keys(folder) == {key(folder, "a"): "a"}
    (entry,) = json.loads((folder / "revoked.json").read_text())["revoked"]
    assert entry["site"] == "a" and entry["date"].endswith("+00:00")


def test_a_second_revocation_changes_nothing(federation):
    revoke(federation.folder, "a")
    before = (federation.folder / "revoked.json").read_bytes()
    assert "was revoked already, on 2" in revoke(federation.folder, "a")
    assert (federation.folder / "revoked.json").read_bytes() == before
    revoke(federation.folder, "b")
    assert len(read_revoked(federation.folder)) == 2


def test_the_key_stays_out_under_another_name_and_a_new_key_comes_in(federation):
    folder = federation.folder
    old = key(folder, "a")
    revoke(folder, "a")
    (folder / "sites" / "a").rename(folder / "sites" / "c")
    assert old not in admitted(federation)
    new = add(folder, "a")
    assert admitted(federation)[new] == "a" and old not in admitted(federation)
    assert revoked_keys(folder) == {old: "a"}


@pytest.mark.parametrize("site", ["c", "A", "../a", "", "*"])
def test_a_site_without_a_key_cannot_be_revoked(federation, site):
    with pytest.raises(ConfigError, match=r"no key of a site .*expected one of: a, b, z"):
        revoke(federation.folder, site)


def test_a_site_that_left_the_yaml_can_be_revoked(federation):
    assert "for good" in revoke(federation.folder, "z")


def test_nobody_is_admitted_when_the_list_is_lost(federation):
    revoke(federation.folder, "a")
    (federation.folder / "revoked.json").unlink()
    actions = (
        lambda: admitted(federation),
        lambda: revoke(federation.folder, "b"),
        lambda: start_revocations(federation.folder),
    )
    for act in actions:
        with pytest.raises(ConfigError, match=r"revoked\.json is missing; restore it"):
            act()
    assert not (federation.folder / "revoked.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("SHA256:", "SHA256:x"),
        lambda text: text.replace("revoked", "revokd"),
        lambda text: text.replace("BEGIN", "BEGNI"),
        lambda text: "",
        lambda text: "[]",
        lambda text: "\ud800",
    ],
)
def test_nobody_is_admitted_when_the_list_is_damaged(federation, change):
    revoke(federation.folder, "a")
    path = federation.folder / "revoked.json"
    path.write_text(change(path.read_text()), errors="surrogatepass")
    with pytest.raises(ConfigError, match=r"revoked\.json.*restore it|public key"):
        admitted(federation)


def test_before_any_provision_the_advice_is_to_provision(tmp_path):
    with pytest.raises(ConfigError, match="`flower-server provision` makes it"):
        read_revoked(tmp_path)


def test_a_write_that_fails_leaves_the_list_as_it_was(federation, monkeypatch):
    revoke(federation.folder, "a")
    before = (federation.folder / "revoked.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        revoke(federation.folder, "b")
    assert (federation.folder / "revoked.json").read_bytes() == before
