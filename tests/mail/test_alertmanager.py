"""What deploy/alertmanager does with alerts: whom they reach, and which ones others silence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import Alertmanager, amtool
from tools.lab.programs import Release
from tools.lab.wait import wait_for

from mail import CONFIGURATION, GPU, HELD, HOST, configuration, with_holders

RULES = ROOT / "deploy/prometheus/rules"
RECEIVER = {"critical": "oncall", "warning": "team", "info": "digest"}


def test_amtool_accepts_the_configuration(release: Release) -> None:
    done = amtool("check-config", str(CONFIGURATION), release=release)
    assert done.returncode == 0, done.stdout + done.stderr


# --- routes ---------------------------------------------------------------------------------------------------------


def assert_routed(labels: Mapping[str, str], *receivers: str, release: Release, file: Path = CONFIGURATION) -> None:
    pairs = [f"{name}={json.dumps(value)}" for name, value in labels.items()]
    wanted = f"--verify.receivers={','.join(receivers)}"
    done = amtool("config", "routes", "test", f"--config.file={file}", wanted, *pairs, release=release)
    assert done.returncode == 0, f"{labels}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"alertname": "Watchdog", "severity": "none"}, ("heartbeat",)),
        ({"alertname": "Watchdog", "cluster": "lab"}, ("heartbeat",)),
        ({"alertname": "GPULost", "severity": "critical", **GPU}, ("oncall",)),
        ({"alertname": "GPULost", "severity": "critical", "cluster": "lab", **GPU}, ("oncall",)),
        ({"alertname": "GPUExporterDown", "severity": "critical", **HOST}, ("oncall",)),
        ({"alertname": "GPUExporterAbsent", "severity": "critical"}, ("oncall",)),
        ({"alertname": "GPUTemperatureNearSlowdown", "severity": "warning", **GPU}, ("team",)),
        ({"alertname": "GPUPersistenceModeOff", "severity": "info", **GPU}, ("digest",)),
        # Those who hold GPUs are not written to until somebody has told their domain.
        ({"alertname": "GPUIdleHeld", "severity": "info", **HELD}, ("digest",)),
        ({"alertname": "GPUIdleHeldLong", "severity": "warning", **HELD}, ("team",)),
        ({"alertname": "GPUFleetUnwatched", "severity": "critical", "cluster": "lab"}, ("oncall",)),
        ({"alertname": "GPUWarningOver", "severity": "info", **GPU}, ("morning",)),
        # Alerts of others, and mistakes in severities, arrive.
        ({"alertname": "DiskFull"}, ("team",)),
        ({"alertname": "GPULost", "severity": "Critical", **GPU}, ("team",)),
        ({}, ("team",)),
    ],
    ids=lambda value: value.get("alertname", "nothing") if isinstance(value, dict) else ",".join(value),
)
def test_routes(labels: dict[str, str], receivers: tuple[str, ...], release: Release) -> None:
    assert_routed(labels, *receivers, release=release)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"alertname": "GPUIdleHeld", "severity": "info", **HELD}, ("owner", "digest")),
        ({"alertname": "GPUIdleHeldLong", "severity": "warning", **HELD}, ("owner", "team")),
        # Nobody to write to: only those who look after the machines.
        ({"alertname": "GPUIdleHeld", "severity": "info", **GPU}, ("digest",)),
        ({"alertname": "GPUIdleHeld", "severity": "info", **GPU, "owner": ""}, ("digest",)),
        # An owner is only written to about GPUs that lie idle.
        ({"alertname": "GPULowScore", "severity": "info", **HELD}, ("digest",)),
        ({"alertname": "GPULost", "severity": "critical", **HELD}, ("oncall",)),
    ],
    ids=["info", "warning", "nobody", "nameless", "low score", "lost"],
)
def test_routes_with_mails_to_holders(
    tmp_path: Path, labels: dict[str, str], receivers: tuple[str, ...], release: Release
) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(with_holders())
    assert_routed(labels, *receivers, release=release, file=file)


def test_warnings_and_criticals_are_mailed_at_any_hour() -> None:
    tree = yaml.safe_load(CONFIGURATION.read_text())
    told_at_times = {
        route["receiver"]
        for route in tree["route"]["routes"]
        if {"active_time_intervals", "mute_time_intervals"} & set(route)
    }
    assert told_at_times == {"digest", "morning"}


def test_the_switches_are_one_line_each(tmp_path: Path, release: Release) -> None:
    text = re.sub(r"#: ", "", with_holders())
    assert text != with_holders()
    tree = yaml.safe_load(text)
    (warning,) = (route for route in tree["route"]["routes"] if route["matchers"] == ['severity="warning"'])
    assert warning["active_time_intervals"] == ["office-hours"]
    (tmp_path / "alertmanager.yml").write_text(text)
    done = amtool("check-config", str(tmp_path / "alertmanager.yml"), release=release)
    assert done.returncode == 0, done.stdout + done.stderr


def deployed_alerts() -> list[dict[str, Any]]:
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_deployed_alert_has_a_route_of_its_severity(release: Release) -> None:
    alerts = deployed_alerts()
    assert alerts, "no alert in deploy/prometheus/rules"
    own = {"Watchdog", "GPUWarningOver"}  # routes of their own
    severities = {alert["alert"]: alert["labels"]["severity"] for alert in alerts if alert["alert"] not in own}
    assert set(severities.values()) <= set(RECEIVER)
    for name, severity in severities.items():
        assert_routed({"alertname": name, "severity": severity, **HELD}, RECEIVER[severity], release=release)


def test_names_in_the_configuration_are_those_of_the_rules() -> None:
    alerts = {alert["alert"] for alert in deployed_alerts()}
    text = with_holders()
    named = set(re.findall(r'alertname!?="(\w+)"', text))
    assert named <= alerts, "routes or inhibitions name alerts that do not exist"
    for pattern in re.findall(r'alertname!?~"([^"]+)"', text):
        assert [name for name in alerts if re.fullmatch(pattern, name)], pattern
        for part in re.split(r"\|(?![^(]*\))", pattern):
            assert any(re.fullmatch(part, name) for name in alerts), part
            for choice in re.findall(r"\((.*)\)", part):
                for word in choice.split("|"):
                    whole = part.replace(f"({choice})", f"({word})")
                    assert any(re.fullmatch(whole, name) for name in alerts), f"{whole}: no alert"


def test_repeats_are_multiples_that_alertmanager_remembers() -> None:
    tree = yaml.safe_load(with_holders())
    seconds = {"s": 1, "m": 60, "h": 3600}
    for route in [tree["route"], *tree["route"]["routes"]]:
        interval, repeat = (
            int(route[key][:-1]) * seconds[route[key][-1]] for key in ("group_interval", "repeat_interval")
        )
        assert repeat % interval == 0
        assert repeat <= 120 * 3600, "the default of --data.retention"
    receivers = {receiver["name"] for receiver in tree["receivers"]}
    assert all(len(receiver) > 1 for receiver in tree["receivers"]), "a receiver that drops what it gets"
    assert {route["receiver"] for route in [tree["route"], *tree["route"]["routes"]]} == receivers


def test_a_second_critical_waits_for_a_minute() -> None:
    """Not for the five of a warning: the XID of a machine must not wait because its memory was told of just before."""
    (route,) = (
        route
        for route in yaml.safe_load(CONFIGURATION.read_text())["route"]["routes"]
        if route["matchers"] == ['severity="critical"']
    )
    assert (route["group_wait"], route["group_interval"]) == ("10s", "1m")


# --- inhibition -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Alertmanager]:
    folder = tmp_path_factory.mktemp("alertmanager")
    tree = configuration(folder, smtp_port=1)
    tree["receivers"] = [{"name": receiver["name"]} for receiver in tree["receivers"]]  # nothing is to be sent
    with Alertmanager(folder, tree, release) as running:
        yield running


def alert(name: str, severity: str, gpu: int | None = None, **more: str) -> dict[str, str]:
    device = {} if gpu is None else {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "model": "H100"}
    return {"alertname": name, "severity": severity, **device, **more}


LOST = alert("GPULost", "critical", 3)
OFF_THE_BUS = alert("GPUXidCritical", "critical", 3, xid="79")
HOT = alert("GPUTemperatureNearSlowdown", "warning", 3)


@pytest.mark.parametrize("cluster", [{}, {"cluster": "lab"}], ids=["no cluster", "cluster"])
@pytest.mark.parametrize(
    ("standing", "inhibited"),
    [
        pytest.param([HOT], set(), id="a warning alone"),
        pytest.param(
            [alert("GPUXidCritical", "critical", 3, xid="48"), HOT, alert("GPUXidWarning", "warning", 3, xid="94")],
            {"GPUXidWarning 3"},
            id="the worse of one subject, and no other subject",
        ),
        pytest.param(
            [alert("GPUNVLinkDown", "critical", 3, state="inactive"), HOT, alert("GPUStraggler", "warning", 3),
             alert("GPUPCIeWidthDegraded", "warning", 3), alert("GPUNVLinkCrcErrors", "warning", 3),
             alert("GPUPersistenceModeOff", "info", 3), alert("GPUThermalSlowdown", "warning", 4)],
            {"GPUNVLinkCrcErrors 3"},
            id="links that are down for months mute links alone",
        ),
        pytest.param(
            [alert("GPUThermalSlowdown", "warning", 3), HOT, alert("GPUStraggler", "warning", 3),
             alert("GPUFanStopped", "warning", 3), alert("GPUStraggler", "warning", 2)],
            {"GPUTemperatureNearSlowdown 3", "GPUStraggler 3"},
            id="cause over symptom, and nothing contradictory side by side",
        ),
        pytest.param(
            [alert("GPUTemperatureNearShutdown", "critical", 3), alert("GPUThermalSlowdown", "warning", 3), HOT,
             alert("GPUPowerBrake", "warning", 3)],
            {"GPUThermalSlowdown 3", "GPUTemperatureNearSlowdown 3"},
            id="heat over heat",
        ),
        pytest.param(
            [HOT, alert("GPUHotterThanSiblings", "warning", 3), alert("GPUHotterThanSiblings", "warning", 2)],
            {"GPUHotterThanSiblings 3"},
            id="near its own limit, over hotter than others",
        ),
        pytest.param(
            [alert("GPURowRemapFailure", "critical", 3), alert("GPURowRemapPending", "warning", 3),
             alert("GPUEccUncorrected", "warning", 3), alert("GPUEccUncorrected", "warning", 1),
             alert("GPUEccCorrectedStorm", "warning", 3), alert("GPUEccCorrectedStorm", "warning", 2)],
            {"GPURowRemapPending 3", "GPUEccUncorrected 3", "GPUEccCorrectedStorm 3"},
            id="memory over memory",
        ),
        pytest.param(
            [alert("GPUEccUncorrected", "critical", 2), HOT, alert("GPUCollectionSlow", "warning")],
            set(),
            id="critical of one GPU, warning of another and of the host",
        ),
        pytest.param(
            [alert("GPUCollectionFailing", "critical"), alert("GPUMissing", "critical"), HOT, LOST, OFF_THE_BUS,
             alert("GPUCollectionSlow", "warning")],
            {"GPUMissing", "GPUTemperatureNearSlowdown 3", "GPUCollectionSlow"},
            id="a machine whose driver is gone, and why",
        ),
        pytest.param(
            [alert("GPUExporterDuplicate", "warning"), alert("GPUThermalSlowdown", "warning", 3),
             alert("GPUNVLinkCrcErrors", "warning", 3), alert("GPURowRemapFailure", "critical", 3)],
            {"GPUThermalSlowdown 3", "GPUNVLinkCrcErrors 3"},
            id="two exporters that report as one: no rate, but states",
        ),
        pytest.param(
            [alert("GPUMissing", "critical"), alert("GPUCollectionSlow", "warning"), HOT],
            set(),
            id="critical of the host: the missing gpu labels are not equal GPUs",
        ),
        pytest.param(
            [alert("GPUEccUncorrected", "critical", 3), alert("GPUIdleHeld", "info", 3, owner="alice")],
            set(),
            id="the holder of a sick GPU is told",
        ),
        pytest.param(
            [
                alert("GPUIdleHeldLong", "warning", 3, owner="alice"),
                alert("GPUIdleHeld", "info", 3, owner="alice"),
                alert("GPUIdleHeld", "info", 3, owner="bob"),
                alert("GPUIdleHeld", "info", 2, owner="alice"),
            ],
            {"GPUIdleHeld 3 alice"},
            id="held for a day over held for an hour, of the same holder",
        ),
        pytest.param(
            [alert("GPUEccUncorrected", "critical", 3), alert("GPUXidCritical", "critical", 3, xid="48")],
            set(),
            id="critical beside critical",
        ),
        pytest.param(
            [LOST, HOT, alert("GPUNVLinkDown", "critical", 3), alert("GPUIdleHeld", "info", 3, owner="alice"),
             alert("GPUNVLinkDown", "critical", 2), alert("GPUCollectionSlow", "warning")],
            {"GPUTemperatureNearSlowdown 3", "GPUNVLinkDown 3", "GPUIdleHeld 3 alice"},
            id="lost over all of its GPU and nothing else",
        ),
        pytest.param(
            [OFF_THE_BUS, alert("GPUNVLinkDown", "critical", 3), HOT, alert("GPUNVLinkDown", "critical", 2)],
            {"GPUNVLinkDown 3", "GPUTemperatureNearSlowdown 3"},
            id="XID 79 over all of its GPU",
        ),
        pytest.param([LOST, OFF_THE_BUS], set(), id="lost and XID 79: both, for the XID tells why"),
        pytest.param(
            [LOST, alert("GPUXidCritical", "critical", 3, xid="119"), alert("GPURecoveryActionRequired", "critical", 3),
             alert("GPUReadErrors", "warning", 3)],
            {"GPUReadErrors 3", "GPUXidCritical 3"},
            id="lost, and the driver's own verdict, which names the XIDs",
        ),
        pytest.param(
            [LOST, alert("GPUXidCritical", "critical", 3, xid="119"), alert("GPUReadErrors", "warning", 3)],
            {"GPUReadErrors 3"},
            id="lost, and what it is lost by",
        ),
        pytest.param(
            [alert("GPURecoveryActionRequired", "critical", 3), OFF_THE_BUS,
             alert("GPUXidUnknown", "warning", 3, xid="199"), alert("GPUXidWarning", "warning", 3, xid="94"),
             alert("GPUXidWarning", "warning", 2, xid="94"),
             alert("GPUXidRepeatedAcrossOwners", "warning", 3, xid="31")],
            {"GPUXidCritical 3", "GPUXidUnknown 3", "GPUXidWarning 3", "GPUXidRepeatedAcrossOwners 3"},
            id="what the driver asks for over the numbers of that GPU",
        ),
        pytest.param(
            [alert("GPUXidCritical", "critical", 3, xid="149"), alert("GPUXidUnknown", "warning", 3, xid="199"),
             alert("GPUXidRepeatedAcrossOwners", "warning", 3, xid="31")],
            {"GPUXidUnknown 3"},
            id="a critical number over one that nobody knows",
        ),
        pytest.param(
            [OFF_THE_BUS, alert("GPUXidCritical", "critical", 3, xid="48")],
            {"GPUXidCritical 3"},
            id="XID 79 over the XIDs that follow",
        ),
        pytest.param(
            [alert("GPUExporterDown", "critical"), LOST, alert("GPUMissing", "critical"), HOT],
            {"GPULost 3", "GPUMissing", "GPUTemperatureNearSlowdown 3"},
            id="exporter down over its GPUs",
        ),
        pytest.param(
            [alert("GPUExporterDown", "critical"), LOST, alert("DiskFull", "warning", bundle=""),
             alert("GPUOfOthers", "warning", 3, bundle="")],
            {"GPULost 3"},
            id="alerts of others are never silenced",
        ),
        pytest.param(
            [alert("GPULost", "critical", 3, bundle="others"), HOT],
            set(),
            id="nor do they silence ours",
        ),
        pytest.param(
            [alert("GPUHostDown", "critical"), alert("GPUExporterDown", "critical"), LOST],
            {"GPUExporterDown", "GPULost 3"},
            id="a machine that is down over its exporter, which does not silence it in turn",
        ),
        pytest.param(
            [alert("GPUXidWarning", "warning", 3, xid="94"), alert("GPUEventWarning", "warning", 3, event="poison"),
             alert("GPUEventCritical", "critical", 2, event="fatal_poison"), alert("GPUEventWarning", "warning", 1)],
            {"GPUEventWarning 3"},
            id="an XID over the event that came with it",
        ),
        pytest.param(
            [alert("GPUXidCritical", "critical", 3, xid="95"), alert("GPUEventCritical", "critical", 3),
             alert("GPUNVSwitchFatal", "critical", sxid="20034"), alert("GPUNVSwitchFault", "warning", sxid="20012")],
            {"GPUEventCritical 3", "GPUNVSwitchFault"},
            id="a critical XID over events, a fatal fault of a switch over milder ones",
        ),
        pytest.param(
            [alert("GPUHostVanished", "critical"), alert("GPUExporterDown", "critical"), LOST],
            {"GPULost 3", "GPUExporterDown"},
            id="the exporter of a machine that is no target any more",
        ),
        pytest.param(
            [alert("GPUHostVanished", "critical"), LOST, alert("GPUCollectionFailing", "critical")],
            {"GPULost 3", "GPUCollectionFailing"},
            id="a machine that is no target any more",
        ),
    ],
)  # fmt: skip
def test_inhibition(
    alertmanager: Alertmanager,
    request: pytest.FixtureRequest,
    standing: list[dict[str, str]],
    inhibited: set[str],
    cluster: dict[str, str],
) -> None:
    host = {"instance": re.sub(r"\W+", "-", request.node.name), **cluster}
    beside = {**host, "instance": host["instance"] + "-beside"}
    canary = {**host, "instance": host["instance"] + "-canary"}
    alertmanager.tell([{**labels, **host} for labels in standing])
    # The same on another host keeps what it needs to stay: a warning alone. And one alert that tells of no host.
    alertmanager.tell([{**labels, **beside} for labels in standing if labels["severity"] == "warning"][-1:])
    alertmanager.tell([{**alert("GPUExporterNeverSeen", "info"), **cluster}])
    # Alertmanager looks at alerts in their order: when the canary is silenced, it has seen all of the above.
    alertmanager.tell([{**LOST, **canary}, {**HOT, **canary}])
    wait_for(lambda: alertmanager.inhibited(canary["instance"]))
    assert alertmanager.inhibited(host["instance"]) == inhibited
    assert alertmanager.inhibited(beside["instance"]) == set()


def test_two_sites_without_a_cluster_label_may_have_a_machine_of_the_same_name(alertmanager: Alertmanager) -> None:
    """Both are localhost:9435; they differ by their aliases and their GPUs."""
    host = {"instance": "localhost-of-both:9435"}
    west, east = {**host, "alias": "west"}, {**host, "alias": "east"}
    alertmanager.tell(
        [{**alert("GPUExporterDown", "critical"), **east}, {**LOST, **east}, {**HOT, **west, "uuid": "GPU-of-west"}]
    )
    alertmanager.tell(
        [{**LOST, **west, "uuid": "GPU-west", "gpu": "7"}, {**HOT, **west, "uuid": "GPU-east", "gpu": "7"}]
    )
    wait_for(lambda: alertmanager.inhibited(host["instance"]))
    assert alertmanager.inhibited(host["instance"]) == {"GPULost 3"}


def test_a_fleet_that_is_not_watched_is_one_mail(alertmanager: Alertmanager) -> None:
    many = [
        {**alert("GPUExporterDown", "critical"), "cluster": "fleet", "instance": f"f{number}"} for number in range(40)
    ]
    more = [
        {**LOST, "cluster": "fleet", "instance": "f1"},
        {**alert("GPUHostVanished", "critical"), "cluster": "fleet", "instance": "gone"},
    ]
    others = [{**alert("GPUExporterDown", "critical"), "cluster": "another", "instance": "f1"}]
    alertmanager.tell([*many, *more, *others, {**alert("GPUFleetUnwatched", "critical"), "cluster": "fleet"}])

    def standing() -> list[dict[str, Any]]:
        found = [each for each in alertmanager.alerts() if each["labels"].get("cluster") in {"fleet", "another"}]
        return [each["labels"] for each in found if not each["status"]["inhibitedBy"]]

    wait_for(lambda: len(standing()) == 2, standing)
    assert sorted((each["alertname"], each["cluster"]) for each in standing()) == [
        ("GPUExporterDown", "another"), ("GPUFleetUnwatched", "fleet"),
    ]  # fmt: skip


def test_the_same_host_of_another_cluster_is_another_host(alertmanager: Alertmanager) -> None:
    host = {"instance": "shared-name:9435"}
    alertmanager.tell([{**LOST, **host, "cluster": "a"}, {**HOT, **host, "cluster": "b"}, {**HOT, **host}])
    alertmanager.tell([{**HOT, **host, "cluster": "a"}])
    wait_for(lambda: alertmanager.inhibited(host["instance"]))
    clusters = [found["labels"].get("cluster") for found in alertmanager.alerts() if found["status"]["inhibitedBy"]
                and found["labels"]["instance"] == host["instance"]]  # fmt: skip
    assert clusters == ["a"]
