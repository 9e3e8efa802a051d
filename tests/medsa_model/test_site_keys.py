"""Key pairs: as ssh-keygen and Flower know them, closed from the start, never overwritten."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

from medsa_model import private_files, site_keys
from medsa_model.errors import ConfigError
from medsa_model.private_files import check_private, write_new
from medsa_model.site_keys import fingerprint, make_key_pair, public_part

KNOWN = (  # with what `ssh-keygen -lf` of OpenSSH 9 says of it
    b"ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBO6Avm6Rm4yphh5Gsm7n"
    b"DSGJsHq7NApc/J0or1JjUWs3iV+v+YnYsXozqDuRuYx4itUe16Hk6eezuwSIZCpPpX6ZnWkoCxFgkWgl/BFWPy+trOgV"
    b"iXQa490MgbZwcm1Tqw== site_a.demo",
    "SHA256:+cV54aD24ajbXBcCLMqX5pn506TP79M3Mo2KhNd//+Y",
)


@pytest.fixture
def pair(tmp_path):
    make_key_pair(tmp_path / "site.key", tmp_path / "site.pub", "site_a.demo")
    return tmp_path / "site.key", tmp_path / "site.pub"


def test_the_fingerprint_is_that_of_ssh_keygen():
    key = load_ssh_public_key(KNOWN[0])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert fingerprint(key) == fingerprint(public_key_to_bytes(key)) == KNOWN[1]


def test_no_fingerprint_of_what_is_no_key():
    with pytest.raises(ConfigError, match="no public key in PEM"):
        fingerprint(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")


def test_a_pair_belongs_together_and_is_what_flower_wants(pair):
    private = load_ssh_private_key(pair[0].read_bytes(), None)
    public = load_ssh_public_key(pair[1].read_bytes())
    assert private.public_key() == public and uses_nist_ec_curve(public)
    assert public.curve.name == "secp384r1"
    assert public_part(pair[0].read_bytes(), "key") == public_key_to_bytes(public)
    assert pair[1].read_text().split()[2:] == ["site_a.demo"]


def test_a_comment_stays_in_its_line(tmp_path):
    make_key_pair(tmp_path / "k", tmp_path / "p", "a\nssh-rsa b")
    assert len((tmp_path / "p").read_text().splitlines()) == 1


def test_the_private_key_is_closed_from_the_start(tmp_path, monkeypatch):
    """Also where the user's mask is open, and at the moment of its first byte."""
    modes = []
    real = os.fsync
    monkeypatch.setattr(
        private_files.os, "fsync", lambda f: (modes.append(os.fstat(f).st_mode), real(f))
    )
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("closed too late"))
    mask = os.umask(0)
    try:
        make_key_pair(tmp_path / "site.key", tmp_path / "site.pub", "")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600, 0o644]
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["site.key", "site.pub"])
@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_overwritten(tmp_path, there, link):
    if link:
        (tmp_path / there).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / there).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{there}: there already.*never overwritten"):
        make_key_pair(tmp_path / "site.key", tmp_path / "site.pub", "")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert link or (tmp_path / there).read_text() == "mine"


def test_no_half_of_a_pair_stays(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be written"):
        make_key_pair(tmp_path / "site.key", tmp_path / "absent" / "site.pub", "")
    assert not list(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(site_keys.write_new.__globals__["os"], "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_new(tmp_path / "file", b"x")
    assert not list(tmp_path.iterdir())


def test_an_open_file_or_folder_is_noticed(tmp_path, pair):
    check_private(pair[0])
    pair[0].chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640\), expected 600: chmod 600 .*site.key"):
        check_private(pair[0])
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="expected 700"):
        check_private(tmp_path)


def test_other_private_keys_are_refused(pair):
    pem = (Encoding.PEM, PrivateFormat.OpenSSH)
    locked = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(*pem, NoEncryption())
    for content, message in (
        (locked, "without a passphrase"),
        (other, "not on an elliptic curve"),
        (pair[1].read_bytes(), "is no private key"),
    ):
        with pytest.raises(ConfigError, match=f"site.key of x .*{message}"):
            public_part(content, "site.key of x")
