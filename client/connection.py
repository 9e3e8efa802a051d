"""The way to the coordinator, tried out: name, port, certificate, key and clock, with advice.

Each failure is a `ConnectionProblem` whose message says what to do. `final` tells those that no
waiting will mend.
"""

import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.config import SiteConfig
from client.flower_fleet import ask_the_door
from medsa_model.errors import ConfigError, ConnectionProblem

TIMEOUT = 10.0  # seconds
DOOR, SITE = "x-medsa-door", "x-medsa-site"  # headers of the coordinator's door
SKEW = 240.0  # seconds between the two clocks; the coordinator refuses more than 300
CERTIFICATE_EXPIRED, NOT_YET_VALID, OTHER_NAME = 10, 9, (62, 64)  # OpenSSL's X509_V_ERR_*


class FinalProblem(ConnectionProblem):
    """A problem that waiting does not mend: certificate, key or address are wrong."""


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The site's private key; raises `ConfigError`."""
    advice = "take it from the kit, or make a pair with `client/run.py keygen`"
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"key {path} cannot be read ({error.strerror}): {advice}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"key {path} is no OpenSSH private key without a passphrase: {advice}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"key {path} is not on an elliptic curve: {advice}")
    if mode := path.stat().st_mode & 0o077:
        raise ConfigError(
            f"key {path} can be read by others (mode {path.stat().st_mode & 0o777:o}, group and "
            f"others have {mode:o}): chmod 600 {path}"
        )
    return key


def tls_context(config: SiteConfig) -> ssl.SSLContext:
    """What the coordinator's certificate is verified with; raises `ConfigError`."""
    ca = config.coordinator.ca
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as error:
        raise ConfigError(
            f"coordinator.ca {ca} cannot be read as certificates ({error}): take ca.crt "
            "from the kit"
        ) from error


def open_client(config: SiteConfig) -> httpx.Client:
    """An HTTPS client of the coordinator, for our own questions."""
    url = f"https://{config.coordinator.address}"
    return httpx.Client(base_url=url, verify=tls_context(config), timeout=TIMEOUT, trust_env=False)


def check_connection(config: SiteConfig) -> float:
    """Reach the coordinator and pass its door; returns by how many seconds its clock is ahead.

    Raises `ConnectionProblem` when waiting may help, `FinalProblem` when not, and `ConfigError`.
    """
    key = read_key(config.key)
    check_certificate(config)
    with open_client(config) as client:
        try:
            answer = ask_the_door(client, key)
        except httpx.HTTPError as error:
            raise ConnectionProblem(
                f"the coordinator at {config.coordinator.address} broke off "
                f"({type(error).__name__}): is it a fed-medsa coordinator?"
            ) from error
    skew = clock_skew(answer)
    if answer.headers.get(SITE, config.site) != config.site:
        raise FinalProblem(
            f"site is {config.site!r} in the site YAML, but the coordinator registered this key "
            f"for {answer.headers[SITE]!r}: use the name of the kit"
        )
    if answer.status_code >= 500:  # the door's own too: the SuperLink behind it is restarting
        raise ConnectionProblem(
            f"the coordinator at {config.coordinator.address} is not ready "
            f"(HTTP {answer.status_code})"
        )
    if DOOR in answer.headers:
        content = answer.json()
        raise FinalProblem(
            f"the coordinator turns this site away: {content['detail']}"
            + advice_on(int(content["code"]), skew)
        )
    no_run = httpx.codes.UNAUTHORIZED  # what Flower says to a question about none
    if answer.status_code != no_run:
        raise FinalProblem(
            f"{config.coordinator.address} answers (HTTP {answer.status_code}), but not as a "
            "fed-medsa coordinator: check coordinator.address"
        )
    return skew


def check_certificate(config: SiteConfig) -> None:
    """Open a TLS connection; raises what `check_connection` raises."""
    host, _, port = config.coordinator.address.rpartition(":")
    host, where = host.strip("[]"), config.coordinator.address
    context = tls_context(config)
    try:
        with socket.create_connection((host, int(port)), TIMEOUT) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        raise FinalProblem(_certificate_advice(error, host, where)) from error
    except ssl.SSLEOFError as error:  # also a proxy whose coordinator is away
        raise ConnectionProblem(
            f"{where} closed the connection before it began: the coordinator is not running, or a "
            "proxy in between does not let this site through"
        ) from error
    except ssl.SSLError as error:
        raise FinalProblem(
            f"{where} does not speak TLS ({error.reason}): it is another service, or a proxy in "
            "between; nothing was sent. Check coordinator.address"
        ) from error
    except socket.gaierror as error:
        raise ConnectionProblem(
            f"the name {host} is not known here ({error.strerror}): check coordinator.address and "
            "this machine's DNS"
        ) from error
    except UnicodeError as error:
        raise FinalProblem(
            f"{host} cannot be the name of a computer ({error}): check coordinator.address"
        ) from error
    except OSError as error:
        raise ConnectionProblem(
            f"{where} cannot be reached ({error.strerror or error}): the coordinator is not "
            "running, or a firewall is in between; this site needs one outbound connection to it"
        ) from error


def _certificate_advice(error: ssl.SSLCertVerificationError, host: str, where: str) -> str:
    if error.verify_code == CERTIFICATE_EXPIRED:
        return (
            f"the certificate of {where} has expired: the coordinator makes a new one with "
            "`flower-server provision`. If it has not, this machine's clock is wrong"
        )
    if error.verify_code == NOT_YET_VALID:
        return (
            f"the certificate of {where} is not valid yet: this machine's clock is behind, or "
            "the coordinator's was ahead"
        )
    if error.verify_code in OTHER_NAME:
        return (
            f"the certificate of {where} is for another name than {host}: dial a name that it "
            "has, or let the coordinator add this one to address.also"
        )
    return (
        f"the certificate of {where} is not signed by this site's coordinator.ca "
        f"({error.verify_message}): it is not your coordinator, or ca.crt is an old one; "
        "nothing was sent. Compare fingerprints by telephone"
    )


def clock_skew(answer: httpx.Response) -> float:
    """Seconds by which the coordinator's clock is ahead; 0 when it does not tell its time."""
    try:
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError):
        return 0.0
    return (theirs - datetime.now(UTC)).total_seconds()


def advice_on(code: int, skew: float) -> str:
    """What to do when the door answers with `code`."""
    if code == 9004:
        return f". This machine's clock differs by {-skew:+.0f} s: set it (NTP)"
    if code == 9002:
        return ". Ask the coordinator for a new kit, or send it your site.pub"
    if code == 9003:
        return (
            ", which is for good. Ask the coordinator why, and for a new kit; a key of your own "
            "has to be a new pair (`client/run.py keygen`)"
        )
    return ""
