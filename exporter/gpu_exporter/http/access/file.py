"""The web configuration file: who may talk to the exporter, and how. Prometheus's exporter-toolkit made the format.

What Python's ssl module cannot do as Go does is refused with what to write instead, never ignored.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from gpu_exporter.config import Section, read_yaml
from gpu_exporter.config.installed import remedy
from gpu_exporter.config.parsers import RefusedError, boolean, duration, integer_between, quoted, text

VERIFIES: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED: Final = frozenset({"RequestClientCert", "RequireAnyClientCert", "RequireClientCert"})
_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
# Go's name: OpenSSL's. Those of TLS 1.3 cannot be chosen in Go either; they are taken and change nothing.
_CIPHERS: Final = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_CURVES: Final = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": (),
    "Strict-Transport-Security": (),
}
_BCRYPT: Final = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
# A check at cost 16 takes some 5 s; a scrape would time out over anything slower.
_COSTS: Final = range(4, 17)


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or key, in a file (by its absolute or working-directory path) or written into the configuration."""

    key: str
    path: Path | None
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """``tls_server_config``; ``ciphers`` (for TLS 1.2) and ``curves`` have OpenSSL's names."""

    cert: Pem
    key: Pem
    client_ca: Pem | None = None
    verify: ssl.VerifyMode = ssl.CERT_NONE
    allowed_sans: tuple[str, ...] = ()
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    server_order: bool = True
    curves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """The whole file. ``users`` maps names to bcrypt hashes; ``interval`` of 0 is no rate limit."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    interval: float = 0.0
    burst: int = 0


def load(path: Path) -> AccessConfig:
    """Read and check the file, without the files that it names. Raises ConfigError."""
    file = _Section(path, read_yaml(path))
    file.known(("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"))
    http = _section(file, "http_server_config", "http2", "headers")
    http.value("http2", boolean)
    rate = _section(file, "rate_limit", "interval", "burst")
    interval = rate.value("interval", _interval, 0.0)
    burst = rate.value("burst", integer_between(1, 2**31), 0)
    if interval and not burst:
        rate.refuse("burst", "is missing; write how many requests may come at once")
    headers = _section(http, "headers", *_HEADERS)
    return AccessConfig(
        tls=_tls(file),
        headers={name: value for name in _HEADERS if (value := headers.value(name, _header(name)))},
        users=_users(file),
        interval=interval,
        burst=burst,
    )


class _Section(Section):
    """A mapping as Go reads it."""

    blank = True


def _section(parent: Section, key: str, *names: str) -> Section:
    """The mapping below a key. Not all of its keys fit into the line for what is no mapping at all."""
    section = parent.section(key)
    section.known(names)
    return section


# --- tls_server_config ------------------------------------------------------------------------------------------------


def _tls(file: Section) -> TlsConfig | None:
    pems = ("cert", "key", "client_ca")
    section = _section(
        file, "tls_server_config", *pems, *(f"{name}_file" for name in pems), "client_auth_type", "client_allowed_sans",
        "min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences",
    )  # fmt: skip
    if not section.entries:
        return None
    cert, key, client_ca = (_pem(section, name) for name in pems)
    if cert is None or key is None:
        missing = "cert_file" if cert is None else "key_file"
        section.refuse(missing, "is missing; TLS needs cert_file and key_file")
    verify = section.value("client_auth_type", _auth_type, "NoClientCert")
    minimum = section.value("min_version", _version, ssl.TLSVersion.TLSv1_2)
    maximum = section.value("max_version", _version, ssl.TLSVersion.TLSv1_3)
    if minimum > maximum:
        section.refuse("min_version", "is above max_version; write TLS12 or the same version")
    sans = section.items("client_allowed_sans", text)
    if sans and verify != "RequireAndVerifyClientCert":
        section.refuse("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    if client_ca is None and verify != "NoClientCert":
        section.refuse("client_ca_file", f"is missing; {verify} needs the CA that signs clients' certificates")
    if client_ca is not None and verify == "NoClientCert":
        section.refuse("client_auth_type", "is missing; with client_ca_file, write RequireAndVerifyClientCert")
    named = section.items("cipher_suites", _named("cipher suite", _CIPHERS))
    ciphers = tuple(cipher for cipher in named if cipher)
    curves = section.items("curve_preferences", _named("curve", _CURVES))
    if len(curves) > 1 and not hasattr(ssl.SSLContext, "set_groups"):
        only = "OpenSSL's own order has all of them; leave the key out, or write the one curve to be used"
        section.refuse("curve_preferences", f"this Python cannot order several curves; {only}")
    return TlsConfig(
        cert=cert,
        key=key,
        client_ca=client_ca,
        verify=VERIFIES[verify],
        allowed_sans=sans,
        # Suites of TLS 1.3 only: no client of 1.2 is served, as with Go.
        minimum=maximum if named and not ciphers else minimum,
        maximum=maximum,
        ciphers=ciphers,
        server_order=section.value("prefer_server_cipher_suites", boolean, default=True),
        curves=curves,
    )


def _pem(section: Section, name: str) -> Pem | None:
    path, inline = section.value(f"{name}_file", text), section.value(name, text)
    if path is not None and inline is not None:
        section.refuse(name, f"is written twice, here and in {name}_file; write one of them")
    if path is not None:
        return Pem(f"{section.place}.{name}_file", section.path.parent / path)
    return None if inline is None else Pem(f"{section.place}.{name}", None, inline)


def _auth_type(value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedError(f"{quoted(value)} is not known; write one of {', '.join(VERIFIES)}")
    known = ", ".join(VERIFIES)
    if value in _UNVERIFIED:
        raise RefusedError(f"{quoted(value)} lets in certificates that nobody verified; write one of {known}")
    if value not in VERIFIES:
        raise RefusedError(f"{quoted(value)} is not known; write one of {known}")
    return str(value)


def _version(value: Any) -> ssl.TLSVersion:
    if not isinstance(value, str):
        raise RefusedError(f"{quoted(value)} is not known; write TLS12 or TLS13")
    if value in {"TLS10", "TLS11"}:
        raise RefusedError(f"{quoted(value)} is no longer safe; write TLS12 or TLS13")
    if value not in _VERSIONS:
        raise RefusedError(f"{quoted(value)} is not known; write TLS12 or TLS13")
    return _VERSIONS[value]


def _named(what: str, names: Mapping[str, str]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise RefusedError(f"{quoted(value)} is not a {what} that can be chosen; write some of {', '.join(names)}")
        return names[value]

    return parse


# --- the rest ---------------------------------------------------------------------------------------------------------


def _header(name: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise RefusedError(f"{quoted(value)} is not the value of a header; write it on one line, in quotes")
        if (accepted := _HEADERS[name]) and value.lower() not in accepted:
            raise RefusedError(f"{quoted(value)} is not known; write {' or '.join(accepted)}")
        return value

    return parse


def _users(file: Section) -> dict[str, bytes]:
    section = file.section("basic_auth_users")
    users = dict(_hashes(section))
    if users and find_spec("bcrypt") is None:
        file.refuse("basic_auth_users", f"needs the package bcrypt; {remedy(['bcrypt'])}")
    return users


def _hashes(section: Section) -> Iterator[tuple[str, bytes]]:
    for name, value in section.entries.items():
        if not isinstance(name, str) or not name or ":" in name:
            section.refuse(quoted(name)[1:-1], "is not a user's name; write text without a colon")
        match = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
        place = quoted(name)[1:-1]
        if match is None:  # the value is a secret, most of all when it is a plain password
            section.refuse(place, "is not a bcrypt hash; write what htpasswd -nBC 10 '' | tr -d ':\\n' prints")
        elif int(match[1]) not in _COSTS:
            section.refuse(place, f"has the cost {int(match[1])}; write a hash of cost {_COSTS[0]} to {_COSTS[-1]}")
        else:
            yield name, value.encode()


def _interval(value: Any) -> float:
    return (
        0.0 if isinstance(value, (str, int)) and value in (0, "0") and not isinstance(value, bool) else duration(value)
    )
