"""GPUs that the kernel has asleep are not woken to be asked.

Laptops and workstations suspend a GPU that nobody uses (runtime power management: Turing and newer, where a udev rule
sets ``power/control`` to auto). sysfs tells it without touching the GPU; opening the driver, and most of its calls,
wake it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gpu_exporter.catalog.power import SUSPENDED
from gpu_exporter.model import Device, Driver, Reading, Xid
from gpu_exporter.sources import Source, SourceChangedError
from gpu_exporter.sources.nvml import identity

# What a GPU is let alone for: a minute of no work, then a minute to fall asleep in (the kernel takes some 10 to 20 s).
_QUIET: Final = 60.0  # seconds
_GRACE: Final = 60.0
# Somebody else keeps it awake: the next try is in ten minutes.
_AGAIN: Final = 600.0


class RuntimePower:
    """What sysfs and the kernel driver tell of each GPU's sleep; ``root`` is where /sys and /proc are."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def addresses(self) -> tuple[str, ...]:
        """The bus addresses of the GPUs that the driver is bound to, in NVML's order."""
        return tuple(sorted(path.name for path in self._root.glob("sys/bus/pci/drivers/nvidia/*:*:*.*")))

    def address(self, device: Device) -> str:
        """What sysfs calls a device: NVML writes the domain with eight digits."""
        domain, _, rest = device.pci_bus_id.lower().partition(":")
        return f"{int(domain, 16):04x}:{rest}" if rest and _is_hex(domain) else ""

    def asleep(self, address: str) -> bool | None:
        """Whether it is suspended; None where the kernel does not tell."""
        status = self._read(f"sys/bus/pci/devices/{address}/power/runtime_status") if address else ""
        return None if status in {"", "unsupported"} else status == "suspended"

    def may_sleep(self, address: str) -> bool:
        """Whether the kernel is allowed to suspend it."""
        return bool(address) and self._read(f"sys/bus/pci/devices/{address}/power/control") == "auto"

    def memory_off(self, address: str) -> bool:
        """Whether its memory is off as well, so that nobody has anything there."""
        text = self._read(f"proc/driver/nvidia/gpus/{address}/power")
        return any(
            line.split(":", 1)[1].strip() == "Off" for line in text.splitlines() if line.startswith("Video Memory:")
        )

    def driver_version(self) -> str:
        """The loaded driver's release; empty where /proc does not tell."""
        words = self._read("proc/driver/nvidia/version").split()
        return next((word for word in words if word[:1].isdigit() and word.count(".") >= 1), "")

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text("utf-8", "replace").strip()
        except OSError:
            return ""


class Rest:
    """When the driver is closed so that idle GPUs can fall asleep (``collection.let_sleep``). Times are monotonic."""

    def __init__(self) -> None:
        self._quiet_since: dict[int, float] = {}
        self._not_before = 0.0
        self.until = 0.0  # awake GPUs are left alone until then

    def note(self, index: int, *, quiet: bool, now: float) -> None:
        """Whether a GPU that may sleep is idle, as of a reading."""
        if quiet:
            self._quiet_since.setdefault(index, now)
        else:
            self._quiet_since.pop(index, None)

    def due(self, count: int, now: float) -> bool:
        """Whether all GPUs have been quiet for long enough."""
        quiet = len(self._quiet_since) == count and now - max(self._quiet_since.values(), default=now) >= _QUIET
        return bool(count) and quiet and now >= self._not_before

    def begin(self, now: float) -> None:
        """The driver is let go."""
        self.until, self._not_before = now + _GRACE, now + _GRACE + _AGAIN
        self._quiet_since.clear()

    def fell_asleep(self) -> None:
        """It worked: once they have been awake and are quiet again, the next try may come at once."""
        self._not_before = 0.0

    def end(self) -> None:
        """The driver is opened again."""
        self.until = 0.0
        self._quiet_since.clear()


class SleepingSource:
    """The Source while every GPU is asleep, or is let alone to fall asleep: the driver is not open.

    The first GPU that is awake otherwise ends it: ``read`` raises SourceChangedError.
    """

    name = "nvml"
    simulated = False

    def __init__(
        self, power: RuntimePower, *, rest: Rest, root: Path, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._power = power
        self._rest = rest
        self._monotonic = monotonic
        self._addresses = power.addresses()
        self._slept: set[str] = set()
        self.driver = Driver(driver_version=power.driver_version())
        count = len(self._addresses)
        self._devices = tuple(
            replace(device, pci_bus_id=device.pci_bus_id or f"0000{address}".upper())
            for index, address in enumerate(self._addresses)
            for device in [identity.unanswered(index, count, root=root)]
        )

    @property
    def devices(self) -> Sequence[Device]:
        """Every GPU that the kernel has bound to the driver."""
        return self._devices

    def read(self, device: Device) -> Reading:
        """Whether it is asleep, and nothing else."""
        if device.index == 0 and self._power.addresses() != self._addresses:
            raise SourceChangedError("GPUs have come or gone")
        address = self._addresses[device.index]
        named = self._devices[device.index]
        if self._power.asleep(address):
            self._slept.add(address)
            if len(self._slept) == len(self._addresses):
                self._rest.fell_asleep()
            nobody = self._power.memory_off(address)
            return Reading(named, {SUSPENDED: 1.0}, processes=() if nobody else None)
        if address in self._slept or self._monotonic() >= self._rest.until:
            raise SourceChangedError(f"GPU {device.index} is awake")
        return Reading(named, {SUSPENDED: 0.0})

    def events(self) -> Sequence[Xid]:
        """None: nobody listens."""
        return ()

    def close(self, *, hung: bool = False) -> None:
        """There is nothing to let go of."""


def unless_asleep(
    open_driver: Callable[[RuntimePower, Rest | None], Source],
    *,
    let_sleep: bool,
    root: Path = Path("/"),
    monotonic: Callable[[], float] = time.monotonic,
) -> Callable[[], Source]:
    """What opens the driver, unless every GPU is asleep or is to be let alone."""
    power, rest = RuntimePower(root), Rest()

    def open_one() -> Source:
        addresses = power.addresses()
        asleep = [power.asleep(address) for address in addresses]
        if addresses and (all(asleep) or monotonic() < rest.until):
            return SleepingSource(power, rest=rest, root=root, monotonic=monotonic)
        rest.end()
        return open_driver(power, rest if let_sleep else None)

    return open_one


def _is_hex(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdef" for char in text)
