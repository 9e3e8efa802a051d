"""Names that a certificate is for, DNS names and IP addresses: written, read and compared."""

import ipaddress
import re
from collections.abc import Iterable

from cryptography import x509

from medsa_model.errors import ConfigError

LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}$)(?:\*\.)?(?:{LABEL}\.)*{LABEL}")


def alternative_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """The extension for `names`; raises `ConfigError` for what is neither a name nor an address."""
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
            continue
        except ValueError:
            pass
        if not HOST.fullmatch(name) or name.rpartition(".")[2].isdecimal():
            raise ConfigError(
                f"address.host or address.also: got {name!r}, expected a DNS name in ASCII or an "
                "IP address, without port or brackets"
            )
        found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names, then IP addresses; none when the certificate does not say."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def missing_names(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of `wanted` that a certificate for `names` is not for; `*.x.org` is for `y.x.org`."""
    has = {_plain(name) for name in names}
    return [
        name
        for name in dict.fromkeys(wanted)
        if _plain(name) not in has and f"*.{_plain(name).partition('.')[2]}" not in has
    ]


def _plain(name: str) -> str:
    """One way to write a name or an address."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.casefold()
