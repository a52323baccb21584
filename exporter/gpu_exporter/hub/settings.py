"""hub.yml: what nodes.yml does not tell. The keys of ``http_config`` are Prometheus's own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from gpu_exporter.catalog.score import USUAL
from gpu_exporter.config import ConfigError, Section, read_file, read_yaml
from gpu_exporter.config.parsers import (
    Address,
    RefusedError,
    boolean,
    duration_between,
    http_url,
    integer_between,
    name,
    one_of,
    percentage,
    quoted,
    ratio,
    text,
)

T = TypeVar("T")
_DNS_PORT: Final = 53
_LARGEST_SECRET: Final = 64 * 1024  # bytes; a token has a few thousand
_SHARE_OF_INTERVAL: Final = 0.6  # a machine that hangs is told before it is asked again


def _key(default: T, parse: Callable[[Any], T], help_text: str, *, shown: str = "") -> T:
    """One key of hub.yml; ``shown`` is its default as the documentation writes it."""
    return field(default=default, metadata={"parse": parse, "help": help_text, "shown": shown})


# --- parsers of this file alone ---------------------------------------------------------------------------------------


def _share(value: Any) -> float:
    return percentage(value) if isinstance(value, str) and value.endswith("%") else ratio(value)


def _amount(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise RefusedError(f"{quoted(value)} is not a price; write a number such as 2.50")
    return float(value)


def url(value: Any) -> str:
    """An address that can be asked by HTTP; raises RefusedError."""
    parts = http_url(value)
    if parts is None:
        raise RefusedError(f"{quoted(value)} is not a URL; write one such as http://host:9093")
    if parts.password is not None:
        raise RefusedError("has a password in it; write it into http_config.basic_auth")
    return str(value).rstrip("/")


def _dns_server(value: Any) -> Address:
    """An address, since its own name could not be looked up; with or without a port."""
    match = re.fullmatch(
        r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?|([0-9.]+)(?::([0-9]{1,5}))?|([0-9A-Fa-f:]+)", str(value)
    )
    host = "" if match is None else match[1] or match[3] or match[5]
    port = _DNS_PORT if match is None else int(match[2] or match[4] or _DNS_PORT)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise RefusedError(f"{quoted(value)} is not a DNS server's address; write 10.0.0.2 or 10.0.0.2:53")
    return Address(host, port)


_NAME: Final = re.compile(r"([A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9.])?)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name that leads to machines: its addresses with this port, or (None) its SRV records."""

    host: str
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


def _dns_names(value: Any) -> tuple[DnsName, ...]:
    """One name or a list of them."""
    found = []
    for one in value if isinstance(value, list) else [value]:
        match = _NAME.fullmatch(one) if isinstance(one, str) else None
        port = int(match[3]) if match and match[3] else None
        service = match is not None and match[1].startswith("_")
        if match is None or service is (port is not None) or (port is not None and not 0 < port < 65536):
            raise RefusedError(
                f"{quoted(one)} leads to no machines; write exporters.gpus.svc:9435, or the name of SRV records, "
                "_metrics._tcp.exporters.gpus.svc.cluster.local"
            )
        found.append(DnsName(match[1], port))
    return tuple(dict.fromkeys(found))


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """A user's name and password."""

    username: str | None = _key(None, name, "User name.")
    username_file: str | None = _key(None, text, "File with the user name, read again when it changes.")
    password: str | None = _key(None, text, "Password; better in a file.")
    password_file: str | None = _key(None, text, "File with the password, read again when it changes.")


@dataclass(frozen=True, slots=True)
class Authorization:
    """A token."""

    type: str = _key("Bearer", name, "What stands before the token.", shown="Bearer")
    credentials: str | None = _key(None, text, "Token; better in a file.")
    credentials_file: str | None = _key(None, text, "File with the token, read again when it changes.")


@dataclass(frozen=True, slots=True)
class TlsClient:
    """How the machines prove who they are, and we to them."""

    ca_file: str | None = _key(None, text, "PEM file of the CAs that sign the machines' certificates.")
    ca: str | None = _key(None, text, "The same, written here.")
    cert_file: str | None = _key(None, text, "PEM file of our certificate, where the machines want one.")
    key_file: str | None = _key(None, text, "PEM file of its key.")
    server_name: str | None = _key(None, name, "Name that the machines' certificates have to hold.")
    insecure_skip_verify: bool = _key(
        default=False,
        parse=boolean,
        help_text="Take any certificate: whoever sits between can read along.",
        shown="false",
    )


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """How a server is asked."""

    basic_auth: BasicAuth = field(default_factory=BasicAuth)
    authorization: Authorization = field(default_factory=Authorization)
    tls_config: TlsClient = field(default_factory=TlsClient)


@dataclass(frozen=True, slots=True)
class Dns:
    """How the machines' names are looked up."""

    server: Address | None = _key(
        None,
        _dns_server,
        "DNS server for the machines' names, as address or address:port; the system's is asked after it.",
    )


@dataclass(frozen=True, slots=True)
class Discovery:
    """Machines that are not written down."""

    dns: tuple[DnsName, ...] = _key(
        (),
        _dns_names,
        "Names that lead to machines, beside nodes.yml: `name:port` (all of its addresses), or one of SRV records.",
    )
    interval: float = _key(30.0, duration_between(1, 3600), "How often they are looked up.", shown="30s")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Below which score a GPU counts as what; at the last one and above it is high."""

    idle: float = _key(0.1, _share, "Below it a GPU was idle.", shown="10%")
    low: float = _key(0.2, _share, "Below it a GPU was hardly used.", shown="20%")
    normal: float = _key(0.7, _share, "Below it a GPU was used as most are; from it on, highly.", shown="70%")


def _weight(part: str, help_text: str) -> float:
    """One key of ``weights``; by default as the exporter counts the score."""
    return _key(USUAL[part], _share, help_text, shown=f"{USUAL[part]:g}")


@dataclass(frozen=True, slots=True)
class Weights:
    """What the score is made of; together 1."""

    utilization: float = _weight("utilization", "Weight of the utilization.")
    memory_io: float = _weight("memory_io", "Weight of the time in which memory was read or written.")
    memory_used: float = _weight("memory_used", "Weight of the share of memory in use.")
    power: float = _weight("power", "Weight of the power as a share of its limit.")


@dataclass(frozen=True, slots=True)
class Control:
    """Who is told of GPUs that are hardly used."""

    url: str | None = _key(None, url, "Where low GPUs are POSTed to; nothing is sent without it.")
    dry_run: bool = _key(default=True, parse=boolean, help_text="Only log what would be sent.", shown="true")
    cooldown: float = _key(
        3600.0, duration_between(1, 30 * 86400), "How long nothing more is said of a GPU.", shown="1h"
    )
    retries: int = _key(3, integer_between(0, 20), "How often a failed delivery is tried again.", shown="3")
    timeout: float = _key(10.0, duration_between(0.1, 300), "How long one delivery may take.", shown="10s")
    http_config: HttpConfig = field(default_factory=HttpConfig)


@dataclass(frozen=True, slots=True)
class HubConfig:
    """All of hub.yml."""

    interval: float = _key(5.0, duration_between(1, 600), "How often every machine is asked.", shown="5s")
    timeout: float | None = _key(
        None,
        duration_between(0.05, 600),
        "How long an answer may take; at most the interval.",
        shown="3s, or 0.6 of a shorter interval",
    )
    scheme: str = _key(
        "http", one_of("http", "https"), "How machines are asked that have no label `__scheme__`.", shown="http"
    )
    http_config: HttpConfig = field(default_factory=HttpConfig)
    dns: Dns = field(default_factory=Dns)
    discovery: Discovery = field(default_factory=Discovery)
    retention: float = _key(
        30 * 86400.0,
        duration_between(86400, 730 * 86400),
        "How long the history keeps minutes; quarter hours stay two years.",
        shown="30d",
    )
    window: float = _key(86400.0, duration_between(600, 400 * 86400), "How far back results look.", shown="24h")
    schedule: float = _key(900.0, duration_between(60, 7 * 86400), "How often results are worked out.", shown="15m")
    thresholds: Thresholds = field(default_factory=Thresholds)
    weights: Weights = field(default_factory=Weights)
    control: Control = field(default_factory=Control)
    price: float | None = _key(None, _amount, "What an hour of a GPU costs; Waste then says what it was worth.")
    currency: str = _key("", name, "In which currency, such as EUR.")

    @property
    def deadline(self) -> float:
        """Seconds that a machine has to answer."""
        return self.timeout if self.timeout is not None else min(3.0, _SHARE_OF_INTERVAL * self.interval)


def load(path: Path | None) -> HubConfig:
    """The file's settings over the defaults. Raises ConfigError."""
    if path is None:
        return HubConfig()
    section = Section(path, read_yaml(path), known=_keys(HubConfig))
    config: HubConfig = _read(section, HubConfig)
    _check(section, config)
    return config


def entries(table: type[Any] = HubConfig, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key of hub.yml with its default and its meaning, in the order of the documentation."""
    for entry in fields(table):
        key = f"{place}.{entry.name}" if place else entry.name
        if entry.metadata:
            yield key, entry.metadata["shown"], entry.metadata["help"]
        else:
            yield from entries(entry.default_factory, key)  # type: ignore[arg-type]


def secrets_of(config: HttpConfig, beside: Path | None) -> tuple[Path, ...]:
    """The files that it names, to be watched."""
    names = (
        config.basic_auth.username_file,
        config.basic_auth.password_file,
        config.authorization.credentials_file,
        config.tls_config.ca_file,
        config.tls_config.cert_file,
        config.tls_config.key_file,
    )
    folder = beside.parent if beside is not None else Path()
    return tuple(folder / one for one in names if one is not None)


def _keys(table: type[Any]) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(table))


def _read(section: Section, table: type[Any]) -> Any:
    values = {}
    for entry in fields(table):
        if entry.metadata:
            value = section.value(entry.name, entry.metadata["parse"])
            if value is not None:
                values[entry.name] = value
        else:
            inner: Any = entry.default_factory
            values[entry.name] = _read(section.section(entry.name, known=_keys(inner)), inner)
    return table(**values)


def _check(section: Section, config: HubConfig) -> None:
    """What no key tells alone."""
    if config.timeout is not None and config.timeout > config.interval:
        section.refuse("timeout", "is longer than interval; write at most as much")
    limits = config.thresholds
    if not limits.idle <= limits.low <= limits.normal:
        section.refuse("thresholds", "do not rise; write idle <= low <= normal")
    weights = config.weights
    total = weights.utilization + weights.memory_io + weights.memory_used + weights.power
    if abs(total - 1) > 1e-6:
        section.refuse("weights", f"are {total:g} together; write weights that are 1 together")
    for place, http in (("http_config", config.http_config), ("control.http_config", config.control.http_config)):
        _check_http(section, place, http)


def _check_http(section: Section, place: str, http: HttpConfig) -> None:
    basic, token, tls = http.basic_auth, http.authorization, http.tls_config
    if basic.password and basic.password_file:
        section.refuse(f"{place}.basic_auth", "has password and password_file; write one of them")
    if basic.username and basic.username_file:
        section.refuse(f"{place}.basic_auth", "has username and username_file; write one of them")
    if (basic.password or basic.password_file) and not (basic.username or basic.username_file):
        section.refuse(f"{place}.basic_auth.username", "is missing; write the user's name")
    if token.credentials and token.credentials_file:
        section.refuse(f"{place}.authorization", "has credentials and credentials_file; write one of them")
    if (basic.username or basic.username_file) and (token.credentials or token.credentials_file):
        section.refuse(place, "has basic_auth and authorization; write one of them")
    if bool(tls.cert_file) != bool(tls.key_file):
        section.refuse(f"{place}.tls_config", "has one of cert_file and key_file; write both")
    if tls.ca and tls.ca_file:
        section.refuse(f"{place}.tls_config", "has ca and ca_file; write one of them")


def secret(beside: Path | None, place: str, inline: str | None, file: str | None) -> str | None:
    """A password or token, from here or from its file. Raises ConfigError."""
    if file is None:
        return inline
    path = (beside.parent if beside is not None else Path()) / file
    try:
        content = read_file(path, largest=_LARGEST_SECRET).decode().strip()
    except OSError as error:
        raise ConfigError(f"{beside}: {place}: '{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{beside}: {place}: '{path}' is not text") from None
    if not content or not content.isprintable():
        raise ConfigError(f"{beside}: {place}: '{path}' holds no secret; write it on one line")
    return content
