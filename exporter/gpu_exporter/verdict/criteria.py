"""What makes a GPU sick: one row a criterion, named after the alert that has the same threshold.

tests/verdict/test_same_as_rules.py holds this table and deploy/prometheus/rules equal: it gives the same readings to
both. What an alert judges over time (rates, increases, a day without work) no single reading can tell, and is not here.
Where a rule waits (``for``), a reading tells of this moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, TypeAlias

from gpu_exporter.catalog.xids import XIDS, severity_of
from gpu_exporter.model import Reading

Severity: TypeAlias = Literal["warning", "critical"]

# Boards that are shipped with ECC off, or without: of these it is no fault.
WITHOUT_ECC: Final = re.compile(r".*(GeForce|RTX|TITAN|Quadro).*")
# Boards on a baseboard, whose NVLinks are all wired.
ON_BASEBOARD: Final = re.compile(r".*(SXM|HBM3).*")
# Reasons that explain a low clock.
EXPLAINED: Final = ("applications_clocks_setting", "hw_slowdown", "sw_power_cap", "sw_thermal_slowdown", "sync_boost")
# Work enough for link and clocks to be at their full speed (share of the time).
BUSY: Final = 0.5

# For how long an XID is news, as in the rules.
XID_NEWS: Final = 3600.0  # seconds

# NVML, nvmlDeviceGpuRecoveryAction_t.
ACTIONS: Final[Mapping[int, str]] = {
    1: "a GPU reset",
    2: "a node reboot",
    3: "draining P2P",
    4: "drain and reset",
    5: "recovering the IMEX domain",
    6: "a bus reset",
    7: "a system reboot",
}


@dataclass(frozen=True)
class Told:
    """What one reading tells, by the names of /metrics. ``now`` is Unix time in seconds."""

    reading: Reading
    now: float = field(default=0.0)

    @cached_property
    def _rows(self) -> dict[str, list[tuple[Mapping[str, str], float]]]:
        rows: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for metric, value in self.reading.values.items():
            rows.setdefault(metric.name, []).append((dict(metric.labels), value))
        for (metric, labels), value in self.reading.labelled.items():
            named = dict(metric.labels) | dict(zip(metric.dynamic, labels, strict=True))
            rows.setdefault(metric.name, []).append((named, value))
        return rows

    @property
    def model(self) -> str:
        """The product's name."""
        return self.reading.device.model

    def rows(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Every row of that name which has these labels, and its value."""
        for told, value in self._rows.get(name, ()):
            if labels.items() <= told.items():
                yield told, value

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one row; None where the GPU does not tell it."""
        return next((value for _, value in self.rows(name, **labels)), None)

    def total(self, name: str, **labels: str) -> float | None:
        """All rows of that name added up; None where there is none."""
        values = [value for _, value in self.rows(name, **labels)]
        return sum(values) if values else None

    def busy(self) -> bool:
        """Whether the GPU works for more than half of the time."""
        return (self.value("gpu_utilization_ratio") or 0.0) > BUSY

    def in_mig_mode(self) -> bool:
        """Whether it is partitioned."""
        return self.value("gpu_mig_mode_enabled") == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that is looked at. ``words`` gives one short reason for each fault found.

    ``alert`` is empty where no rule says the same.
    """

    alert: str
    severity: Severity
    words: Callable[[Told], Iterator[str]]


def _where(name: str, sick: Callable[[float], bool], words: str, **labels: str) -> Callable[[Told], Iterator[str]]:
    """A reason for each row of that name whose value is sick; ``words`` has {value}, and its labels by name."""

    def look(told: Told) -> Iterator[str]:
        for row, value in told.rows(name, **labels):
            if sick(value):
                yield words.format(value=f"{value:.0f}", **row)

    return look


def _is_one(value: float) -> bool:
    return value == 1


def _recovery_action(told: Told) -> Iterator[str]:
    action = told.value("gpu_recovery_action") or 0.0
    if action > 0:
        yield f"the driver asks for {ACTIONS.get(int(action), f'recovery action {action:.0f}')}"


def _partial(told: Told) -> Iterator[str]:
    if told.reading.partial:
        yield "most driver calls fail"


def _retired_pages(told: Told) -> Iterator[str]:
    pages = told.total("gpu_retired_pages")
    if pages is not None and pages >= 63:
        yield f"{pages:.0f} of 64 memory pages retired"


def _nvlinks(told: Told) -> Iterator[str]:
    """Inactive links where all are wired; what is a bridge too few, only the past can tell."""
    inactive = told.value("gpu_nvlink_links", state="inactive") or 0.0
    active = told.value("gpu_nvlink_links", state="active") or 0.0
    wired = (told.value("gpu_fabric_state") or 0.0) > 0 or (active > 0 and ON_BASEBOARD.fullmatch(told.model))
    if inactive > 0 and wired and not told.in_mig_mode():
        yield f"{inactive:.0f} NVLinks down"


def _banks(told: Told) -> Iterator[str]:
    few, none = (told.value("gpu_row_remap_banks", spare=spare) or 0.0 for spare in ("low", "none"))
    if few + none > 0:
        yield f"{few + none:.0f} memory banks with few or no spare rows"


def _fabric_state(told: Told) -> Iterator[str]:
    state = told.value("gpu_fabric_state")
    if state is not None and state < 3:
        yield f"not registered with the fabric manager (state {state:.0f} of 3)"


def _fabric_health(*conditions: str) -> Callable[[Told], Iterator[str]]:
    def look(told: Told) -> Iterator[str]:
        for row, value in told.rows("gpu_fabric_health"):
            if value == 1 and row["condition"] in conditions:
                yield f"fabric: {row['condition'].replace('_', ' ')}"

    return look


def _pcie_width(told: Told) -> Iterator[str]:
    width, most = told.value("gpu_pcie_link_width"), told.value("gpu_pcie_link_width_max")
    if width is not None and most is not None and width < most:
        yield f"PCIe x{width:.0f} of x{most:.0f}"


def _pcie_generation(told: Told) -> Iterator[str]:
    now, most = told.value("gpu_pcie_link_generation"), told.value("gpu_pcie_link_generation_max")
    if now is not None and most is not None and now < most and told.busy():
        yield f"PCIe gen {now:.0f} of {most:.0f} under load"


def _clock(told: Told) -> Iterator[str]:
    clock, most = told.value("gpu_clock_hertz", clock="sm"), told.value("gpu_clock_max_hertz", clock="sm")
    if clock is None or most is None or not clock < 0.5 * most or not told.busy():
        return
    if not any(told.value("gpu_clock_event_active", reason=reason) == 1 for reason in EXPLAINED):
        yield f"SM clock stuck at {clock / 1e6:.0f} of {most / 1e6:.0f} MHz"


def _slowed(told: Told, reason: str) -> bool:
    return told.value("gpu_clock_event_active", reason=reason) == 1


def _thermal_slowdown(told: Told) -> Iterator[str]:
    if _slowed(told, "hw_thermal_slowdown"):
        yield "slowed down by its thermal protection"


def _power_brake(told: Told) -> Iterator[str]:
    if _slowed(told, "hw_power_brake_slowdown"):
        yield "slowed down by the power brake"


def _hardware_slowdown(told: Told) -> Iterator[str]:
    """Boards that do not tell heat and power brake apart have this reason alone."""
    if _slowed(told, "hw_slowdown") and not any(
        _slowed(told, reason) for reason in ("hw_thermal_slowdown", "hw_power_brake_slowdown")
    ):
        yield "slowed down by its hardware"


def _near(limit: str, margin: float) -> Callable[[Told], Iterator[str]]:
    """The core is within so many degrees of one of its own limits."""

    def look(told: Told) -> Iterator[str]:
        now = told.value("gpu_temperature_celsius")
        most = told.value("gpu_temperature_limit_celsius", limit=limit)
        if now is not None and most is not None and most - now <= margin:
            yield f"{now:.0f} C, {limit} limit {most:.0f} C"

    return look


def _fans(told: Told) -> Iterator[str]:
    if (told.value("gpu_temperature_celsius") or 0.0) > 70:
        for row, speed in told.rows("gpu_fan_speed_ratio"):
            if speed == 0:
                yield f"fan {row['fan']} stands still"
    for row, speed in told.rows("gpu_fan_speed_ratio"):
        if speed > 0 and told.value("gpu_fan_speed_rpm", fan=row["fan"]) == 0:
            yield f"fan {row['fan']} is blocked or dead"


def _smoothing(told: Told) -> Iterator[str]:
    left = told.value("gpu_power_smoothing_lifetime_ratio")
    if left is not None and left < 0.1:
        yield f"power smoothing has {left:.0%} of its life left"


def _ecc_off(told: Told) -> Iterator[str]:
    if told.value("gpu_ecc_enabled") == 0 and not WITHOUT_ECC.fullmatch(told.model):
        yield "ECC is off"


def _xids(told: Told, severity: Severity, *, listed: bool) -> Iterator[tuple[int, float]]:
    """XIDs of that severity and how long ago each came, in seconds."""
    for row, timestamp in told.rows("gpu_xid_last_timestamp_seconds"):
        number = row["xid"]
        if number.isdigit() and (int(number) in XIDS) is listed and severity_of(int(number)) == severity:
            yield int(number), told.now - timestamp


def _recent_xid(severity: Severity, *, listed: bool = True) -> Callable[[Told], Iterator[str]]:
    def look(told: Told) -> Iterator[str]:
        for number, age in _xids(told, severity, listed=listed):
            if age < XID_NEWS:
                yield f"XID {number}" + ("" if listed else ", which is not in our list")

    return look


def _uncured_xid(told: Told) -> Iterator[str]:
    """A critical XID of long ago, where the driver does not tell whether what it asked for was done since."""
    if told.value("gpu_recovery_action") is None:
        for number, age in _xids(told, "critical", listed=True):
            if age >= XID_NEWS:
                yield f"XID {number} {age / 3600:.0f} h ago, and no reboot since"


# Worst first, within a severity by how sure it is.
CRITERIA: Final[tuple[Criterion, ...]] = (
    Criterion(alert="GPURecoveryActionRequired", severity="critical", words=_recovery_action),
    Criterion(alert="GPUXidCritical", severity="critical", words=_recent_xid("critical")),
    Criterion(
        alert="GPURowRemapFailure",
        severity="critical",
        words=_where("gpu_row_remap_failure", _is_one, "a memory row cannot be remapped"),
    ),
    Criterion(
        alert="GPUSramThresholdExceeded",
        severity="critical",
        words=_where("gpu_ecc_sram_threshold_exceeded", _is_one, "SRAM errors above NVIDIA's threshold"),
    ),
    Criterion(
        alert="GPUEccUncorrected",
        severity="warning",
        words=_where(
            "gpu_ecc_errors_total",
            lambda value: value > 0,
            "{value} uncorrectable ECC errors in {location}",
            severity="uncorrected",
            lifetime="volatile",
        ),
    ),
    Criterion(alert="GPURetiredPagesHigh", severity="critical", words=_retired_pages),
    Criterion(alert="GPUNVLinkDown", severity="critical", words=_nvlinks),
    Criterion(alert="GPUFabricNotReady", severity="critical", words=_fabric_state),
    Criterion(
        alert="GPUFabricFailed",
        severity="critical",
        words=_where(
            "gpu_fabric_status", lambda value: value > 0, "fabric registration failed with NVML error {value}"
        ),
    ),
    Criterion(
        alert="GPUFabricUnhealthy",
        severity="critical",
        words=_fabric_health("route_unhealthy", "incorrect_configuration"),
    ),
    Criterion(alert="GPUTemperatureNearShutdown", severity="critical", words=_near("shutdown", 3)),
    Criterion(alert="GPUXidWarning", severity="warning", words=_recent_xid("warning")),
    Criterion(alert="GPUXidUnknown", severity="warning", words=_recent_xid("warning", listed=False)),
    Criterion(alert="", severity="warning", words=_uncured_xid),
    Criterion(alert="GPUReadingsPartial", severity="warning", words=_partial),
    Criterion(
        alert="GPURowRemapPending",
        severity="warning",
        words=_where("gpu_row_remap_pending", _is_one, "a memory row waits for a reset"),
    ),
    Criterion(
        alert="GPURowRemapsHigh",
        severity="warning",
        words=_where(
            "gpu_remapped_rows",
            lambda value: value >= 512,
            "{value} of 512 memory rows remapped",
            severity="uncorrected",
        ),
    ),
    Criterion(
        alert="GPURetiredPagesPending",
        severity="warning",
        words=_where("gpu_retired_pages_pending", _is_one, "a memory page waits for a reboot"),
    ),
    Criterion(
        alert="GPUC2CLinkDown",
        severity="warning",
        words=_where("gpu_c2c_links", lambda value: value > 0, "{value} C2C links down", state="inactive"),
    ),
    Criterion(alert="GPURowRemapBanksLow", severity="warning", words=_banks),
    Criterion(
        alert="GPURepairPending",
        severity="warning",
        words=_where("gpu_repair_pending", _is_one, "a faulty {kind} waits for a reset"),
    ),
    Criterion(
        alert="GPUFabricDegraded",
        severity="warning",
        words=_fabric_health("degraded_bandwidth", "route_recovery", "access_timeout_recovery"),
    ),
    Criterion(alert="GPUThermalSlowdown", severity="warning", words=_thermal_slowdown),
    Criterion(alert="GPUPowerBrake", severity="warning", words=_power_brake),
    Criterion(alert="GPUHardwareSlowdown", severity="warning", words=_hardware_slowdown),
    Criterion(alert="GPUTemperatureNearSlowdown", severity="warning", words=_near("slowdown", 5)),
    Criterion(alert="GPUFanStopped", severity="warning", words=_fans),
    Criterion(alert="GPUPCIeWidthDegraded", severity="warning", words=_pcie_width),
    Criterion(alert="GPUPCIeGenerationLow", severity="warning", words=_pcie_generation),
    Criterion(alert="GPUClockStuckLow", severity="warning", words=_clock),
    Criterion(alert="GPUPowerSmoothingWorn", severity="warning", words=_smoothing),
    Criterion(alert="GPUEccOff", severity="warning", words=_ecc_off),
)
