"""Certificates: real TLS handshakes on loopback, as strict as Python 3.13 is by default."""

import contextlib
import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from medsa_model.errors import ConfigError
from server.certificate_names import alternative_names, missing_names
from server.certificate_reading import certificate_fingerprint, is_signed, load_certificates
from server.certificates import describe, make_ca, make_loopback, make_server

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
NAMES = ("coordinator.example.org", "127.0.0.1", "::1", "localhost")
SECONDS = 5


def handshake(certificate: Path, key: Path, trusted: Path, name: str) -> str:
    """What a client that trusts `trusted` and dials `name` says of a server; empty: all is well."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=trusted)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(SECONDS)
        with connection, contextlib.suppress(OSError):  # the client hangs up
            serving.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        thread = Thread(target=serve)
        thread.start()
        with socket.create_connection(listener.getsockname(), SECONDS) as plain:
            try:
                trusting.wrap_socket(plain, server_hostname=name).close()
                return ""
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            finally:
                thread.join(SECONDS)
                assert not thread.is_alive()


def authority(folder: Path, at: datetime = NOW) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    make_ca(folder / "ca.crt", folder / "ca.key", "demo", at)
    return folder / "ca.crt", folder / "ca.key"


def server(folder: Path, at: datetime = NOW, days: int = 397) -> tuple[Path, Path]:
    files = folder / "server.crt", folder / "server.key"
    make_server(*files, (folder / "ca.crt", folder / "ca.key"), NAMES, days, at)
    return files


@pytest.mark.parametrize("name", NAMES)
def test_a_hospital_reaches_the_coordinator_by_each_of_its_names(tmp_path, name):
    ca, _ = authority(tmp_path)
    assert handshake(*server(tmp_path), ca, name) == ""


@pytest.mark.parametrize("name", ["other.example.org", "example.org", "127.0.0.2"])
def test_another_name_is_refused(tmp_path, name):
    ca, _ = authority(tmp_path)
    assert "mismatch, certificate is not valid for" in handshake(*server(tmp_path), ca, name)


def test_another_authority_of_the_same_name_is_refused(tmp_path):
    authority(tmp_path)
    other, _ = authority(tmp_path / "other")
    message = "unable to get local issuer certificate"
    assert handshake(*server(tmp_path), other, NAMES[0]) == message


@pytest.mark.parametrize(
    ("at", "days", "message"),
    [
        (NOW - 10 * DAY, 9, "certificate has expired"),
        (NOW + DAY, 9, "certificate is not yet valid"),
        (NOW - 10 * DAY, 11, ""),
        (NOW + timedelta(minutes=4), 1, ""),  # the hospital's clock is late
    ],
)
def test_times_are_kept(tmp_path, at, days, message):
    ca, _ = authority(tmp_path, NOW - 20 * DAY)
    assert handshake(*server(tmp_path, at, days), ca, NAMES[0]) == message


def test_the_authority_signs_no_authorities(tmp_path):
    certificate = load_certificates(authority(tmp_path)[0])[0]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value == x509.BasicConstraints(ca=True, path_length=0)
    leaf = load_certificates(server(tmp_path)[0])[0]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_what_a_certificate_says(tmp_path):
    names, _, ends = describe(authority(tmp_path)[0])
    assert names == () and 3649 * DAY < ends - NOW < 3651 * DAY
    names, begins, ends = describe(server(tmp_path, days=30)[0])
    assert set(names) == set(NAMES)
    second = timedelta(seconds=1)
    assert abs(begins - (NOW - timedelta(minutes=5))) <= second
    assert abs(ends - (NOW + 30 * DAY)) <= second


def test_a_server_certificate_does_not_outlive_its_authority(tmp_path):
    authority(tmp_path, NOW - 3600 * DAY)
    ends = describe(server(tmp_path, days=397)[0]).not_after
    assert ends == describe(tmp_path / "ca.crt").not_after
    authority(tmp_path / "old", NOW - 3651 * DAY)
    with pytest.raises(ConfigError, match=r"ca\.crt expired on"):
        server(tmp_path / "old")


def test_keys_are_closed_and_nothing_is_overwritten(tmp_path):
    files = [*authority(tmp_path), *server(tmp_path)]
    before = [path.read_bytes() for path in files]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o644, 0o600] * 2
    for again in (authority, server):
        with pytest.raises(ConfigError, match="never overwritten"):
            again(tmp_path)
    (tmp_path / "server.key").unlink()
    with pytest.raises(ConfigError, match=r"server\.crt is there already"):
        server(tmp_path)
    assert not (tmp_path / "server.key").exists()
    assert [path.read_bytes() for path in files[:3]] == before[:3]


def test_the_loopback_certificate_is_its_own_authority_and_new_at_every_start(tmp_path):
    certificate, key = make_loopback(tmp_path)
    for name in ("127.0.0.1", "localhost"):
        assert handshake(certificate, key, certificate, name) == ""
    assert "mismatch" in handshake(certificate, key, certificate, "example.org")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (tmp_path / "old.crt").write_bytes(certificate.read_bytes())
    assert make_loopback(tmp_path) == (certificate, key)
    assert "self-signed" in handshake(certificate, key, tmp_path / "old.crt", "127.0.0.1")


def own(subject: str, key, issuer=None, identifier=b"", **names) -> x509.Certificate:
    """A certificate as another program makes it; `issuer` is (certificate, key)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(
        issuer[0].subject if issuer else name, name, key.public_key(), 7, NOW - DAY, NOW + 9 * DAY
    ).add_extension(x509.BasicConstraints(True, None), True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(usage, True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256())


def test_an_authority_of_the_users_own_signs_too(tmp_path):
    """RSA, and with an identifier that is no hash of its key."""
    key = rsa.generate_private_key(65537, 2048)
    certificate = own("hospital group", key, identifier=b"number 1")
    (tmp_path / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (tmp_path / "ca.key").write_bytes(pem)
    assert handshake(*server(tmp_path), tmp_path / "ca.crt", NAMES[0]) == ""


def test_a_chain_leads_to_its_authority_or_does_not():
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
    root, stranger = own("root", keys[0]), own("root", keys[3])
    between = own("between", keys[1], (root, keys[0]))
    leaf = own("leaf", keys[2], (between, keys[1]))
    assert is_signed([leaf, between], [stranger, root]) and is_signed([leaf], [between])
    assert is_signed([root], [root])
    assert not is_signed([leaf], [root]) and not is_signed([leaf, between], [stranger])
    assert not is_signed([leaf, stranger, between], [root])


@pytest.mark.parametrize("name", ["a.org:9092", "[::1]", "1.2.3.4.5", "a b", "", "münchen.de", "-"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match=r"address\.host or address\.also: got .*expected"):
        alternative_names([name])


def test_names_are_compared_as_a_client_does():
    names = ("*.example.org", "Coordinator.org", "2001:db8::1")
    wanted = ("a.example.org", "coordinator.ORG", "2001:DB8:0::1")
    assert missing_names(names, wanted) == []
    others = ["example.org", "a.b.example.org", "10.0.0.1", "org"]
    assert missing_names(names, others) == others


def test_a_fingerprint_is_that_of_openssl(tmp_path):
    path, _ = authority(tmp_path)
    text = certificate_fingerprint(path)
    content = ssl.PEM_cert_to_DER_cert(path.read_text())
    digest = hashes.Hash(hashes.SHA256())
    digest.update(content)
    assert text.split(":") == [f"{byte:02X}" for byte in digest.finalize()]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "server.crt").write_text("-----BEGIN CERTIFICATE-----\nxx")
    with pytest.raises(ConfigError, match=r"server\.crt is no certificate"):
        describe(tmp_path / "server.crt")
    with pytest.raises(ConfigError, match=r"absent\.crt cannot be read"):
        describe(tmp_path / "absent.crt")
