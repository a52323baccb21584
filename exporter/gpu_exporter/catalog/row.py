"""The shape of a catalogue row: ``Metric``, and the columns that say where a source finds its value.

Numbers come from NVIDIA's NVML API reference (the call or the field identifier named in each row); ``scale`` turns
their units into Prometheus base units at the edge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from gpu_exporter.catalog.plausible import Range, by_unit

KIB: Final = 1024.0
MIB: Final = 1024.0**2
MHZ: Final = 1e6
PERCENT: Final = 0.01
MILLI: Final = 1e-3
NANO: Final = 1e-9
MICRO: Final = 1e-6

# What a name may end with, before _total.
BASE_UNITS: Final = ("bytes", "seconds", "celsius", "watts", "joules", "hertz", "ratio")

# What nvidia-smi prints for numbers that are states.
ON_OFF: Final = (("Enabled", 1.0), ("Disabled", 0.0))
YES_NO: Final = (("Yes", 1.0), ("No", 0.0))
ACTIVE: Final = (("Active", 1.0), ("Not Active", 0.0))
# What nvidia-smi writes behind a number, and what the number is times then.
_SMI_UNITS: Final = {"": None, "KiB": KIB, "MiB": MIB, "%": PERCENT, "MHz": MHZ, "us": MICRO, "W": 1.0, "C": 1.0}
_SMI_NUMBER: Final = re.compile(r"(-?[0-9]{1,20}(?:\.[0-9]{1,9})?) ?([A-Za-z%]*)")


def scaled(value: float, scale: float) -> float:
    """``value`` x ``scale``; a scale below one divides, so that 1234567890 mJ are 1234567.89 J and not …8900000001."""
    return value * scale if scale >= 1 else value / round(1 / scale)


Kind: TypeAlias = Literal["gauge", "counter", "info", "histogram"]


@dataclass(frozen=True, slots=True)
class Call:
    """One NVML call: ``name(handle, *args)``.

    ``args`` are numbers or names of pynvml constants. ``struct`` names a pynvml structure that the call fills in.
    ``part`` picks an attribute or item of the answer; several are added up. ``bit`` names a mask constant: the value is
    1 where it is set. Answers listed in ``absent`` mean "no value". Of a number that holds several, ``shift`` and
    ``mask`` pick one, which ``codes`` turns into a value; other codes are no value. ``only`` names an attribute of the
    answer and the number that it has where the column means anything. How often it is made: prices.py.
    """

    name: str
    args: tuple[str | int, ...] = ()
    struct: str | None = None
    part: tuple[str | int, ...] = ()
    bit: str | None = None
    scale: float = 1.0
    absent: tuple[float, ...] = ()
    shift: int = 0
    mask: int = 0
    codes: tuple[tuple[int, float], ...] = ()
    only: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One NVML field value, read with all others of the device in a single ``nvmlDeviceGetFieldValues``.

    ``scope`` is the field's scope identifier; "links" asks for every link of the row's kind and adds the answers up.
    ``renumbered`` holds (first driver release, identifier) pairs, newest first, for fields whose number changed between
    releases; a driver older than all of them lacks the field. ``wraps`` marks counters that wrap unseen where a driver
    answers them in 32 bits, and are no value then.
    """

    name: str
    scope: int | Literal["links"] = 0
    scale: float = 1.0
    renumbered: tuple[tuple[int, int], ...] = ()
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Gpm:
    """One GPM metric (Hopper and newer): its mean since the reading before; of a counter, that times the time.

    ``most`` is the highest mean that can be, in NVML's unit; what is above ``full`` is a rounding error, and full.
    """

    name: str
    most: float
    scale: float = 1.0
    full: float = math.inf


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
    """How many links of the row's kind are active, or are not, by the field ``state`` of each.

    With ``per_link`` each NVLink is asked by ``nvmlDeviceGetNvLinkState``, once a minute, where a driver lacks it.
    """

    state: str
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


@dataclass(frozen=True, slots=True)
class Mig:
    """Of each MIG device, which every source reads for all such rows at once; ``name`` is NVML's call or GPM metric."""

    name: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """From the kernel, without a call to the driver; ``name`` is the file in the device's sysfs folder."""

    name: str


Nvml: TypeAlias = Call | Field | Gpm | Samples | Limit | Links | Fans | Processes | Mig | Kernel


@dataclass(frozen=True, slots=True)
class Smi:
    """One field of ``nvidia-smi --query-gpu``; ``words`` gives the numbers of textual answers.

    ``others`` are fields that stand in where this one is not known or not told: its name of before, or the next best.
    """

    name: str
    scale: float = 1.0
    words: tuple[tuple[str, float], ...] = ()
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that tell it, best first."""
        return (self.name, *self.others)

    def value(self, text: str) -> float | None:
        """What was printed, in base units; None for "[N/A]" and whatever else is neither a number nor a known word.

        A number in another unit than the row's is none.
        """
        if self.words:
            return dict(self.words).get(text.strip())
        match = _SMI_NUMBER.fullmatch(text.strip())  # "631.95 W", or without the unit
        if match is None or _SMI_UNITS.get(match[2], -1.0) not in {None, self.scale}:
            return None
        return scaled(float(match[1]), self.scale)


@dataclass(frozen=True, slots=True)
class Dcgm:
    """One field of DCGM by its number, as ``dcgmi dmon`` prints it, and its name (dcgm_fields.h).

    ``bit`` picks one bit of a mask: the value is 1 where it is set. ``number`` is followed by ``others``, which stand
    in where this one is not known or not told.
    """

    number: int
    name: str
    scale: float = 1.0
    bit: int | None = None
    others: tuple[int, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The fields that tell it, best first."""
        return (self.number, *self.others)

    def value(self, number: float) -> float:
        """A number that was told, in base units."""
        return float(bool(int(number) & self.bit)) if self.bit is not None else scaled(number, self.scale)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number for every simulated GPU."""

    value: float


@dataclass(frozen=True, slots=True)
class Board:
    """What the simulated board (``GpuModel``) says of itself under this name; a board that says None lacks the row."""

    attribute: str
    scale: float = 1.0


# A name is that of a quantity which ``Simulation`` works out at every reading.
Fake: TypeAlias = str | Constant | Board


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Metric:
    """One row: a series of every device (or, with ``own`` set, of the exporter itself).

    ``labels`` are fixed pairs that tell rows of one name apart; ``dynamic`` names labels whose values are known only at
    run time. ``nvml`` lists where NVML has the value, best first. ``links`` names the field that counts the links which
    the row is about: a device without any is not asked. ``integral_of`` names the gauge that is integrated over time
    where a device offers nothing better. ``fake`` tells what simulated GPUs have, ``fake_absent`` why they lack it.
    ``own`` names the attribute of ``Snapshot`` that holds an exporter value: one number, or, where the row has a
    dynamic label, one by label value. ``info`` names labels of an info row. ``parts``
    has, by label value, how a row with one dynamic label is read. ``unitless`` marks states, counts and switches: other
    gauges end with their unit.
    ``plausible`` is the range of what the value can be at all, by default its unit's (plausible.py). Rows compare by
    identity, so that they are cheap dictionary keys.
    """

    name: str
    kind: Kind
    help: str
    group: str
    labels: tuple[tuple[str, str], ...] = ()
    dynamic: tuple[str, ...] = ()
    nvml: tuple[Nvml, ...] = ()
    smi: Smi | None = None
    dcgm: Dcgm | None = None
    fake: Fake | None = None
    fake_absent: str | None = None
    integral_of: str | None = None
    own: str | None = None
    links: str | None = None
    info: tuple[str, ...] = ()
    parts: tuple[Metric, ...] = ()
    unitless: bool = False
    plausible: Range

    @property
    def unit(self) -> str | None:
        """The base unit that the name ends with."""
        return _unit(self.name)

    def __repr__(self) -> str:
        pairs = ",".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{self.name}{{{pairs}}}" if pairs else self.name


def _unit(name: str) -> str | None:
    last = name.removesuffix("_total").rpartition("_")[2]
    return last if last in BASE_UNITS else None


def row(
    kind: Kind,
    group: str,
    name: str,
    text: str,
    /,
    *,
    labels: Mapping[str, str] | None = None,
    dynamic: tuple[str, ...] = (),
    nvml: Nvml | Sequence[Nvml] = (),
    smi: Smi | None = None,
    dcgm: Dcgm | None = None,
    fake: Fake | None = None,
    fake_absent: str | None = None,
    integral_of: str | None = None,
    own: str | None = None,
    links: str | None = None,
    info: tuple[str, ...] = (),
    parts: tuple[Metric, ...] = (),
    unitless: bool = False,
    plausible: Range | None = None,
) -> Metric:
    """A row as the modules of the catalogue write it, with kind and group bound: ``gauge(name, "Help.", …)``."""
    return Metric(
        name=name,
        kind=kind,
        help=text,
        group=group,
        labels=tuple((labels or {}).items()),
        dynamic=dynamic,
        nvml=tuple(nvml) if isinstance(nvml, Sequence) else (nvml,),
        smi=smi,
        dcgm=dcgm,
        fake=fake,
        fake_absent=fake_absent,
        integral_of=integral_of,
        own=own,
        links=links,
        info=info,
        parts=parts,
        unitless=unitless,
        plausible=plausible or by_unit(_unit(name), kind),
    )


def split(
    kind: Kind,
    group: str,
    name: str,
    text: str,
    /,
    *,
    label: str,
    nvml: Mapping[str, Nvml],
    fake: str | None = None,
    fake_absent: str | None = None,
    links: str | None = None,
    unitless: bool = False,
    plausible: Range | None = None,
) -> Metric:
    """A row with one dynamic label, whose values are there where the device has them: ``nvml`` tells where each is.

    A simulated GPU has them by the name ``fake`` with the label's value behind it.
    """

    def one(labels: Mapping[str, str] | None, dynamic: tuple[str, ...], columns: Sequence[Nvml], **more: Any) -> Metric:
        return row(
            kind,
            group,
            name,
            text,
            labels=labels,
            dynamic=dynamic,
            nvml=columns,
            links=links,
            unitless=unitless,
            plausible=plausible,
            **more,
        )

    parts = tuple(
        one({label: value}, (), (column,), fake=f"{fake}_{value}" if fake else None) for value, column in nvml.items()
    )
    return one(None, (label,), tuple(dict.fromkeys(nvml.values())), parts=parts, fake_absent=fake_absent)
