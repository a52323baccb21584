"""Parsers of values: from what YAML or a flag says to a value, or RefusedError with what would be accepted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

_UNITS: Final = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m(?!s)": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile("".join(rf"(?:([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in _UNITS))
# Half a character, which YAML can write and no file name or certificate holds.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SIZES: Final = {"": 1.0, "B": 1.0, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
Word = TypeVar("Word", bound=str)


class RefusedError(ValueError):
    """What a parser answers; the caller adds where the value stands. The message ends in what would be accepted."""


def duration(value: Any) -> float:
    """Seconds, from a Prometheus duration: 5s, 500ms, 1m, 1m30s, 7d."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        sizes = _UNITS.values()
        return sum(float(number) * size for number, size in zip(match.groups(), sizes, strict=True) if number)
    raise RefusedError(f"{quoted(value)} is not a duration; write 5s, 500ms or 1m")


def duration_between(low: float, high: float) -> Callable[[Any], float]:
    """Seconds within bounds."""

    def parse(value: Any) -> float:
        seconds = duration(value)
        if not low <= seconds <= high:
            raise RefusedError(f"{quoted(value)} is out of range; write {in_units(low)} to {in_units(high)}")
        return seconds

    return parse


def integer_between(low: int, high: int) -> Callable[[Any], int]:
    """A whole number within bounds."""

    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RefusedError(f"{quoted(value)} is not a whole number from {low} to {high}")
        return value

    return parse


def ratio(value: Any) -> float:
    """A share from 0 to 1."""
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise RefusedError(f"{quoted(value)} is not a share; write a number from 0 to 1, such as 0.05")
    return number


def percentage(value: Any) -> float:
    """A share from 0 to 1, written as 20%."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%", value) if isinstance(value, str) else None
    if not match or float(match[1]) > 100:
        raise RefusedError(f"{quoted(value)} is not a percentage; write 20%")
    return float(match[1]) / 100


def price(value: Any) -> float:
    """An amount of money, from 0 on, as 0.30 or 2.5."""
    match = re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", value) if isinstance(value, str) else None
    if match is None:
        raise RefusedError(f"{quoted(value)} is not a price; write 0.30")
    return float(match[0])


def moment(value: Any) -> float:
    """Unix seconds, from a date, a time or Unix seconds. Without a zone it is UTC."""
    try:
        if re.fullmatch(r"[0-9]{9,10}(\.[0-9]{1,9})?", value):
            return float(value)
        parsed = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise RefusedError(
            f"{quoted(value)} is not a time; write 2026-11-01 or 2026-11-01T08:00:00Z, or Unix seconds"
        ) from None


def size(value: Any) -> float:
    """Bytes, from a number or one with KiB, MiB or GiB."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(|B|KiB|MiB|GiB)", str(value))
    if match is None or isinstance(value, bool):
        raise RefusedError(f"{quoted(value)} is not a size; write bytes, or 256MiB")
    return float(match[1]) * _SIZES[match[2]]


def size_between(low: float, high: float) -> Callable[[Any], float]:
    """Bytes within bounds."""

    def parse(value: Any) -> float:
        told = size(value)
        if not low <= told <= high:
            raise RefusedError(
                f"{quoted(value)} is out of range; write {low / 1024**2:.0f}MiB to {high / 1024**3:.0f}GiB"
            )
        return told

    return parse


@dataclass(frozen=True)
class _Known(Generic[Word]):
    """A parser of words that are known beforehand; ``offered`` are those that a shell completes."""

    names: tuple[Word, ...]

    @property
    def offered(self) -> tuple[str, ...]:
        return self.names


class _Subset(_Known[str]):
    def __call__(self, value: Any) -> tuple[str, ...]:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise RefusedError(f"{quoted(value)} is not a list; write some of {', '.join(self.names)}")
        for item in items:
            if item not in self.names:
                raise RefusedError(f"{quoted(item)} is not known; write some of {', '.join(self.names)}")
        return tuple(name for name in self.names if name in items)


class _OneOf(_Known[Word]):
    def __call__(self, value: Any) -> Word:
        if value not in self.names:
            raise RefusedError(f"{quoted(value)} is not known; write one of {', '.join(self.names)}")
        return self.names[self.names.index(value)]


class _Source(_OneOf[str]):
    @property
    def offered(self) -> tuple[str, ...]:
        return tuple(f"{REPLAY}:" if name == REPLAY else name for name in self.names)

    def __call__(self, value: Any) -> str:
        if isinstance(value, str) and value.partition(":")[0] == REPLAY:
            file = value.partition(":")[2].removesuffix("?loop")
            if not file or not file.isprintable():
                raise RefusedError(f"{quoted(value)} names no recording; write replay:FILE or replay:FILE?loop")
            return value
        return super().__call__(value)


def offered(parse: Callable[[Any], Any]) -> tuple[str, ...]:
    """The words that a parser takes, where they are known beforehand."""
    return parse.offered if isinstance(parse, _Known) else ()


def subset(*names: str) -> Callable[[Any], tuple[str, ...]]:
    """Some of these words, as a list or with commas; empty is none of them."""
    return _Subset(names)


def words(value: Any) -> tuple[str, ...]:
    """Names without spaces, as a list or with commas; at least one."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise RefusedError(f"{quoted(value)} is not a list of names; write ['nvidia.com/gpu']")
    for item in items:
        if not re.fullmatch(r"[!-~]{1,253}", item):
            raise RefusedError(f"{quoted(item)} is not a name; write one without spaces")
    return tuple(items)


def text(value: Any) -> str:
    """Any text that a file name or a PEM block may be."""
    if not isinstance(value, str) or not value or "\0" in value or _SURROGATE.search(value):
        raise RefusedError(f"{quoted(value)} is not text; put it in quotes")
    return value


def name(value: Any) -> str:
    """What something or somebody is called."""
    if not isinstance(value, str) or not value or len(value) > 255 or not value.isprintable():
        raise RefusedError(f"{quoted(value)} is not a name; write 1 to 255 printable characters")
    return value


def host_name(value: Any) -> str:
    """What a machine is called; empty leaves it to the machine."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{0,253}", value):
        raise RefusedError(f"{quoted(value)} is not a host name; write one such as gpu3.example.org")
    return value


def one_of(*names: Word) -> Callable[[Any], Word]:
    """One of these words."""
    return _OneOf(names)


REPLAY: Final = "replay"


def source(*names: str) -> Callable[[Any], str]:
    """One of these words; behind ``replay`` stands a file."""
    return _Source(names)


def boolean(value: Any) -> bool:
    """A switch."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    raise RefusedError(f"{quoted(value)} is not a switch; write true or false")


def file_path(value: Any) -> Path:
    """A path; whether it exists is for whoever opens it."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise RefusedError(f"{quoted(value)} is not a file; write a path")
    return Path(value)


def folder(value: Any) -> Path:
    """An absolute path of a folder; whether it exists is for whoever opens it."""
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise RefusedError(f"{quoted(value)} is not a folder; write an absolute path such as /host")
    return Path(value)


def log_path(value: Any) -> str:
    """``auto``, ``off``, or the absolute path of a log."""
    if isinstance(value, bool):  # YAML's off
        value = "auto" if value else "off"
    if not isinstance(value, str) or not value.isprintable() or not (value in {"auto", "off"} or value[:1] == "/"):
        raise RefusedError(f"{quoted(value)} is not a log; write auto, off, or an absolute path such as /dev/kmsg")
    return value


def http_url(value: Any) -> SplitResult | None:
    """The parts of an address that can be asked by HTTP or HTTPS; None where it is none."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,2000}", value):
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none
        return None
    return parts if usable else None


def url_path(value: Any) -> str:
    """Where the metrics are, which may not be where another page is."""
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9_.~/-]*", value):
        raise RefusedError(f"{quoted(value)} is not a URL path; write one such as /metrics")
    if value == "/" or value.startswith("/api/") or value in {"/livez", "/readyz"}:
        raise RefusedError(f"{quoted(value)} is taken by another page; write one such as /metrics")
    return value


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host name, an IP address or, with an empty host, every address, IPv6 and IPv4."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether every address of both families is meant, as node_exporter means it with ``[::]``."""
        return self.host in {"", "::"}

    def takes_in(self, other: Address) -> bool:
        """Whether who listens here takes the other's connections as well. Names are compared, not looked up."""
        if self.port != other.port or self.port == 0:  # 0 is a free port, another one each time
            return False
        if self.host == "0.0.0.0":  # noqa: S104 - compared with
            return bool(re.fullmatch(r"[0-9.]+", other.host))
        return self.everywhere or self.host == other.host


def listen_addresses(value: Any) -> tuple[Address, ...]:
    """One or more of host:port, as a list, or with commas or blanks; IPv6 addresses in brackets."""
    items = [item for item in value.replace(",", " ").split(" ") if item] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        items = [value]
    addresses: list[Address] = []
    for address in map(listen_address, items):
        for earlier in addresses:
            if earlier.takes_in(address) or address.takes_in(earlier):
                raise RefusedError(f"'{address}' is taken in by '{earlier}'; leave one of them out")
        addresses.append(address)
    return tuple(addresses)


def listen_address(value: Any) -> Address:
    """One host:port, with an IPv6 address in brackets."""
    pattern = r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]*)):([0-9]{1,5})"
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    host = (_ipv6(match[1]) if match[1] else match[2].lower()) if match else None
    if match is None or host is None or int(match[3]) > 65535:
        raise RefusedError(f"{quoted(value)} is not an address; write :9435, 127.0.0.1:9435 or '[::1]:9435'")
    return Address(host, int(match[3]))


def _ipv6(text: str) -> str | None:
    """The address as it is usually written, an IPv4 address in IPv6's clothes as such; None: it is none."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(value: Any) -> tuple[Network, ...]:
    """Networks in CIDR form, as a list or with commas."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise RefusedError(f"{quoted(value)} is not a list of networks; write ['10.0.0.0/8', '::1/128']")
    parsed = []
    for item in items:
        try:
            if not isinstance(item, str):
                raise TypeError  # noqa: TRY301 - ipaddress takes numbers too, which nobody means
            parsed.append(ipaddress.ip_network(item.strip()))
        except (TypeError, ValueError):
            meant = _network_around(item)
            raise RefusedError(f"{quoted(item)} is not a network in CIDR form; write {meant}") from None
    return tuple(parsed)


def _network_around(item: Any) -> str:
    """What may have been meant where an address has more bits than its network."""
    try:
        inner = ipaddress.ip_interface(item.strip())
    except (AttributeError, ValueError):
        return "10.0.0.0/8 or ::1/128"
    return f"{inner.network}, or {inner.ip} for this address alone"


def quoted(value: Any) -> str:
    """The value as a message shows it: on one line, as YAML writes it, not too long."""
    text = (str(value).lower() if isinstance(value, bool) else str(value)).encode("unicode_escape").decode()
    return f"'{text[:80]}…'" if len(text) > 80 else f"'{text}'"


def shown(text: str, most: int = 200) -> str:
    """What a program or a server said, as a message of ours has it: on one line, without what a terminal would obey."""
    line = printable(" ".join(text[: 4 * most].split()))
    return f"{line[:most]}…" if len(line) > most else line


def printable(text: str) -> str:
    """Text from elsewhere without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def in_units(value: float) -> str:
    """Seconds as a duration."""
    units = ((3600.0, "h"), (60.0, "m"), (1.0, "s"), (0.001, "ms"))
    size, unit = next(((size, unit) for size, unit in units if value >= size), (1.0, "s"))
    return f"{value / size:g}{unit}"
