"""What an exporter's /api/v1/snapshot tells, decoded and believed only as far as it can be true."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from gpu_exporter.history.document import RARE, READ

SCHEMA: Final = 1
_LONGEST: Final = 200  # characters of a name; Kubernetes allows 253, and nobody reads so many
# Control characters, and those that turn the direction of all text around them.
_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_MOST_HOT: Final = 300.0  # °C
_MOST_POWER: Final = 20_000.0  # watts a GPU

AccountState: TypeAlias = Literal["active", "idle_held", "idle_free", "unknown", "down"]


class DocumentError(Exception):
    """The document cannot be used; the message goes on after the machine's name."""


class _Struct(msgspec.Struct, frozen=True, omit_defaults=True):
    """Unknown keys are passed over: a newer exporter may say more."""


class Disk(_Struct, frozen=True):
    """A file system, in bytes."""

    mount: str = ""
    device: str = ""
    filesystem: str = ""
    total_bytes: float | None = None
    used_bytes: float | None = None
    free_bytes: float | None = None


class Host(_Struct, frozen=True):
    """The machine around the GPUs."""

    name: str = ""
    addresses: tuple[str, ...] = ()
    os: str = ""
    kernel: str = ""
    boot_timestamp_seconds: float | None = None
    cpus: int | None = None
    cpu_utilization_ratio: float | None = None
    memory_total_bytes: float | None = None
    memory_used_bytes: float | None = None
    load: tuple[float, ...] = ()
    disks: tuple[Disk, ...] = ()


class Exporter(_Struct, frozen=True):
    """The exporter on it. ``ready`` and ``live`` are what is wrong, or None."""

    version: str = ""
    source: str = ""
    simulated: bool = False
    interval_seconds: float | None = None
    sample_success: bool = False
    sample_timestamp_seconds: float | None = None
    sample_age_seconds: float | None = None
    paused: bool = False
    ready: str | None = None
    live: str | None = None


class Holder(_Struct, frozen=True):
    """Somebody's share of a GPU."""

    owner_kind: str = "user"
    owner: str = ""
    namespace: str = ""
    memory_used_bytes: float | None = None


class Labelled(_Struct, frozen=True):
    """One of several values of a metric."""

    labels: dict[str, str] = {}
    value: float | None = None


class Metrics(_Struct, frozen=True):
    """The few metrics that the pages show; the whole document has all."""

    gpu_utilization_ratio: float | None = None
    gpu_memory_io_utilization_ratio: float | None = None
    gpu_memory_used_bytes: float | None = None
    gpu_memory_total_bytes: float | None = None
    gpu_temperature_celsius: float | None = None
    gpu_temperature_limit_celsius: tuple[Labelled, ...] = ()
    gpu_power_watts: float | None = None
    gpu_power_limit_watts: float | None = None
    gpu_sm_active_ratio: float | None = None
    gpu_mig_mode_enabled: float | None = None
    gpu_fan_speed_ratio: tuple[Labelled, ...] = ()
    gpu_xid_errors_total: tuple[Labelled, ...] = ()


class Gpu(_Struct, frozen=True):
    """One GPU. ``holders`` is None where it is not known who holds it."""

    gpu: int
    uuid: str = ""
    model: str = ""
    pci_bus_id: str = ""
    up: bool = False
    failure: str | None = None
    state: AccountState = "unknown"
    metrics: Metrics = Metrics()
    holders: tuple[Holder, ...] | None = None


class Document(_Struct, frozen=True):
    """The whole of it."""

    schema: int
    exporter: Exporter
    host: Host = Host()
    driver: dict[str, str] = {}
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[dict[str, Any], ...] = ()


class _Envelope(_Struct, frozen=True):
    schema: int | None = None


_decoder: Final = msgspec.json.Decoder(Document)
_envelope: Final = msgspec.json.Decoder(_Envelope)
# The same as dictionaries, without the metrics that a history does not keep: most of a document.
_KeptMetrics: Any = TypedDict(  # type: ignore[misc]
    "_KeptMetrics", {name: msgspec.Raw if name in RARE else Any for name in READ}, total=False
)


class _KeptGpu(TypedDict, total=False):
    gpu: Any
    uuid: Any
    model: Any
    metrics: _KeptMetrics


class _Kept(TypedDict, total=False):
    schema: Any
    exporter: Any
    host: Any
    gpus: list[_KeptGpu]
    processes: Any


_kept: Final = msgspec.json.Decoder(_Kept)
_anything: Final = msgspec.json.Decoder(dict[str, Any])


def decode(body: bytes) -> Document:
    """The document. Raises DocumentError."""
    try:
        schema = _envelope.decode(body).schema
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise DocumentError("answered something that is no snapshot of a gpu-exporter") from None
    if schema is None:
        raise DocumentError("answered JSON that is no snapshot of a gpu-exporter")
    if schema != SCHEMA:
        hint = "upgrade the hub" if schema > SCHEMA else "upgrade its gpu-exporter"
        raise DocumentError(f"speaks version {schema} of the snapshot, this hub {SCHEMA}: {hint}")
    try:
        return _decoder.decode(body)
    except UnicodeDecodeError:
        raise DocumentError("answered a snapshot that is not text in UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        # msgspec's own words are of types and places, never of values.
        raise DocumentError(f"answered a snapshot that cannot be read: {shown(str(error))}") from None


def whole(body: bytes) -> dict[str, Any]:
    """Everything in a document that was decoded before."""
    return _anything.decode(body)


def kept(body: bytes) -> dict[str, Any]:
    """What a history reads of a document that was decoded before."""
    found: dict[str, Any] = {**_kept.decode(body)}
    for gpu in found.get("gpus", ()):
        metrics = gpu.get("metrics", {})
        for name in RARE:
            if (raw := metrics.get(name)) is not None:
                text = bytes(raw)
                metrics[name] = _shared(text) if len(text) <= _SHARED_UP_TO else _anything_at_all(text)
    return found


def _anything_at_all(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


# Counters that seldom grow are the same on most GPUs and from one document to the next: they are unpacked once, and
# held once. Of 8 000 GPUs they were more than half of what a history keeps in memory.
_shared: Final = lru_cache(512)(_anything_at_all)
_SHARED_UP_TO: Final = 1024  # bytes; a lying machine's, unpacked, are twenty times as large


def shown(text: str) -> str:
    """Text from elsewhere as it may stand on a page: one line, not too long, nothing that turns the text around it."""
    text = _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


# --- belief: what cannot be true is not known -------------------------------------------------------------------------


def share(value: float | None) -> float | None:
    """A share of 1; a hair more is rounding."""
    if value is None or not 0 <= value <= 1.005:
        return None
    return min(value, 1.0)


def amount(value: float | None, most: float = 2.0**62) -> float | None:
    """Something that is not negative."""
    return value if value is not None and math.isfinite(value) and 0 <= value <= most else None


def celsius(value: float | None) -> float | None:
    """A temperature of something that runs."""
    return value if value is not None and 0 < value < _MOST_HOT else None


def watts(value: float | None) -> float | None:
    """A power that a GPU can draw."""
    return amount(value, _MOST_POWER)


def within(part: float | None, total: float | None) -> float | None:
    """The part where it is not more than the whole."""
    part, total = amount(part), amount(total)
    return None if part is None or (total is not None and part > total) else part
