"""Incidents that others had: which alert tells of each, once, and by what it names the cause.

One run of promtool over all of them, each in a cluster of its own; Alertmanager's inhibitions are then applied to what
fires, as Alertmanager would. Sources are the issues and papers named with each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import Release

from rules import ALERTS, CASES, RULES, assert_promtool, checks, load

# Minutes: how long all of it lasts, and when it is looked at. XIDs and the like come half an hour before.
_LENGTH, _AT, _WHEN = 100, 95, 65
_ALWAYS = f"x{_LENGTH}"
# Labels by which an alert names its cause.
CAUSES = ("xid", "sxid", "event", "condition", "kind", "setting", "device", "port", "location", "source", "fan", "host")
_LABELS = ("cluster", "alertname", "instance", "gpu", *CAUSES)

Alert = dict[str, str]


def gpu(number: int = 0, instance: str = "n1", model: str = "NVIDIA H100 80GB HBM3", **labels: str) -> str:
    """The labels of a GPU's series."""
    named = {"instance": instance, "gpu": str(number), "uuid": f"{instance}G{number}", "model": model, **labels}
    return _written(named)


def host(**labels: str) -> str:
    return _written({"instance": "n1", **labels})


def _written(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{text}"' for name, text in labels.items()) + "}"


def xid(number: int, which: int = 0, *, seconds: int = 0, instance: str = "n1") -> tuple[str, str]:
    """An XID of ``_WHEN``, and so many seconds later."""
    minute = _WHEN + -(-seconds // 60)
    return (
        f"gpu_xid_last_timestamp_seconds{gpu(which, instance, xid=str(number))}",
        f"_x{minute} {60 * _WHEN + seconds}x{_LENGTH - minute}",
    )


def always(name: str, labels: str, value: float) -> tuple[str, str]:
    return f"{name}{labels}", f"{value}{_ALWAYS}"


def once(name: str, labels: str, more: float = 1, before: float = 0) -> tuple[str, str]:
    """A counter that grows at ``_WHEN``."""
    return f"{name}{labels}", f"{before}x{_WHEN - 1} {before + more}x{_LENGTH - _WHEN}"


def busy(*numbers: int) -> Iterator[tuple[str, str]]:
    return (always("instance_gpu:gpu_busy:rate5m", gpu(number), 0.99) for number in numbers)


@dataclass(frozen=True)
class Incident:
    """``told`` is what is mailed, ``silenced`` what fires beside it and follows from it."""

    what: str
    source: str
    series: tuple[tuple[str, str], ...]
    told: tuple[Alert, ...]
    silenced: tuple[Alert, ...] = field(default=())


def alert(name: str, gpu: int | None = 0, instance: str = "n1", **causes: str) -> Alert:
    of_gpu = {} if gpu is None else {"gpu": str(gpu)}
    return {"alertname": name, "instance": instance, **of_gpu, **causes}


FABRIC = "gpu_fabric_state"
INCIDENTS = (
    # --- events and XIDs ---
    Incident(
        "a GPU is lost, and the driver sends no XID",
        "NVIDIA/DCGM#162",
        (
            once("gpu_events_total", gpu(event="gpu_unavailable")),
            (
                f"gpu_event_last_timestamp_seconds{gpu(event='gpu_unavailable')}",
                f"_x{_WHEN} {60 * _WHEN}x{_LENGTH - _WHEN}",
            ),
        ),
        (alert("GPUEventCritical", event="gpu_unavailable"),),
    ),
    Incident(
        "an ECC error that was not recovered, of which only the kernel log tells",
        "open-gpu-kernel-modules 595, kern_gpu_tu102.c",
        (xid(140), always("gpu_up", gpu(), 1)),
        (alert("GPUXidCritical", xid="140"),),
    ),
    Incident(
        "the kernel log tells 62, and what follows; a metric of the last XID would have shown 45",
        "NVIDIA/DCGM#235",
        (xid(62), xid(45, seconds=2), xid(109, seconds=5), xid(154, seconds=6)),
        (alert("GPUXidCritical", xid="62"),),
    ),
    Incident(
        "the GPU's system processor stops, then the GPU falls off the bus",
        "Llama 3, 17 interruptions by GSP",
        (xid(119), xid(79, seconds=40), (f"gpu_up{gpu()}", f"1x{_WHEN} 0x{_LENGTH - _WHEN}")),
        (alert("GPUXidCritical", xid="119"), alert("GPULost")),
    ),
    Incident("45 of every job that ends", "NVSentinel#1629, 77 nodes taken out for nothing", (xid(45),), ()),
    Incident(
        "a number of a newer driver", "EKS node monitoring agent", (xid(197),), (alert("GPUXidUnknown", xid="197"),)
    ),
    Incident(
        "the driver's own verdict wins over the numbers",
        "dra-driver-nvidia-gpu#1441",
        (xid(119), xid(94, seconds=30), (f"gpu_recovery_action{gpu()}", f"0x{_WHEN} 1x{_LENGTH - _WHEN}")),
        (alert("GPURecoveryActionRequired"),),
        (alert("GPUXidCritical", xid="119"), alert("GPUXidWarning", xid="94")),
    ),
    Incident(
        "one link of a rack goes down, and 63 GPUs on 16 hosts say so",
        "marin-community/marin#9086",
        (
            *(
                always("gpu_info", gpu(number, f"n{machine}", cluster_uuid="rack", clique="1"), 1)
                for machine in range(1, 17)
                for number in range(4)
            ),
            *(
                xid(149 if (machine, number) == (7, 2) else 145, number, instance=f"n{machine}")
                for machine in range(1, 17)
                for number in range(4)
            ),
        ),
        (alert("GPUXidCritical", 2, "n7", xid="149"),),
    ),
    Incident(
        "a link of an NVSwitch goes down",
        "NVIDIA fabric manager user guide, SXid 20034",
        (
            (
                f"gpu_nvswitch_sxid_last_timestamp_seconds{host(sxid='20034', pci_bus_id='0000:05:00')}",
                f"_x{_WHEN} {60 * _WHEN}x{_LENGTH - _WHEN}",
            ),
            xid(74),
        ),
        (alert("GPUNVSwitchFatal", None, sxid="20034"), alert("GPUXidCritical", xid="74")),
    ),
    Incident(
        "an upgrade took the permission to read the kernel log away",
        "our own choice",
        (
            (f"gpu_exporter_event_source_up{host(source='kernel_log')}", f"1x{_WHEN} 0x{_LENGTH - _WHEN}"),
            always("gpu_exporter_last_sample_success", host(), 1),
        ),
        (alert("GPUEventSourceLost", None, source="kernel_log"),),
    ),
    # --- the fabric ---
    Incident(
        "a fabric manager that is dead for 20 days",
        "NVSentinel#883",
        (always(FABRIC, gpu(), 1),),
        (alert("GPUFabricNotReady"),),
    ),
    Incident(
        "registration completed with insufficient resources",
        "Azure/azhpc-images#506",
        (always(FABRIC, gpu(), 3), always("gpu_fabric_status", gpu(), 24)),
        (alert("GPUFabricFailed"),),
    ),
    Incident(
        "bandwidth of the fabric is degraded, and its other conditions are well",
        "EKS node monitoring agent#181, where 2 (well) was read as a fault",
        (
            always("gpu_fabric_health", gpu(condition="degraded_bandwidth"), 1),
            always("gpu_fabric_health", gpu(condition="route_unhealthy"), 0),
        ),
        (alert("GPUFabricDegraded", condition="degraded_bandwidth"),),
    ),
    Incident(
        "a link that recovers again and again, five days before it fails",
        "marin-community/marin#9086, 505 recoveries",
        (
            once("gpu_nvlink_errors_total", gpu(kind="recovery"), 3, 500),
            once("gpu_nvlink_link_errors_total", gpu(link="14", kind="recovery"), 3, 500),
        ),
        (alert("GPUNVLinkReplayErrors", kind="recovery"),),
    ),
    Incident(
        "recoveries of NVLink 5 that fail",
        "nvidia-resiliency-ext#302",
        (once("gpu_nvlink_errors_total", gpu(kind="recovery_failed")),),
        (alert("GPUNVLinkReplayErrors", kind="recovery_failed"),),
    ),
    Incident(
        "a board with one bridge of three",
        "NVSentinel#1481, an alert for ever",
        (
            always("gpu_nvlink_links", gpu(model="NVIDIA A100-PCIE-40GB", state="active"), 4),
            always("gpu_nvlink_links", gpu(model="NVIDIA A100-PCIE-40GB", state="inactive"), 8),
        ),
        (),
    ),
    # --- slow without an error ---
    Incident(
        "PCIe Gen 2 with all lanes for hours of training",
        "rtx6kpro#88",
        (
            *busy(0),
            always("gpu_pcie_link_generation", gpu(), 2),
            always("gpu_pcie_link_generation_max", gpu(), 5),
            always("gpu_pcie_link_width", gpu(), 16),
            always("gpu_pcie_link_width_max", gpu(), 16),
        ),
        (alert("GPUPCIeGenerationLow"),),
    ),
    Incident(
        "a clock stuck low, without a reason",
        "sichek SmClkStuckLow",
        (
            *busy(0),
            always("gpu_clock_hertz", gpu(clock="sm"), 345e6),
            always("gpu_clock_max_hertz", gpu(clock="sm"), 1980e6),
            *(always("gpu_clock_event_active", gpu(reason=reason), 0) for reason in ("sw_power_cap", "hw_slowdown")),
        ),
        (alert("GPUClockStuckLow"),),
    ),
    Incident(
        "utilization and clock look right, and power does not",
        "a hidden slow state of GB10, September 2026",
        tuple(
            entry
            for number in range(4)
            for entry in (
                always("instance_gpu_owner:gpu_busy:rate5m", gpu(number, owner_kind="slurm", owner="4711"), 1),
                (f"gpu_energy_joules_total{gpu(number)}", f"1000000+{15000 if number == 3 else 36000}x{_LENGTH}"),
            )
        ),
        (alert("GPUPowerBelowSiblings", 3),),
    ),
    Incident(
        "a job that hangs: 100 % utilization and hardly any power",
        "sichek GPUHang",
        (
            *busy(0),
            always("gpu_power_watts", gpu(), 110),
            always("gpu_power_limit_watts", gpu(), 700),
            always("gpu_power_default_limit_watts", gpu(), 700),
            always("instance_gpu:gpu_power_watts:idle", gpu(), 75),
            (f"gpu_memory_io_busy_seconds_total{gpu()}", f"0+0.6x{_LENGTH}"),
        ),
        (alert("GPUJobStalled"),),
    ),
    Incident(
        "heat that does not get away from one GPU of a machine",
        "Llama 3, six thermal interfaces of 419",
        tuple(
            entry
            for number in range(4)
            for entry in (
                always("gpu_temperature_celsius", gpu(number), 84 if number == 1 else 62),
                always("gpu_power_watts", gpu(number), 600),
            )
        ),
        (alert("GPUHotterThanSiblings", 1),),
    ),
    Incident(
        "a power limit that differs within a machine",
        "telemetry that lies, ure.us",
        tuple(always("gpu_power_limit_watts", gpu(number), 500 if number == 2 else 700) for number in range(8)),
        (alert("GPUConfigDrift", 2, setting="power_limit"),),
    ),
    Incident(
        "ECC that is off, and corrupts silently",
        "XID 168",
        (always("gpu_ecc_enabled", gpu(), 0),),
        (alert("GPUEccOff"),),
    ),
    Incident(
        "a fan that is told to turn and does not",
        "nvml.h: the intended speed",
        (
            always("gpu_fan_speed_ratio", gpu(model="NVIDIA GeForce RTX 4090", fan="1"), 0.6),
            always("gpu_fan_speed_rpm", gpu(model="NVIDIA GeForce RTX 4090", fan="1"), 0),
        ),
        (alert("GPUFanStopped", fan="1"),),
    ),
    # --- memory ---
    Incident(
        "160 GiB that 25 dead processes hold",
        "vllm-dashboard#182",
        (always("gpu_memory_unaccounted_bytes", gpu(), 160 * 2.0**30),),
        (alert("GPUMemoryUnaccounted"),),
    ),
    Incident(
        "spare rows run out in MIG mode, where nothing else tells",
        "Delta, arXiv 2503.11901",
        (
            always("gpu_mig_mode_enabled", gpu(), 1),
            always("gpu_row_remap_banks", gpu(spare="none"), 1),
            always("gpu_row_remap_banks", gpu(spare="low"), 0),
            always("gpu_row_remap_banks", gpu(spare="max"), 2559),
        ),
        (alert("GPURowRemapBanksLow"),),
    ),
    Incident(
        "an error in DRAM that was contained and waits for its remapping: a warning, never critical",
        "NVIDIA memory error management",
        (
            xid(94),
            always("gpu_row_remap_pending", gpu(), 1),
            always("gpu_ecc_errors_total", gpu(severity="uncorrected", lifetime="volatile", location="dram"), 1),
        ),
        (alert("GPUXidWarning", xid="94"), alert("GPUEccUncorrected", location="dram")),
        (alert("GPURowRemapPending"),),
    ),
    Incident(
        "SRAM errors above NVIDIA's threshold",
        "Llama 3, 19 interruptions by SRAM",
        (
            always("gpu_ecc_sram_threshold_exceeded", gpu(), 1),
            always("gpu_ecc_errors_total", gpu(severity="uncorrected", lifetime="volatile", location="sram"), 4),
        ),
        (alert("GPUSramThresholdExceeded"),),
        (alert("GPUEccUncorrected", location="sram"),),
    ),
    Incident(
        "17 700 corrected errors a second",
        "NVIDIA/DCGM#313",
        (
            (
                f"gpu_ecc_errors_total{gpu(severity='corrected', lifetime='volatile', location='dram')}",
                f"0+1062000x{_LENGTH}",
            ),
        ),
        (alert("GPUEccCorrectedStorm"),),
    ),
    Incident(
        "a GPU that detaches: what is missing is the signal",
        "GWDG, arXiv 2603.28781",
        ((f"gpu_up{gpu()}", f"1x{_WHEN} 0x{_LENGTH - _WHEN}"),),
        (alert("GPULost"),),
    ),
    # --- network and host ---
    Incident(
        "an InfiniBand link that flaps",
        "NVSentinel NIC monitor",
        (once("node_infiniband_link_downed_total", host(job="node", device="mlx5_0", port="1")),),
        (alert("GPUHostLinkFailing", None, device="mlx5_0", port="1"),),
    ),
    Incident(
        "an InfiniBand port that goes down and stays so",
        "Llama 3, 35 switches and cables",
        ((f"node_infiniband_state_id{host(job='node', device='mlx5_0', port='1')}", f"4x{_WHEN} 1x{_LENGTH - _WHEN}"),),
        (alert("GPUHostLinkDown", None, device="mlx5_0", port="1"),),
    ),
    Incident(
        "a link with symbol errors",
        "NVSentinel NIC monitor",
        (
            (
                f"node_infiniband_port_errors_received_total{host(job='node', device='mlx5_0', port='1')}",
                f"0+900x{_LENGTH}",
            ),
        ),
        (alert("GPUHostLinkErrors", None, device="mlx5_0", port="1", kind="receive"),),
    ),
    Incident(
        "a machine that is down, not its exporter",
        "Llama 3, 32 host failures",
        (
            (f"up{host(job='gpu-exporter')}".replace('"n1"', '"n1:9435"'), f"1x{_WHEN} 0x{_LENGTH - _WHEN}"),
            (f"up{host(job='node')}".replace('"n1"', '"n1:9100"'), f"1x{_WHEN} 0x{_LENGTH - _WHEN}"),
        ),
        (alert("GPUHostDown", None, "n1:9435", host="n1"),),
        (alert("GPUExporterDown", None, "n1:9435"), alert("GPUExporterUnsteady", None, "n1:9435")),
    ),
    Incident(
        "silent corruption, which only a test shows, and nobody tested",
        "Meta, six in 54 days",
        (always("gpu_diagnostic_last_pass_timestamp_seconds", gpu(), -2_600_000),),
        (alert("GPUDiagnosticOverdue"),),
    ),
)
# Those of which the promtool cases of a rule tell better: they last for a day.
IN_CASES = {
    "the same XID under three owners on one GPU (NVIDIA's workflows for 13 and 31)": (
        "alerts-xid-day: the same XID under three owners points at the card, under one at the program",
        "GPUXidRepeatedAcrossOwners",
    ),
    "an exporter that is restarted does not resolve what it told (reboots are the usual cure)": (
        "outlive: an exporter that forgets XIDs when it is restarted",
        "GPUXidCritical",
    ),
}


def _case() -> dict[str, Any]:
    series = []
    samples = []
    for number, incident in enumerate(INCIDENTS):
        place = f"i{number:02}"
        for name, values in incident.series:
            metric, labels = name.split("{", 1)
            series.append({"series": f'{metric}{{cluster="{place}",{labels}', "values": values})
        samples += [
            {"labels": _written({"cluster": place, **each}), "value": 1}
            for each in (*incident.told, *incident.silenced)
        ]
    expr = f'group by ({", ".join(_LABELS)}) (ALERTS{{alertstate="firing",cluster=~"i.+"}})'
    return {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{"expr": expr, "eval_time": f"{_AT}m", "exp_samples": samples}],
    }


def test_every_incident_fires_its_alert_and_no_other(tmp_path: Path, release: Release) -> None:
    files = [str(path) for path in RULES if path.stem.startswith("alerts-") and path.stem != "alerts-optional"]
    cases = {"rule_files": files, "evaluation_interval": "1m", "tests": [_case()]}
    (tmp_path / "incidents.yml").write_text(yaml.safe_dump(cases))
    assert_promtool("test", "rules", tmp_path / "incidents.yml", release=release)


_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"(.*)"')


def _matches(labels: Alert, matchers: list[str]) -> bool:
    for matcher in matchers:
        found = _MATCHER.fullmatch(matcher)
        assert found, matcher
        name, operator, text = found.groups()
        value = labels.get(name, "")
        same = re.fullmatch(text, value) is not None if "~" in operator else value == text
        if same == operator.startswith("!"):
            return False
    return True


def _inhibited(labels: Alert, beside: list[Alert], rules: list[dict[str, Any]]) -> bool:
    """Whether one of the others silences it, by Alertmanager's rules."""
    return any(
        _matches(labels, rule["target_matchers"])
        and any(
            other is not labels
            and _matches(other, rule["source_matchers"])
            and all(other.get(name, "") == labels.get(name, "") for name in rule["equal"])
            for other in beside
        )
        for rule in rules
    )


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.what)
def test_of_what_fires_the_right_alert_is_told(incident: Incident) -> None:
    rules = load(ROOT / "deploy/alertmanager/alertmanager.yml")["inhibit_rules"]
    severities = {rule.name: rule.severity for rule in ALERTS}
    firing = [
        {**each, "uuid": f"{each['instance']}G{each['gpu']}" if "gpu" in each else "", "bundle": "gpu-exporter",
         "severity": severities[each["alertname"]]}
        for each in (*incident.told, *incident.silenced)
    ]  # fmt: skip
    told = [each for each in firing if not _inhibited(each, firing, rules)]
    assert [each["alertname"] for each in told] == [each["alertname"] for each in incident.told]


def test_what_lasts_longer_has_its_case_in_which_it_fires() -> None:
    found = {
        (name, rule)
        for name, check in checks(CASES)
        for sample in check["exp_samples"]
        for rule in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert set(IN_CASES.values()) <= found
