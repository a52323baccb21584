"""The shape of a catalogue row: ``Metric``, and the columns that say where a source finds its value.

Numbers come from NVIDIA's NVML API reference (the call or the field identifier named in each row); ``scale`` turns
their units into Prometheus base units at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, TypeAlias

KIB: Final = 1024.0
MIB: Final = 1024.0**2
MHZ: Final = 1e6
PERCENT: Final = 0.01
MILLI: Final = 1e-3
NANO: Final = 1e-9
MICRO: Final = 1e-6


def scaled(value: float, scale: float) -> float:
    """``value`` x ``scale``; a scale below one divides, so that 1234567890 mJ are 1234567.89 J and not …8900000001."""
    return value * scale if scale >= 1 else value / round(1 / scale)


Kind: TypeAlias = Literal["gauge", "counter", "info"]


@dataclass(frozen=True, slots=True)
class Call:
    """One NVML call: ``name(handle, *args)``.

    ``args`` are numbers or names of pynvml constants. ``struct`` names a pynvml structure that the call fills in.
    ``part`` picks an attribute or item of the answer; several are added up. ``bit`` names a mask constant: the value is
    1 where it is set. ``slow`` answers change only when an administrator acts and are asked for once a minute.
    Answers listed in ``absent`` mean "no value".
    """

    name: str
    args: tuple[str | int, ...] = ()
    struct: str | None = None
    part: tuple[str | int, ...] = ()
    bit: str | None = None
    scale: float = 1.0
    slow: bool = False
    absent: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One NVML field value, read with all others of the device in a single ``nvmlDeviceGetFieldValues``.

    ``scope`` is the field's scope identifier; "links" asks every NVLink and adds the answers up. ``renumbered`` holds
    (first driver release, identifier) pairs, newest first, for fields whose number changed between releases; a driver
    older than all of them lacks the field. ``wraps`` marks counters that NVIDIA documents as wrapping.
    """

    name: str
    scope: int | Literal["links"] = 0
    scale: float = 1.0
    renumbered: tuple[tuple[int, int], ...] = ()
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Samples:
    """A counter integrated from the driver's own sample buffer (``nvmlDeviceGetSamples``): value x time."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A temperature limit that the device tells as a distance from the current margin (Ada and newer)."""

    name: str


@dataclass(frozen=True, slots=True)
class Links:
    """The number of NVLinks in a state (``NVML_FI_DEV_NVLINK_GET_STATE``).

    With ``per_link`` each link is asked by ``nvmlDeviceGetNvLinkState``, once a minute, for drivers without the field.
    """

    active: bool
    per_link: bool = False


@dataclass(frozen=True, slots=True)
class Fans:
    """One value a fan (``nvmlDeviceGetNumFans``, ``nvmlDeviceGetFanSpeed_v2``)."""

    scale: float = PERCENT


@dataclass(frozen=True, slots=True)
class Processes:
    """From the lists of processes, which every source reads for all such rows at once; ``name`` is the NVML call."""

    name: str


Nvml: TypeAlias = Call | Field | Samples | Limit | Links | Fans | Processes


@dataclass(frozen=True, slots=True)
class Smi:
    """One field of ``nvidia-smi --query-gpu``; ``words`` gives the numbers of textual answers."""

    name: str
    scale: float = 1.0
    words: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One row: a series of every device (or, with ``own`` set, of the exporter itself).

    ``labels`` are fixed pairs that tell rows of one name apart; ``dynamic`` names labels whose values are known only at
    run time. ``nvml`` lists where NVML has the value, best first. ``integral_of`` names the gauge that is integrated
    over time where a device offers nothing better. ``fake`` names the simulated quantity. ``own`` names the attribute
    of ``Snapshot`` that holds an exporter value. Rows compare by identity, so that they are cheap dictionary keys.
    """

    name: str
    kind: Kind
    help: str
    group: str
    labels: tuple[tuple[str, str], ...] = ()
    dynamic: tuple[str, ...] = ()
    nvml: tuple[Nvml, ...] = ()
    smi: Smi | None = None
    fake: str | None = None
    integral_of: str | None = None
    own: str | None = None
    info: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        pairs = ",".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{self.name}{{{pairs}}}" if pairs else self.name


# --- how the catalogue writes its rows --------------------------------------------------------------------------------


def _row(
    kind: Kind,
    name: str,
    group: str,
    text: str,
    *nvml: Nvml,
    smi: Smi | None = None,
    fake: str | None = None,
    labels: tuple[tuple[str, str], ...] = (),
    dynamic: tuple[str, ...] = (),
    integral_of: str | None = None,
    own: str | None = None,
    info: tuple[str, ...] = (),
) -> Metric:
    return Metric(name, kind, text, group, labels, dynamic, nvml, smi, fake, integral_of, own, info)


gauge: Final = partial(_row, "gauge")
counter: Final = partial(_row, "counter")
info: Final = partial(_row, "info")
_Columns: TypeAlias = tuple[tuple[Nvml, ...], Smi | None, str]


def family(
    kind: Kind, name: str, group: str, text: str, /, *, integral_of: str | None = None, **label: Mapping[str, _Columns]
) -> list[Metric]:
    """One row for each value of the one label: ``label={value: (nvml, smi, fake)}``."""
    return [
        _row(kind, name, group, text, *nvml, smi=smi, fake=fake, labels=((key, value),), integral_of=integral_of)
        for key, rows in label.items()
        for value, (nvml, smi, fake) in rows.items()
    ]
