"""One reading, two judges: `gpu-exporter check` and the alert rules in promtool come to the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.programs import Release

from fake_story import START
from gpu_exporter.catalog import GPU_UP, READ_ERRORS, XID_LAST, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Failure, Reading
from gpu_exporter.sources.fake import FakeFleet
from gpu_exporter.verdict.criteria import CRITERIA
from gpu_exporter.verdict.judge import judge
from rules import ALERTS, ALL, DEPLOY, assert_promtool, load, metrics
from snapshots import snapshot

MINUTES = 110
NOW = 60.0 * (MINUTES - 5)  # when both judge
RULES = ("recording", "alerts-health", "alerts-thermal", "alerts-slow")

# Judged from something else than one GPU's reading: how many there are; and what check says of one that is gone.
OF_THE_MACHINE = {"GPUMissing", "GPULost", "GPUNVSwitchFatal"}
# What no single reading can tell, and why.
OVER_TIME = {
    "GPUReadErrors": "failures that came and went",
    "GPUEccCorrectedStorm": "a rate",
    "GPUNVLinkCrcErrors": "an increase",
    "GPUNVLinkCrcStorm": "a rate",
    "GPUNVLinkReplayErrors": "an increase",
    "GPUPCIeReplaysHigh": "a rate",
    "GPUPCIeAerErrors": "an increase",
    "GPUHardwareSlowdownLong": "half an hour",
    "GPUPowerBelowSiblings": "siblings elsewhere",
    "GPUHotterThanSiblings": "an hour: boards cool down slowly",
    "GPUConfigDrift": "for information, and of the fleet",
    "GPUDriverVersionSkew": "for information, and of the fleet",
    "GPUPersistenceModeOff": "for information; doctor tells it",
    "GPUXidRepeatedAcrossOwners": "a day",
    "GPUEventCritical": "an increase",
    "GPUEventWarning": "an increase",
    "GPUNVSwitchFault": "a machine's, and not known when: only fatal ones are told",
    "GPUEventSourceLost": "six hours, and of the exporter",
}
# Only what the rules read is given to them.
READ = {name for rule in ALL if rule.file.removesuffix(".yml") in RULES for name in metrics(rule.expr)}
HEALTH = {"alerts-health.yml", "alerts-thermal.yml", "alerts-slow.yml"}


def row(name: str, **labels: str) -> Metric:
    return by_name(name, **labels)


def event(reason: str) -> Metric:
    return by_name("gpu_clock_event_active", reason=reason)


@dataclass(frozen=True)
class Probe:
    """A GPU that is healthy but for this; None takes a value away. ``alert`` is what it stands on a side of."""

    alert: str
    fires: bool
    values: Mapping[Metric, float | None] = field(default_factory=dict)
    labelled: Mapping[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    model: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def flag(alert: str, metric: Metric) -> Iterator[Probe]:
    yield Probe(alert, True, {metric: 1.0})
    yield Probe(alert, False, {metric: 0.0})


def level(alert: str, metric: Metric, *, sick: float, well: float, **rest: Any) -> Iterator[Probe]:
    yield Probe(alert, True, {metric: sick}, **rest)
    yield Probe(alert, False, {metric: well}, **rest)


def xid(alert: str, number: int, age: float, *, fires: bool) -> Probe:
    action = {row("gpu_recovery_action"): 0.0}
    return Probe(alert, fires, action, labelled={(XID_LAST, (str(number),)): NOW - age})


def near(alert: str, limit: str, margin: float) -> Iterator[Probe]:
    other = {"slowdown": "shutdown", "shutdown": "slowdown"}[limit]
    for by, fires in ((margin, True), (margin + 1, False)):
        values = {
            row("gpu_temperature_celsius"): 80.0,
            row("gpu_temperature_limit_celsius", limit=limit): 80.0 + by,
            row("gpu_temperature_limit_celsius", limit=other): 120.0,
        }
        yield Probe(alert, fires, values)


BUSY = row("gpu_utilization_ratio")
LINKS = {state: row("gpu_nvlink_links", state=state) for state in ("active", "inactive")}
FAN, RPM = row("gpu_fan_speed_ratio"), row("gpu_fan_speed_rpm")
BANKS = row("gpu_row_remap_banks")
SM, SM_MAX = row("gpu_clock_hertz", clock="sm"), row("gpu_clock_max_hertz", clock="sm")
GENERATION, GENERATION_MAX = row("gpu_pcie_link_generation"), row("gpu_pcie_link_generation_max")
FABRIC, MIG = row("gpu_fabric_state"), row("gpu_mig_mode_enabled")


def ecc(location: str) -> Metric:
    return row("gpu_ecc_errors_total", severity="uncorrected", lifetime="volatile", location=location)


PROBES = [
    *flag("GPURowRemapFailure", row("gpu_row_remap_failure")),
    *flag("GPURowRemapPending", row("gpu_row_remap_pending")),
    *flag("GPUSramThresholdExceeded", row("gpu_ecc_sram_threshold_exceeded")),
    *flag("GPURetiredPagesPending", row("gpu_retired_pages_pending")),
    *flag("GPUThermalSlowdown", event("hw_thermal_slowdown")),
    *flag("GPUPowerBrake", event("hw_power_brake_slowdown")),
    *flag("GPUHardwareSlowdown", event("hw_slowdown")),
    Probe("GPUHardwareSlowdown", False, {event("hw_slowdown"): 1.0, event("hw_thermal_slowdown"): 1.0}),
    Probe("GPUHardwareSlowdown", False, {event("sw_power_cap"): 1.0, event("sw_thermal_slowdown"): 1.0}),
    *(Probe("GPURecoveryActionRequired", bool(action), {row("gpu_recovery_action"): action}) for action in range(8)),
    *(probe for place in ("dram", "sram") for probe in level("GPUEccUncorrected", ecc(place), sick=1, well=0)),
    *level("GPURowRemapsHigh", row("gpu_remapped_rows", severity="uncorrected"), sick=512, well=511),
    Probe("GPURowRemapsHigh", False, {row("gpu_remapped_rows", severity="corrected"): 600}),
    *(
        Probe(
            "GPURetiredPagesHigh",
            double == 33,
            {
                row("gpu_retired_pages", cause="single_bit_ecc"): 30,
                row("gpu_retired_pages", cause="double_bit_ecc"): double,
            },
        )
        for double in (32, 33)
    ),
    *(
        Probe("GPURowRemapBanksLow", bool(few), labelled={(BANKS, (spare,)): few})
        for spare, few in (("low", 1.0), ("none", 1.0), ("low", 0.0), ("none", 0.0))
    ),
    Probe("GPURowRemapBanksLow", False, labelled={(BANKS, ("partial",)): 3.0}),
    *(
        Probe("GPURepairPending", bool(flag), labelled={(row("gpu_repair_pending"), (kind,)): flag})
        for kind in ("channel", "tpc")
        for flag in (0.0, 1.0)
    ),
    *(Probe("GPUFabricNotReady", state < 3, {FABRIC: state}) for state in (1.0, 2.0, 3.0)),
    *level("GPUFabricFailed", row("gpu_fabric_status"), sick=1, well=0),
    *(
        Probe(alert, bool(fault), labelled={(row("gpu_fabric_health"), (condition,)): fault})
        for alert, condition in (
            ("GPUFabricUnhealthy", "route_unhealthy"),
            ("GPUFabricUnhealthy", "incorrect_configuration"),
            ("GPUFabricDegraded", "degraded_bandwidth"),
            ("GPUFabricDegraded", "route_recovery"),
            ("GPUFabricDegraded", "access_timeout_recovery"),
        )
        for fault in (0.0, 1.0)
    ),
    *level("GPUC2CLinkDown", row("gpu_c2c_links", state="inactive"), sick=1, well=0),
    *near("GPUTemperatureNearSlowdown", "slowdown", 5),
    *near("GPUTemperatureNearShutdown", "shutdown", 3),
    *(
        Probe("GPUFanStopped", speed == 0 and heat > 70, {row("gpu_temperature_celsius"): heat}, {(FAN, ("1",)): speed})
        for speed, heat in ((0.0, 71.0), (0.0, 70.0), (0.01, 75.0))
    ),
    *(
        Probe("GPUFanStopped", rpm == 0 and speed > 0, labelled={(FAN, ("1",)): speed, (RPM, ("1",)): rpm})
        for speed, rpm in ((0.4, 0.0), (0.4, 900.0))
    ),
    *level("GPUPowerSmoothingWorn", row("gpu_power_smoothing_lifetime_ratio"), sick=0.09, well=0.1),
    Probe("GPUNVLinkDown", True, {LINKS["inactive"]: 1, LINKS["active"]: 17, FABRIC: None}),
    Probe("GPUNVLinkDown", True, {LINKS["inactive"]: 18, LINKS["active"]: 0, FABRIC: 3}, model="NVIDIA H100 PCIe"),
    Probe("GPUNVLinkDown", False, {LINKS["inactive"]: 2, LINKS["active"]: 1, FABRIC: None}, model="NVIDIA H100 PCIe"),
    Probe("GPUNVLinkDown", False, {LINKS["inactive"]: 6, LINKS["active"]: 12, MIG: 1.0}),
    Probe("GPUNVLinkDown", False, {LINKS["inactive"]: 0, LINKS["active"]: 18}),
    *level("GPUPCIeWidthDegraded", row("gpu_pcie_link_width"), sick=8, well=16),
    Probe("GPUPCIeGenerationLow", True, {GENERATION: 4, GENERATION_MAX: 5, BUSY: 0.51}),
    Probe("GPUPCIeGenerationLow", False, {GENERATION: 4, GENERATION_MAX: 5, BUSY: 0.5}),
    Probe("GPUPCIeGenerationLow", False, {GENERATION: 4, GENERATION_MAX: 5, BUSY: None}),
    Probe("GPUPCIeGenerationLow", False, {GENERATION: 5, GENERATION_MAX: 5, BUSY: 1.0}),
    Probe("GPUClockStuckLow", True, {SM: 0.98e9, SM_MAX: 1.98e9, BUSY: 0.51}),
    Probe("GPUClockStuckLow", False, {SM: 0.99e9, SM_MAX: 1.98e9, BUSY: 0.51}),
    Probe("GPUClockStuckLow", False, {SM: 0.98e9, SM_MAX: 1.98e9, BUSY: 0.5}),
    *(
        Probe(
            "GPUClockStuckLow",
            reason in {"gpu_idle", "display_clock_setting", "hw_thermal_slowdown", "hw_power_brake_slowdown"},
            {SM: 0.98e9, SM_MAX: 1.98e9, BUSY: 1.0, event(reason): 1.0},
        )
        for reason in (
            "gpu_idle",
            "applications_clocks_setting",
            "sw_power_cap",
            "hw_slowdown",
            "sync_boost",
            "sw_thermal_slowdown",
            "hw_thermal_slowdown",  # a board that has these has hw_slowdown with them
            "hw_power_brake_slowdown",
            "display_clock_setting",
        )
    ),
    *level("GPUEccOff", row("gpu_ecc_enabled"), sick=0, well=1),
    *(
        Probe("GPUEccOff", False, {row("gpu_ecc_enabled"): 0.0}, model=model)
        for model in ("NVIDIA GeForce RTX 4090", "NVIDIA RTX A6000", "NVIDIA TITAN V", "Quadro RTX 8000")
    ),
    Probe("GPUReadingsPartial", True, more={"partial": "10 of its calls fail"}),
    Probe("GPUReadingsPartial", False),
    xid("GPUXidCritical", 79, 3500, fires=True),
    xid("GPUXidCritical", 79, 3700, fires=False),
    xid("GPUXidCritical", 94, 60, fires=False),
    xid("GPUXidWarning", 94, 3500, fires=True),
    xid("GPUXidWarning", 94, 3700, fires=False),
    xid("GPUXidUnknown", 997, 3500, fires=True),
    xid("GPUXidUnknown", 997, 3700, fires=False),
    xid("GPUXidUnknown", 13, 60, fires=False),
]


@pytest.fixture(scope="module")
def healthy() -> Reading:
    """An H100 that works, by every row that it has."""
    fleet = FakeFleet(gpus=1, model="h100", seed=1, clock=lambda: START)
    reading = fleet.open().read(fleet.devices[0])
    calm = {event(reason): 0.0 for reason in ("sw_power_cap", "gpu_idle")}
    return replace(reading, values={**reading.values, **calm, GPU_UP: 1.0, BUSY: 0.9})


def made(probe: Probe, healthy: Reading, index: int) -> Reading:
    device = replace(healthy.device, index=index, uuid=f"G{index}", model=probe.model or healthy.device.model)
    values = {**healthy.values, **probe.values}
    known = {metric: value for metric, value in values.items() if value is not None}
    return replace(healthy, device=device, values=known, labelled={**healthy.labelled, **probe.labelled}, **probe.more)


def input_series(reading: Reading) -> Iterator[dict[str, str]]:
    """The reading as if it had stood for all the time, with the counters that would have grown meanwhile."""
    device = reading.device

    def series(metric: Metric, values: str, dynamic: tuple[str, ...] = (), name: str = "") -> dict[str, str]:
        labels = {"instance": "n1", "gpu": device.index, "uuid": device.uuid, "model": device.model}
        labels |= dict(metric.labels) | dict(zip(metric.dynamic, dynamic, strict=True))
        inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
        return {"series": f"{name or metric.name}{{{inner}}}", "values": values}

    still = f"x{MINUTES}"
    for metric, value in reading.values.items():
        if metric.name not in {"gpu_busy_seconds_total", "gpu_clock_event_seconds_total"}:
            yield series(metric, f"{value!r}{still}")
        if metric is BUSY:
            yield series(row("gpu_busy_seconds_total"), f"0+{60 * value!r}{still}")
        if metric.name == "gpu_clock_event_active":
            yield series(metric, f"0+{60 * value!r}{still}", name="gpu_clock_event_seconds_total")
    for (metric, labels), value in reading.labelled.items():
        yield series(metric, f"{value!r}{still}", labels)
    yield series(READ_ERRORS["partial"], f"0+{12 if reading.partial else 0}{still}")


def test_check_and_the_rules_judge_alike(healthy: Reading, tmp_path: Path, release: Release) -> None:
    readings = [made(probe, healthy, index) for index, probe in enumerate(PROBES)]
    verdict = judge(snapshot(*readings), None, expected=None, now=NOW)
    judged = {criterion.alert: criterion.severity for criterion in CRITERIA if criterion.alert}
    told = {
        (str(gpu.device.index), complaint.alert, complaint.status)
        for gpu in verdict.gpus
        for complaint in gpu.complaints
    }
    for index, probe in enumerate(PROBES):
        found = (str(index), probe.alert, judged[probe.alert]) in told
        assert found is probe.fires, f"check: {probe}"
    labels = ("gpu", "alertname", "severity")
    samples = [
        {
            "labels": "{" + ",".join(f'{name}="{text}"' for name, text in zip(labels, each, strict=True)) + "}",
            "value": 1,
        }
        for each in sorted(told)
    ]
    pattern = "|".join(sorted(judged))
    expr = f'group by (gpu, alertname, severity) (ALERTS{{alertstate="firing",alertname=~"{pattern}"}})'
    cases = {
        "rule_files": [str(DEPLOY / f"rules/{name}.yml") for name in RULES],
        "evaluation_interval": "5m",
        # All of them: those without a place come first, beside the first, in any order, and would read what is as old
        # as Prometheus looks back.
        "group_eval_order": [group["name"] for name in RULES for group in load(DEPLOY / f"rules/{name}.yml")["groups"]],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    series
                    for reading in readings
                    for series in input_series(reading)
                    if series["series"].partition("{")[0] in READ
                ],
                "promql_expr_test": [{"expr": expr, "eval_time": f"{MINUTES - 5}m", "exp_samples": samples}],
            }
        ],
    }
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump(cases))
    assert_promtool("test", "rules", file, release=release)


def test_fatal_faults_of_nvswitches_are_told_of_the_machine(healthy: Reading) -> None:
    faults = {("20034", "0000:05:00"): 2, ("20012", "0000:05:00"): 1, ("11012", "0000:06:00"): 9, ("99999", ""): 1}
    verdict = judge(replace(snapshot(healthy), sxids=faults), None, expected=None, now=NOW)
    assert verdict.reasons == (("warning", "NVSwitch 0000:05:00: SXid 20034, and no reboot since"),)


def test_every_criterion_has_a_gpu_on_either_side() -> None:
    for alert in {criterion.alert for criterion in CRITERIA if criterion.alert}:
        assert {probe.fires for probe in PROBES if probe.alert == alert} == {True, False}, alert


def test_every_alert_about_health_is_judged_or_has_a_reason() -> None:
    health = {rule.name for rule in ALERTS if rule.file in HEALTH}
    judged = {criterion.alert for criterion in CRITERIA if criterion.alert}
    assert judged <= health
    assert judged | OF_THE_MACHINE | OVER_TIME.keys() == health
    assert not judged & (OF_THE_MACHINE | OVER_TIME.keys())


def test_severities_are_those_of_the_rules(healthy: Reading) -> None:
    severities = {rule.name: rule.severity for rule in ALERTS}
    lost = replace(healthy, values={}, labelled={}, failure=Failure("lost", "gone"))
    verdict = judge(snapshot(lost, healthy), None, expected=3, now=NOW)
    found = [*verdict.complaints, *verdict.gpus[0].complaints]
    assert [complaint.alert for complaint in found] == ["GPUMissing", "GPULost"]
    told = {complaint.alert: complaint.status for complaint in found}
    told |= {criterion.alert: criterion.severity for criterion in CRITERIA if criterion.alert}
    assert {alert: severities[alert] for alert in told} == told
