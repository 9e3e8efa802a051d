"""Public keys that sites send: what is read, and what is said about everything else."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from medsa_model.errors import ConfigError
from server.keys import known_keys, read_public_key

OPENSSH = (Encoding.OpenSSH, PublicFormat.OpenSSH)
PEM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EC = ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
@pytest.mark.parametrize("form", [OPENSSH, PEM], ids=["openssh", "pem"])
def test_a_key_is_read_as_flower_sends_it(tmp_path, curve, form):
    public = ec.generate_private_key(curve()).public_key()
    path = tmp_path / "site.pub"
    path.write_bytes(b"\n" + public.public_bytes(*form) + b"\n")
    assert read_public_key(path, "a") == public_key_to_bytes(public)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EC.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), "a private key"),
        (EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "no secret any more"),
        (ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*OPENSSH), "kind Ed25519"),
        (rsa.generate_private_key(65537, 2048).public_key().public_bytes(*PEM), "kind RSA"),
        (ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(*PEM), "on secp256k1"),
        (EC.public_key().public_bytes(*OPENSSH)[:60], "no public key"),
        (b"\n".join([EC.public_key().public_bytes(*OPENSSH)] * 2), "has 2 lines"),
        (b"sk-ecdsa-sha2-nistp256@openssh.com AAAA", "security key"),
        (b"", "no public key"),
        (b"\xff\xfe\x00", "no public key"),
    ],
    ids=range(10),  # not the keys, which are new each time
)
def test_anything_else_is_refused_with_the_site_and_advice(tmp_path, content, message):
    path = tmp_path / "x.pub"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=rf"site a: its public key .*x\.pub .*{message}"
    ) as caught:
        read_public_key(path, "a")
    assert "client/run.py keygen" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"site a: .*x\.pub cannot be read: No such file"):
        read_public_key(tmp_path / "x.pub", "a")


def test_two_sites_cannot_share_a_key(tmp_path):
    for site in ("a", "b"):
        (tmp_path / "sites" / site).mkdir(parents=True)
        (tmp_path / "sites" / site / "site.pub").write_bytes(EC.public_key().public_bytes(*PEM))
    assert known_keys(tmp_path, ["b", "c"]) == {"b": public_key_to_bytes(EC.public_key())}
    with pytest.raises(ConfigError, match="sites a and b have the same public key"):
        known_keys(tmp_path, ["a", "b"])
