"""What deploy/alertmanager does with alerts: whom they reach, which ones others silence, and what the mails say."""

from __future__ import annotations

import html
import json
import quopri
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import Alertmanager, amtool
from tools.lab.programs import Release
from tools.lab.wait import wait_for

from mail import CONFIGURATION, TEMPLATES, Told, configuration, render, told, with_holders

RULES = ROOT / "deploy/prometheus/rules"
HOST = {"instance": "10.0.0.7:9435", "alias": "gpu-node-7"}
GPU = {**HOST, "gpu": "3", "uuid": "GPU-7b8bace7-f031-48d1-9451-c1fcd4f8ad29", "model": "NVIDIA H100 80GB HBM3"}
HELD = {**GPU, "owner_kind": "user", "owner": "alice"}
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
            [alert("GPURowRemapFailure", "critical", 3), alert("GPURowRemapPending", "warning", 3),
             alert("GPUEccCorrectedStorm", "warning", 3), alert("GPUEccCorrectedStorm", "warning", 2)],
            {"GPURowRemapPending 3", "GPUEccCorrectedStorm 3"},
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
            {"GPUReadErrors 3"},
            id="lost, and what it is lost by",
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
    alertmanager.tell([{**alert("GPUExporterDown", "critical"), **east}, {**LOST, **east}, {**HOT, **west, "uuid": "GPU-of-west"}])
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


# --- templates ------------------------------------------------------------------------------------------------------


def hot(gpu: int, **labels: str) -> Told:
    return told({"alertname": "GPUTemperatureNearSlowdown", "severity": "warning", **GPU, "gpu": str(gpu), **labels})


def xid(gpu: int, number: int) -> Told:
    return told({"alertname": "GPUXidCritical", "severity": "critical", **GPU, "gpu": str(gpu), "xid": str(number)})


def other(name: str, **labels: str) -> Told:
    return told({"alertname": name, **labels})


@pytest.mark.parametrize(
    ("alerts", "subject"),
    [
        ([hot(3)], "[FIRING:1] gpu-node-7: GPU 3 overheating"),
        ([hot(0), hot(3), hot(5), xid(1, 48)], "[FIRING:4] gpu-node-7: GPU 1 XID 48; GPU 0, 3, 5 overheating"),
        ([hot(0), hot(10), hot(11), hot(2)], "[FIRING:4] gpu-node-7: GPU 0, 2, 10, 11 overheating"),
        ([other("GPULost", severity="critical", **GPU), xid(3, 79)], "[FIRING:2] gpu-node-7: GPU 3 XID 79; GPU 3 lost"),
        ([xid(1, 48), xid(1, 63), xid(2, 63)], "[FIRING:3] gpu-node-7: GPU 1 XID 48; GPU 1, 2 XID 63"),
        ([other("GPUPCIeWidthDegraded", **GPU)], "[FIRING:1] gpu-node-7: GPU 3 PCIe width degraded"),
        ([other("GPUNVLinkCrcErrors", **GPU)], "[FIRING:1] gpu-node-7: GPU 3 NVLink CRC errors"),
        ([other("GPUEccUncorrected", **GPU)], "[FIRING:1] gpu-node-7: GPU 3 ECC uncorrected"),
        ([other("GPUMissing", **HOST)], "[FIRING:1] gpu-node-7: GPU missing"),
        ([other("GPUExporterDown", instance="10.0.0.7:9435")], "[FIRING:1] 10.0.0.7: GPU exporter down"),
        ([other("GPUExporterDown", instance="[fd00::7]:9435")], "[FIRING:1] [fd00::7]: GPU exporter down"),
        ([other("GPUDriverVersionSkew", cluster="lab")], "[FIRING:1] lab: GPU driver version skew"),
        ([other("GPUExporterAbsent")], "[FIRING:1] GPUs: GPU exporter absent"),
        ([other("DiskFull", **HOST)], "[FIRING:1] gpu-node-7: disk full"),
        ([hot(3), {**hot(4), "status": "resolved"}], "[FIRING:1] gpu-node-7: GPU 3 overheating"),
        ([{**hot(4), "status": "resolved"}], "[RESOLVED] gpu-node-7: GPU 4 overheating"),
        (
            [other(f"GPUIllness{letter}", **GPU) for letter in "ABCDEFGH"],
            "[FIRING:8] gpu-node-7: "
            + "".join(f"GPU 3 illness {letter}; " for letter in "abcdef")
            + "and more",  # the worst first, where severities differ
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_subjects(tmp_path: Path, release: Release, alerts: list[Told], subject: str) -> None:
    assert render(tmp_path, "gpu.email.subject", *alerts, release=release) == subject


HOSTILE = '<script>alert("1")</script> & "quoted" \\ {{ .Labels }} +'


@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_html_escapes_what_labels_and_annotations_hold(tmp_path: Path, release: Release, name: str) -> None:
    names = ("alertname", "alias", "cluster", "model", "owner", "namespace", "severity", "uuid")
    labels = dict.fromkeys(names, HOSTILE)
    annotations = {"summary": HOSTILE, "description": HOSTILE, "runbook_url": "javascript:alert(1)"}
    alerts = [told({**GPU, **labels}, annotations), told({**GPU, **labels}, annotations, ended=True)]
    page = render(tmp_path, f"gpu.{name}.html", *alerts, kind="html", release=release)
    assert "<script" not in page
    assert "javascript:" not in page
    assert "&lt;script&gt;" in page
    assert "{{ .Labels }}" in page, "a label is text, never a template"
    assert page.count("<table") == page.count("</table>")
    assert page.count("<tr") == page.count("</tr>")


def test_both_parts_tell_all_that_is_needed(tmp_path: Path, release: Release) -> None:
    annotations = {
        "summary": "The GPU is close to slowing down.",
        "description": "GPU 3 of gpu-node-7 is at 86 °C. Check the air flow.",
        "runbook_url": "https://runbooks.test/GPUTemperatureNearSlowdown",
        "dashboard_url": "https://grafana.test/d/gpu?var-gpu=3&var-host=7",
    }
    alerts = [told(hot(3)["labels"], annotations), told(hot(4)["labels"], {"summary": "That one is over."}, ended=True)]
    text = render(tmp_path, "gpu.email.text", *alerts, release=release)
    page = render(tmp_path, "gpu.email.html", *alerts, kind="html", release=release)
    for wanted in [
        *annotations.values(),
        "gpu-node-7",
        "10.0.0.7:9435",
        GPU["uuid"],
        GPU["model"],
        "20 Nov 2026 10:23:41",
    ]:
        assert wanted in text
        assert wanted in html.unescape(page)
    for shown in (text, page):
        before, _, after = re.sub(r"(?i)resolved<", "RESOLVED (1)", shown).partition("RESOLVED (1)")
        assert "That one is over." in after, "resolved alerts stand apart"
        assert "That one is over." not in before
        assert "(30m0s)" in after


def matchers(link: str) -> set[str]:
    """The matchers that a silence link fills in."""
    filled = urllib.parse.unquote(link.split("/#/silences/new?filter=")[1])
    assert filled[0] + filled[-1] == "{}"
    return set(re.findall(r'\w+="(?:[^"\\]|\\.)*"', filled))


def test_silence_links_are_filled_in_alike(tmp_path: Path, release: Release) -> None:
    one = told({**hot(3)["labels"], "cluster": 'the "lab" + 1'})
    page = render(tmp_path, "gpu.email.html", one, kind="html", release=release)
    links = [html.unescape(link) for link in re.findall(r'href="(http://alertmanager[^"]*silences[^"]*)"', page)]
    (plain,) = re.findall(r"Silence: +(\S+)", render(tmp_path, "gpu.email.text", one, release=release))
    wanted = {'alertname="GPUTemperatureNearSlowdown"', r'cluster="the \"lab\" + 1"', 'gpu="3"',
              'instance="10.0.0.7:9435"', f'uuid="{GPU["uuid"]}"'}  # fmt: skip
    assert matchers(links[0]) == matchers(plain) == wanted
    assert matchers(links[1]) == {r'cluster="the \"lab\" + 1"', 'instance="10.0.0.7:9435"'}, "all of the host"
    assert "+" not in plain, "a browser's fragment has no plus for a space"


@pytest.mark.parametrize(
    ("labels", "address"),
    [
        ({"owner_kind": "user", "owner": "alice"}, "alice@example.com"),
        ({"owner_kind": "slurm", "owner": "bob.m"}, "bob.m@example.com"),
        ({"owner_kind": "user", "owner": "carol@corp.test"}, "carol@corp.test"),
        ({"owner_kind": "user", "owner": "CORP\\dave"}, "dave@example.com"),
        ({"owner_kind": "user", "owner": "example-user"}, "example.user@example.com"),
        ({"owner_kind": "pod", "owner": "notebook-0", "namespace": "example-space"}, "example-team@example.com"),
        ({"owner_kind": "pod", "owner": "notebook-0", "namespace": "vision"}, "gpu-team@example.com"),
        ({"owner_kind": "user", "owner": "root"}, "gpu-team@example.com"),
        ({"owner_kind": "user", "owner": "1000"}, "gpu-team@example.com"),
        # Nobody chooses further recipients with a name.
        ({"owner_kind": "user", "owner": "eve, everybody@corp.test"}, "gpu-team@example.com"),
        ({"owner_kind": "user", "owner": "eve@corp.test\nBcc: all@corp.test"}, "gpu-team@example.com"),
        ({"owner_kind": "user", "owner": "-oQ/tmp"}, "gpu-team@example.com"),
        ({}, "gpu-team@example.com"),
    ],
    ids=lambda value: str(value.get("owner", "nobody")).split("\n")[0] if isinstance(value, dict) else "",
)
def test_the_address_of_an_owner(tmp_path: Path, release: Release, labels: dict[str, str], address: str) -> None:
    assert (
        render(
            tmp_path, "gpu.owner.address", told({"alertname": "GPUIdleHeld", **GPU, **labels}), release=release
        ).strip()
        == address
    )


# --- many alerts ----------------------------------------------------------------------------------------------------


def ill(gpu: int, name: str = "GPUTemperatureNearSlowdown", host: int = 7, **labels: str) -> Told:
    """As long as such an alert is: a description of 400 characters, an owner."""
    where = {"instance": f"10.0.0.{host}:9435", "alias": f"gpu-node-{host}"}
    words = f"GPU {gpu} of gpu-node-{host} is ill. " + "It has 91 °C, and somebody should look at its fans. " * 8
    notes = {"summary": f"What {name} says in a sentence of its own.", "description": words,
             "runbook_url": f"https://github.com/gpu-exporter/gpu-exporter/blob/main/docs/runbooks/{name}.md",
             "dashboard_url": "http://localhost:3000/d/gpu-device?var-cluster=&var-instance=10.0.0.7%3A9435&var-gpu=3"}  # fmt: skip
    uuid = f"GPU-7b8bace7-f031-48d1-9451-{host:06d}{gpu:06d}"
    return told(
        {"alertname": name, "severity": "warning", **GPU, **where, "gpu": str(gpu), "uuid": uuid, **labels}, notes
    )


def sorted_as_told(alerts: list[Told]) -> list[Told]:
    """As Alertmanager sorts them: by instance, then by the other labels as text."""
    return sorted(alerts, key=lambda each: (each["labels"]["instance"], sorted(each["labels"].items())))


CROWDS = {
    "one kind on one host": [ill(number) for number in range(200)],
    "thirty kinds on one host": [ill(number % 8, f"GPUIllness{number // 8}") for number in range(240)],
    "one kind on many hosts": [ill(number % 8, host=number) for number in range(200)],
    "half of it resolved": [{**ill(number % 64, f"GPUIllness{number // 64}"), "status": ("firing", "resolved")[number % 2]}
                            for number in range(400)],
}  # fmt: skip


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_no_mail_is_cut_off(tmp_path: Path, release: Release, name: str, crowd: str) -> None:
    """Gmail cuts off what is above 102 kB; both parts together, as they are sent, stay below 100."""
    alerts = sorted_as_told(CROWDS[crowd])
    page = render(tmp_path, f"gpu.{name}.html", *alerts, kind="html", release=release)
    text = render(tmp_path, f"gpu.{name}.text", *alerts, release=release)
    sent = len(quopri.encodestring(page.encode())) + len(quopri.encodestring(text.encode()))
    assert sent < 100_000
    assert page.count("<table") == page.count("</table>")
    for shown in (html.unescape(page), text):
        for each in {each["annotations"]["summary"] for each in alerts if each["status"] == "firing"}:
            assert each in shown, "no kind is left out"


@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_equal_alerts_are_one_block_in_the_order_of_numbers(tmp_path: Path, release: Release, name: str) -> None:
    alerts = sorted_as_told([ill(number) for number in range(20)])
    page = html.unescape(render(tmp_path, f"gpu.{name}.html", *alerts, kind="html", release=release))
    text = render(tmp_path, f"gpu.{name}.text", *alerts, release=release)
    for shown in (re.sub(r"<[^>]*>", "", page), text):
        assert "gpu-node-7 GPU " + ", ".join(map(str, range(20))) in shown
        assert shown.count("What GPUTemperatureNearSlowdown says in a sentence of its own.") == 1


def test_gpus_of_several_machines_are_told_by_machine(tmp_path: Path, release: Release) -> None:
    alerts = sorted_as_told([ill(number, host=host) for host in (7, 8) for number in (0, 2, 10, 11, 12, 13, 14)])
    for kind, template in (("html", "gpu.owner.html"), ("text", "gpu.owner.text")):
        shown = re.sub(r"<[^>]*>", "", render(tmp_path, template, *alerts, kind=kind, release=release))
        assert "gpu-node-7 GPU 0, 2, 10, 11, 12, 13, 14; gpu-node-8 GPU 0, 2, 10, 11, 12, 13, 14" in shown


def test_a_few_alerts_are_told_one_by_one_the_cause_first(tmp_path: Path, release: Release) -> None:
    alerts = sorted_as_told(
        [
            ill(10),
            ill(2),
            ill(3, "GPULost", severity="critical"),
            ill(3, "GPUXidCritical", severity="critical", xid="79"),
            ill(4, "GPURowRemapFailure", severity="critical"),
        ]  # fmt: skip
    )
    for kind, template in (("html", "gpu.email.html"), ("text", "gpu.email.text")):
        shown = render(tmp_path, template, *alerts, kind=kind, release=release)
        order = re.findall(r"What (\w+) says", shown)
        assert order == ["GPUXidCritical", "GPULost", "GPURowRemapFailure", *["GPUTemperatureNearSlowdown"] * 2]
        assert shown.index("GPU 2 of gpu-node-7") < shown.index("GPU 10 of gpu-node-7")


def test_who_holds_a_gpu_cannot_silence_a_machine(tmp_path: Path, release: Release) -> None:
    one = told({"alertname": "GPUIdleHeld", "severity": "info", **HELD}, {"summary": "Held.", "description": "Idle."})
    for kind in ("html", "text"):
        assert "silences" not in render(tmp_path, f"gpu.owner.{kind}", one, kind=kind, release=release)
        assert "silences" in render(tmp_path, f"gpu.email.{kind}", one, kind=kind, release=release)


def test_links_to_grafana_lead_to_yours(tmp_path: Path, release: Release) -> None:
    """One line in a file of the site, read after ours; other links stay as they are."""
    (tmp_path / "own").mkdir()
    for file in Path(TEMPLATES).parent.glob("*.tmpl"):
        (tmp_path / "own" / file.name).symlink_to(file)
    one = ill(3)
    for kind, before, after in (("text", "http://localhost:3000/d/gpu-device?", "https://grafana.test/gpu/d/gpu-device?"),
                                ("html", "http://localhost:3000/d/gpu-device?", "https://grafana.test/gpu/d/gpu-device?")):  # fmt: skip
        assert before in render(tmp_path, f"gpu.email.{kind}", one, kind=kind, release=release)
        (tmp_path / "own/site.tmpl").write_text('{{ define "gpu.grafana" }}https://grafana.test/gpu{{ end }}')
        shown = render(
            tmp_path, f"gpu.email.{kind}", one, kind=kind, release=release, templates=tmp_path / "own/*.tmpl"
        )
        assert after in shown
        assert "localhost" not in shown
        assert "github.com/gpu-exporter" in shown
        (tmp_path / "own/site.tmpl").unlink()


def test_the_thread_of_a_machine_is_one_and_cannot_be_forged(tmp_path: Path, release: Release) -> None:
    first = render(tmp_path, "gpu.thread", hot(3), release=release)
    assert first == render(tmp_path, "gpu.thread", {**hot(4), "status": "resolved"}, release=release)
    assert first == "<gpu.oncall..10-0-0-7-9435@gpu-exporter>"
    hostile = render(tmp_path, "gpu.thread", hot(3, instance="a\r\nBcc: all@corp.test"), release=release)
    assert re.fullmatch(r"<[A-Za-z0-9.-]+@gpu-exporter>", hostile)


def test_a_few_lines_for_a_chat(tmp_path: Path, release: Release) -> None:
    text = render(tmp_path, "gpu.chat.text", *[ill(number) for number in range(8)], release=release)
    assert text.count("\n* ") + text.startswith("* ") == 5
    assert text.rstrip().endswith("and 3 more")


@pytest.mark.parametrize("name", ["owner", "digest", "heartbeat"])
def test_the_other_mails(tmp_path: Path, release: Release, name: str) -> None:
    one = told(
        {"alertname": "GPUIdleHeld", "severity": "info", **HELD},
        {"summary": "Held and idle.", "description": "For 62 minutes."},
    )
    subject = render(tmp_path, f"gpu.{name}.subject", one, release=release)
    assert subject == {
        "owner": "1 idle GPU held by alice: please free what you do not need",
        "digest": "GPU digest: 1 thing to look at this week",
        "heartbeat": "[HEARTBEAT] GPU monitoring is alive",
    }[name]  # fmt: skip
    text = render(tmp_path, f"gpu.{name}.text", one, release=release)
    assert "http://alertmanager.test:9093" in text
    if name != "heartbeat":
        page = html.unescape(render(tmp_path, f"gpu.{name}.html", one, one, kind="html", release=release))
        for shown in (text, page):
            assert "For 62 minutes." in shown
        assert {"owner": "You hold 2 idle GPUs", "digest": "2 things to look at this week"}[name] in page
