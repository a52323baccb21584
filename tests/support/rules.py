"""The rules of deploy/prometheus, their cases and runbooks, as data; and promtool, which checks them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tools.lab import ROOT
from tools.lab.programs import Release, program

from gpu_exporter.catalog import CATALOG

DEPLOY = ROOT / "deploy/prometheus"
RULES = sorted((DEPLOY / "rules").glob("*.yml"))
CASES = sorted((DEPLOY / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs/runbooks"

# Alerts about the whole of what a Prometheus watches: no machine, no GPU, and (but for the skew) no cluster.
WITHOUT_CLUSTER = {"GPUExporterAbsent", "GPUExporterNeverSeen", "Watchdog"}
FLEET = {"GPUDriverVersionSkew", "GPUFleetUnwatched", "GPUWarningOver", *WITHOUT_CLUSTER}
# Alerts about a machine, not one of its GPUs.
OF_MACHINES = {"GPUMissing", "GPUNVSwitchFatal", "GPUNVSwitchFault", "GPUEventSourceLost"}
# Those that tell of machines that are gone, or of what is over.
GONE = {"GPUFleetUnwatched", "GPUHostVanished", "GPUWarningOver", *WITHOUT_CLUSTER}


@dataclass(frozen=True)
class Rule:
    """One rule, with the file and the group that it stands in."""

    file: str
    group: str
    name: str
    expr: str
    body: Mapping[str, Any]

    @property
    def alert(self) -> bool:
        return "alert" in self.body

    @property
    def severity(self) -> str:
        return str(self.body.get("labels", {}).get("severity", "…"))

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.body.get("annotations", {}))


def where(rule: Rule) -> str:
    """File, line and name of a rule, for messages."""
    lines = (DEPLOY / "rules" / rule.file).read_text("utf-8").splitlines()
    found = re.compile(rf"\s*- (?:alert|record): {re.escape(rule.name)}$")
    number = next((number for number, line in enumerate(lines, 1) if found.match(line)), 0)
    return f"deploy/prometheus/rules/{rule.file}:{number}: {rule.name}"


def load(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text("utf-8"))


def _rules() -> list[Rule]:
    return [
        Rule(path.name, group["name"], rule.get("alert") or rule["record"], rule["expr"], rule)
        for path in RULES
        for group in load(path)["groups"]
        for rule in group["rules"]
    ]


ALL = _rules()
ALERTS = [rule for rule in ALL if rule.alert]
RECORDS = [rule for rule in ALL if not rule.alert]

# What rules may read: the exporter's metrics, what rules record, what Prometheus and Alertmanager tell of themselves.
KNOWN = {metric.name for metric in CATALOG} | {record.name for record in RECORDS}
KNOWN |= {"up", "alertmanager_notifications_total", "alertmanager_notifications_failed_total"}
KNOWN |= {"ALERTS", "process_start_time_seconds", "scrape_duration_seconds"}
# Of the machines: node_exporter 1.3 and newer, and the contract of docs/HOST.md.
KNOWN |= {
    "gpu_diagnostic_last_pass_timestamp_seconds",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_infiniband_link_downed_total",
    "node_infiniband_link_error_recovery_total",
    "node_infiniband_local_ack_timeout_err_total",
    "node_infiniband_port_discards_transmitted_total",
    "node_infiniband_port_errors_received_total",
    "node_infiniband_state_id",
    "node_infiniband_symbol_error_total",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_timex_maxerror_seconds",
    "node_timex_offset_seconds",
    "node_timex_sync_status",
}


def checks(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every check of these files, with the case it stands in."""
    for path in paths:
        for case in load(path)["tests"]:
            for check in case["promql_expr_test"]:
                yield f"{path.stem}: {case['name']}", check


def promtool(*arguments: str | Path, release: Release = "debian") -> subprocess.CompletedProcess[str]:
    """Promtool, to its end."""
    command = [program("promtool", release), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def assert_promtool(*arguments: str | Path, release: Release = "debian") -> None:
    """Promtool, which must be content."""
    done = promtool(*arguments, release=release)
    assert done.returncode == 0, done.stdout + done.stderr


_WORDS = re.compile(r"[a-zA-Z_:][\w:]*")
_LANGUAGE = set(
    re.findall(
        r"\w+",
        """
        and or unless by on ignoring without group_left group_right bool offset sum count avg min max quantile rate
        stddev increase time timestamp vector absent abs changes group day_of_week clamp_max ceil floor label_replace
        count_values deriv avg_over_time count_over_time last_over_time max_over_time sum_over_time
        """,
    )
)


def metrics(expr: str) -> set[str]:
    """The metric names of an expression: words that are no label, function, keyword, string or duration."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", r"\1", bare)
    bare = re.sub(r"(?<![\w:])\d[\w.]*", "", bare)
    return set(_WORDS.findall(bare)) - _LANGUAGE


def _read_by(rule: Rule) -> set[str]:
    named = metrics(rule.expr)
    if "ALERTS" in named:
        named |= set(re.findall(r'alertname="(\w+)"', rule.expr)) or {alert.name for alert in ALERTS}
    return named & {other.name for other in ALL}


# By the name of a rule: the rules that its expression reads, and those whose expressions read it.
READS = {name: {read for rule in ALL if rule.name == name for read in _read_by(rule)} for name in {r.name for r in ALL}}
READERS = {name: {reader for reader, read in READS.items() if name in read} for name in READS}


def reached(names: set[str], steps: Mapping[str, set[str]]) -> set[str]:
    """These rules and all that the steps lead to from them."""
    found = set(names)
    while more := {step for name in found for step in steps[name]} - found:
        found |= more
    return found
