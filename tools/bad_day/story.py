"""What breaks, when, and who is told: the story as data, in minutes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MACHINES = ("gpu-a", "gpu-b", "gpu-c")
MODEL, GPUS = "h100", 8
MINUTES = 60.0  # of the whole story
ONCALL, TEAM = "gpu-oncall@example.com", "gpu-team@example.com"
Event = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One thing that breaks; ``until`` is the minute in which it is well again, None where it stays.

    ``events`` are those of a scenario (docs/SCENARIOS.md), with ``at`` and ``for`` in minutes after ``at``. One without
    events is done to the exporter itself: it is killed, and started again. ``alerts`` are those that may tell of it.
    """

    machine: str
    at: float
    what: str
    to: str
    alerts: frozenset[str]
    gpu: int | None = None
    until: float | None = None
    events: tuple[Event, ...] = ()


def _fault(*names: str) -> frozenset[str]:
    return frozenset(names)


FAULTS = (
    Fault(
        "gpu-a", 2, "GPU 3 falls off the bus (XID 79) and does not come back", ONCALL,
        _fault("GPUXidCritical", "GPULost"), 3,
        events=({"fault": "xid", "xid": 79}, {"fault": "lost"}),
    ),
    Fault(
        "gpu-b", 4, "two NVLinks of GPU 2 go down", ONCALL, _fault("GPUNVLinkDown"), 2,
        events=({"fault": "nvlink", "links": 2},),
    ),
    Fault(
        "gpu-c", 6, "GPU 4 hangs for 90 s of every 4 min, until 0:24", ONCALL, _fault("GPULost"), 4,
        until=23.5,
        events=tuple({"at": 4.0 * turn, "fault": "hang", "for": 1.5} for turn in range(5)),
    ),
    Fault(
        "gpu-a", 7, "warm air reaches GPU 5, until 0:25", TEAM,
        _fault("GPUTemperatureNearSlowdown", "GPUThermalSlowdown"), 5,
        until=25,
        events=({"fault": "workload", "workload": "training"}, {"fault": "overheat", "target": 91, "for": 18.0}),
    ),
    Fault(
        "gpu-b", 10, "the power brake holds GPU 6 back, until 0:26", TEAM,
        _fault("GPUPowerBrake"), 6,
        until=26,
        events=({"fault": "workload", "workload": "training"}, {"fault": "power_brake", "for": 16.0}),
    ),
    Fault(
        "gpu-c", 12, "the PCIe link of GPU 7 loses half of its lanes", TEAM, _fault("GPUPCIeWidthDegraded"), 7,
        events=({"fault": "pcie", "width": 8},),
    ),
    Fault(
        "gpu-a", 20, "GPU 0 has uncorrectable memory errors and waits for a reset", TEAM,
        _fault("GPUEccUncorrected", "GPURecoveryActionRequired"), 0,
        events=({"fault": "ecc", "severity": "uncorrected", "count": 2, "remap": "pending"},),
    ),
    Fault(
        "gpu-b", 28, "the exporter of gpu-b dies, and is started again at 0:38", ONCALL, _fault("GPUExporterDown"),
        until=38,
    ),
    Fault(
        "gpu-a", 36, "a program on GPU 1 ends with a contained memory error (XID 94)", TEAM, _fault("GPUXidWarning"), 1,
        events=({"fault": "xid", "xid": 94},),
    ),
    Fault(
        "gpu-c", 44, "the driver of gpu-c is gone", ONCALL, _fault("GPUCollectionFailing"),
        events=({"fault": "driver_gone"},),
    ),
)  # fmt: skip
# What is not well when the hour is over, by address and machine: alert and GPU.
STAND: Mapping[tuple[str, str], frozenset[tuple[str, int | None]]] = {
    (ONCALL, "gpu-a"): frozenset({("GPUXidCritical", 3), ("GPULost", 3), ("GPURecoveryActionRequired", 0)}),
    (TEAM, "gpu-a"): frozenset({("GPUEccUncorrected", 0), ("GPUXidWarning", 1)}),
    (ONCALL, "gpu-b"): frozenset({("GPUNVLinkDown", 2)}),
    (TEAM, "gpu-b"): frozenset(),
    (ONCALL, "gpu-c"): frozenset({("GPUCollectionFailing", None)}),
    (TEAM, "gpu-c"): frozenset({("GPUPCIeWidthDegraded", 7)}),
}
# Exporters that are restarted as an upgrade does it: no fault, and nothing is healed by it. Minutes.
RESTARTS = {"gpu-a": (5.0, 40.0), "gpu-c": (32.0,)}
RESTART_SECONDS = 20.0


def scenario(machine: str, minute: float, pace: float) -> Mapping[str, Any]:
    """The rest of the machine's story for an exporter that starts in that minute, ``pace`` times as fast.

    What the hardware has still is there from the start; XIDs that have been are in nobody's memory.
    """
    events = [dict(event, at=event.get("at", 0.0) + fault.at) for event, fault in _events(machine)]
    told = []
    for event in sorted(events, key=lambda each: float(each["at"])):
        left = event["at"] + event.get("for", float("inf")) - minute
        if left <= 0 or (event["at"] < minute and event["fault"] == "xid"):
            continue
        begins = max(0.0, event["at"] - minute)
        event["at"] = _duration(begins, pace)
        if "for" in event:
            event["for"] = _duration(min(left, event["for"]), pace)
        told.append(event)
    return {"events": told}


def _events(machine: str) -> Iterable[tuple[Event, Fault]]:
    for fault in FAULTS:
        for event in fault.events if fault.machine == machine else ():
            yield (event if fault.gpu is None else {"gpu": fault.gpu, **event}), fault


def _duration(minutes: float, pace: float) -> str:
    return f"{max(0, round(60_000 * minutes / pace))}ms"
