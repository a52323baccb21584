"""The whole way: simulated GPUs, a real Prometheus with the deployed rules, a real Alertmanager, a real SMTP server."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import Alertmanager, amtool
from tools.lab.exporter import Exporter
from tools.lab.mailbox import Mailbox, part
from tools.lab.ports import free_port
from tools.lab.programs import Program, Release
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from mail import CONFIGURATION, PASSWORD, configuration, deploy_rules, replaced

PAGE = ROOT / "docs/MAIL.md"
ONCALL, TEAM, HEARTBEAT = "gpu-oncall@example.com", "gpu-team@example.com", "gpu-heartbeat@example.com"
HOT = 'hot <b>"&"</b>'  # an alias that would be bold if anybody forgot to escape

WELL = "events: []"
SICK = """\
events:
  - {at: 0s, gpu: 0, fault: xid, xid: 48}
  - {at: 0s, gpu: 0, fault: xid, xid: 94}
  - {at: 0s, gpu: 1, fault: lost}
  - {at: 0s, gpu: 2, fault: ecc, severity: uncorrected, remap: failure}
  - {at: 0s, gpu: 3, fault: xid, xid: 79}
  - {at: 0s, gpu: 4, fault: ecc, severity: uncorrected, location: sram, count: 4}
"""
OVERHEATING = "events: [{at: 0s, gpu: 1, fault: overheat, target: 78}]"
LOST = "events: [{at: 0s, gpu: 2, fault: lost}]"
REPAIRED = "events: [{at: 0s, gpu: 2, fault: recover}]"
# Alice's notebook keeps a GPU and does nothing.
HELD = """\
events:
  - {at: 0s, gpu: all, fault: workload, workload: idle}
  - {at: 0s, gpu: 5, fault: process, process: {pid: 4242, name: jupyter-lab, user: alice, memory: 30GiB}}
"""
STORIES = {"well": WELL, "sick": WELL, "hot": OVERHEATING, "repaired": WELL, "held": HELD}

PROMETHEUS = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ['{rules}/*.yml']
alerting:
  alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]}}]
scrape_configs:
  - job_name: gpu-exporter
    static_configs: {targets}
"""


@dataclass
class Story:
    """What goes on in this file, all at once: every host has its own trouble, and one has none."""

    folder: Path
    mailbox: Mailbox
    alertmanager: Alertmanager
    prometheus: Prometheus


@contextmanager
def telling(folder: Path, release: Release) -> Iterator[Story]:
    with ExitStack() as stack:
        mailbox = stack.enter_context(Mailbox(password=PASSWORD))
        alertmanager = stack.enter_context(
            Alertmanager(folder, configuration(folder, smtp_port=mailbox.port, wait="4s", holders=True), release)
        )
        targets = []
        for name, scenario in STORIES.items():
            place = folder / name
            place.mkdir()
            (place / "scenario.yaml").write_text(scenario)
            exporter = stack.enter_context(
                Exporter(
                    place,
                    "--source=fake",
                    "--fake.gpus=6",
                    f"--fake.scenario={place / 'scenario.yaml'}",
                    "--collection.interval=500ms",
                    "--collection.timeout=500ms",
                    # Simulated users hold GPUs on every host; this story is about one of them.
                    *(() if name == "held" else ("--no-processes.enabled",)),
                )
            )
            alias = HOT if name == "hot" else name
            targets.append({"targets": [f"127.0.0.1:{exporter.port}"], "labels": {"alias": alias}})
        (folder / "rules").mkdir()
        deploy_rules(folder / "rules")
        text = PROMETHEUS.format(rules=folder / "rules", alertmanager=alertmanager.port, targets=json.dumps(targets))
        prometheus = stack.enter_context(Prometheus(folder, text, release))
        wait_for(lambda: prometheus.number("sum(up)") == len(targets))
        wait_for(lambda: prometheus.get("alertmanagers")["activeAlertmanagers"])
        for name, scenario in {"sick": SICK, "repaired": LOST}.items():
            (folder / name / "scenario.yaml").write_text(scenario)
        yield Story(folder, mailbox, alertmanager, prometheus)


def test_from_the_gpu_to_the_mailbox(tmp_path: Path, release: Release) -> None:
    with telling(tmp_path, release) as story:
        a_host_with_five_sick_gpus_is_one_mail(story)
        no_warning_while_the_critical_alert_of_the_same_gpu_stands(story)
        the_mail_that_it_is_over(story)
        watchdog_reaches_the_heartbeat(story)
        the_overheating_mail(story)
        the_holder_of_an_idle_gpu_is_mailed(story)
        nothing_else_was_mailed(story)


def watchdog_reaches_the_heartbeat(story: Story) -> None:
    mail = story.mailbox.wait(HEARTBEAT)
    assert mail["Subject"] == "[HEARTBEAT] GPU monitoring is alive"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "this mailbox is reached" in part(mail, "plain")
    assert story.mailbox.logins == {(b"gpu-alerts@example.com", b"from a file")}, "the password is read from its file"


def a_host_with_five_sick_gpus_is_one_mail(story: Story) -> None:
    mail = story.mailbox.wait(ONCALL, "sick:")
    subject = mail["Subject"]
    assert subject.startswith("[FIRING:")
    assert mail["Importance"] == "high"
    text = part(mail, "plain")
    assert set(re.findall(r"^\* GPU (\d+): ", text, re.MULTILINE)) == {"0", "1", "2", "3", "4"}
    for number, alert in {0: "XID 48", 1: "lost", 3: "XID 79"}.items():
        assert re.search(rf"GPU [\d, ]*\b{number}[\d, ]* {alert}", subject), subject
    for alert in ("GPULost", "GPUXidCritical", "GPURowRemapFailure", "GPUSramThresholdExceeded"):
        assert f"Alert:     {alert}, critical" in text


def no_warning_while_the_critical_alert_of_the_same_gpu_stands(story: Story) -> None:
    story.mailbox.wait(ONCALL, "sick:")
    warning = wait_for(
        lambda: [
            alert
            for alert in story.alertmanager.alerts()
            if alert["labels"]["alertname"] == "GPUXidWarning" and alert["labels"]["alias"] == "sick"
        ]
    )
    assert [alert["labels"]["gpu"] for alert in warning] == ["0"], "it fires"
    assert warning[0]["status"]["state"] == "suppressed"
    # That it was not mailed: the last check.


def the_overheating_mail(story: Story) -> None:
    mail = story.mailbox.wait(TEAM, "overheating")
    assert mail["Subject"] == f"[FIRING:1] {HOT}: GPU 1 overheating"
    assert mail["From"] == "GPU alerts <gpu-alerts@example.com>"
    assert mail.get_content_type() == "multipart/alternative"
    assert [piece.get_content_type() for piece in mail.iter_parts()] == ["text/plain", "text/html"]
    text, html = part(mail, "plain"), part(mail, "html")
    (uuid,) = {labels["uuid"] for labels, _ in story.prometheus.query('gpu_up{gpu="1"}') if labels["alias"] == HOT}
    for shown in (text, html):
        assert uuid in shown
        assert "NVIDIA H100 80GB HBM3" in shown
        assert "°C" in shown
        assert "docs/runbooks/GPUTemperatureNearSlowdown.md" in shown
        assert "/d/gpu-device?" in shown
        assert "http://alertmanager.test:9093/#/silences/new?filter=%7" in shown
    assert HOT in text
    assert "<b>&#34;" not in html
    assert "hot &lt;b&gt;&#34;&amp;&#34;&lt;/b&gt;" in html


def the_holder_of_an_idle_gpu_is_mailed(story: Story) -> None:
    mail = story.mailbox.wait("alice@example.com")
    assert mail["Subject"] == "1 idle GPU held by alice: please free what you do not need"
    assert ["alice@example.com"] in story.mailbox.recipients, "the envelope says so as well"
    assert "GPU 5" in part(mail, "plain")
    assert "You hold 1 idle GPU" in part(mail, "html")
    digest = story.mailbox.wait(TEAM, "GPU digest")
    assert "GPU 5: alice holds GPU 5" in part(digest, "plain")


def the_mail_that_it_is_over(story: Story) -> None:
    story.mailbox.wait(ONCALL, "[FIRING:1] repaired: GPU 2 lost")
    (story.folder / "repaired/scenario.yaml").write_text(REPAIRED)
    mail = story.mailbox.wait(ONCALL, "[RESOLVED] repaired: GPU 2 lost")
    text = part(mail, "plain")
    assert "RESOLVED (1)" in text
    assert "FIRING" not in text
    assert "Resolved" in part(mail, "html")


def nothing_else_was_mailed(story: Story) -> None:
    """One mail about each thing, none about the healthy host, none about warnings of GPUs in a critical state."""
    subjects = sorted(f"{mail['To']} {mail['Subject']}" for mail in story.mailbox.mails)
    about = [re.sub(r"(sick): .*", r"\1", re.sub(r"FIRING:\d+", "FIRING", line)) for line in subjects]
    assert about == sorted(
        [
            f"{HEARTBEAT} [HEARTBEAT] GPU monitoring is alive",
            f"{ONCALL} [FIRING] sick",
            f"{ONCALL} [FIRING] repaired: GPU 2 lost",
            f"{ONCALL} [RESOLVED] repaired: GPU 2 lost",
            f"{TEAM} [FIRING] {HOT}: GPU 1 overheating",
            f"{TEAM} GPU digest: 1 thing to look at this week",
            "alice@example.com 1 idle GPU held by alice: please free what you do not need",
        ]
    )
    assert not [mail["Subject"] for mail in story.mailbox.mails if "well (" in part(mail, "plain")]


def test_warnings_wait_for_office_hours(tmp_path: Path, release: Release) -> None:
    with Mailbox(password=PASSWORD) as mailbox:
        tree = configuration(tmp_path, smtp_port=mailbox.port, never="office-hours")
        with Alertmanager(tmp_path, tree, release) as alertmanager:
            alertmanager.tell([{"alertname": "GPUFanStopped", "severity": "warning", "instance": "quiet", "gpu": "1"}])
            alertmanager.tell([{"alertname": "DiskFull", "instance": "of another kind"}])
            mailbox.wait(TEAM, "of another kind: disk full")
            # Critical alerts do not wait. When this host's second mail comes, all groups were looked at again.
            alertmanager.tell([{"alertname": "GPULost", "severity": "critical", "instance": "loud", "gpu": "1"}])
            mailbox.wait(ONCALL, "loud: GPU 1 lost")
            alertmanager.tell([{"alertname": "GPULost", "severity": "critical", "instance": "loud", "gpu": "2"}])
            mailbox.wait(ONCALL, "loud: GPU 1, 2 lost")
            assert len(mailbox.mails) == 3


def test_an_exporter_that_is_restarted_heals_nothing(tmp_path: Path, release: Release) -> None:
    """Two machines, each with a lost GPU. One exporter is restarted; the other GPU is repaired, which is told."""
    nodes, ports = tmp_path / "nodes.json", {}

    def start(name: str) -> Exporter:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        (place / "scenario.yaml").write_text(LOST)
        return Exporter(
            place, "--source=fake", "--fake.gpus=4", f"--fake.scenario={place / 'scenario.yaml'}",
            "--collection.interval=500ms", "--collection.timeout=500ms", "--no-processes.enabled",
        )  # fmt: skip

    def scrape(name: str, exporter: Exporter) -> None:
        ports[name] = exporter.port
        listed = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": each, "alias": each}}
            for each, port in ports.items()
        ]
        (tmp_path / "nodes.new").write_text(json.dumps(listed))
        (tmp_path / "nodes.new").replace(nodes)

    with ExitStack() as stack:
        mailbox = stack.enter_context(Mailbox(password=PASSWORD))
        alertmanager = stack.enter_context(
            Alertmanager(tmp_path, configuration(tmp_path, smtp_port=mailbox.port), release)
        )
        steady, repaired = start("steady"), stack.enter_context(start("repaired"))
        with steady:
            scrape("steady", steady)
            scrape("repaired", repaired)
            (tmp_path / "rules").mkdir()
            deploy_rules(tmp_path / "rules")
            text = PROMETHEUS.format(rules=tmp_path / "rules", alertmanager=alertmanager.port, targets="[]")
            text += f"    file_sd_configs: [{{files: ['{nodes}']}}]\n"
            prometheus = stack.enter_context(Prometheus(tmp_path, text, release))
            for name in ports:
                mailbox.wait(ONCALL, f"{name}: GPU 2 lost")
        wait_for(lambda: not prometheus.query('up{instance="steady"} == 1'), "the scrape fails")
        again = stack.enter_context(start("steady"))
        scrape("steady", again)
        wait_for(lambda: prometheus.number('gpu_up{instance="steady",gpu="2"}') == 0, "it is read again")
        (tmp_path / "repaired/scenario.yaml").write_text(REPAIRED)
        mailbox.wait(ONCALL, "[RESOLVED] repaired: GPU 2 lost")
        mails = [mail for mail in mailbox.mails if mail["To"] == ONCALL]
        told = [str(mail["Subject"]) for mail in mails]
        assert [subject for subject in told if "RESOLVED" in subject] == ["[RESOLVED] repaired: GPU 2 lost"]
        threads = {name: {mail["References"] for mail in mails if f"{name}:" in mail["Subject"]} for name in ports}
        assert [len(found) for found in threads.values()] == [1, 1], "one thread a machine"
        assert threads["steady"] != threads["repaired"]


def test_an_exporter_that_was_down_is_not_well_because_its_target_is_gone(tmp_path: Path, release: Release) -> None:
    """What ends while something silences it is not told, neither then nor later."""
    gone = {"severity": "critical", "instance": "gone:9435", "alias": "gone"}
    with Mailbox(password=PASSWORD) as mailbox:
        tree = configuration(tmp_path, smtp_port=mailbox.port)
        with Alertmanager(tmp_path, tree, release) as alertmanager:
            alertmanager.tell([{"alertname": "GPUExporterDown", **gone}])
            mailbox.wait(ONCALL, "[FIRING:1] gone: GPU exporter down")
            alertmanager.tell([{"alertname": "GPUHostVanished", **gone}])
            mailbox.wait(ONCALL, "[FIRING:1] gone: GPU host vanished")
            alertmanager.tell([{"alertname": "GPUExporterDown", **gone}], resolved=True)
            # Of the same group: when this is mailed, the end of the other was looked at.
            alertmanager.tell([{"alertname": "DiskFull", **gone, "bundle": ""}])
            mailbox.wait(ONCALL, "[FIRING:2] gone: GPU host vanished; disk full")
            assert not [mail for mail in mailbox.mails if "RESOLVED" in part(mail, "plain")]


@pytest.mark.parametrize("kind", ["slack", "telegram", "webhook"])
def test_the_examples_of_other_ways_are_taken(kind: str, tmp_path: Path, release: Release) -> None:
    found = [text for text in blocks("yaml") if f"{kind}_configs" in text]
    assert found
    for text in found:
        tree = configuration(tmp_path, smtp_port=1)
        tree["receivers"][0] |= yaml.safe_load(text)
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(tree))
        done = amtool("check-config", str(tmp_path / "alertmanager.yml"), release=release)
        assert done.returncode == 0, done.stdout + done.stderr


def blocks(language: str) -> list[str]:
    """The examples of docs/MAIL.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_that_takes_back_idle_gpus(tmp_path: Path, release: Release) -> None:
    (receiver,) = blocks("python")
    (webhook,) = (text for text in blocks("yaml") if "url: http://127.0.0.1:8080/\n" in text)
    assert len(receiver.splitlines()) <= 25
    (tmp_path / "reclaim.py").write_text(receiver)
    port = free_port()
    added = yaml.safe_load(webhook)
    replaced(added, ("webhook_configs", 0, "url"), f"http://127.0.0.1:{port}/")
    alert = {
        "alertname": "GPUIdleHeld",
        "severity": "info",
        "instance": "10.0.0.7:9435",
        "alias": "gpu-node-7",
        "gpu": "3",
        "uuid": "GPU-7b8b",
        "model": "H100",
        "owner_kind": "pod",
        "owner": "notebook-0",
        "namespace": "vision",
    }
    printed = tmp_path / "printed"

    def lines() -> list[dict[str, str]]:
        return [json.loads(line) for line in printed.read_text().splitlines() if line.endswith("}")]

    with ExitStack() as stack:
        mailbox = stack.enter_context(Mailbox(password=PASSWORD))
        reclaim = stack.enter_context(Program([sys.executable, "reclaim.py", str(port)], printed, cwd=tmp_path))
        tree = configuration(tmp_path, smtp_port=mailbox.port, holders=True)
        (owner,) = (receiver for receiver in tree["receivers"] if receiver["name"] == "owner")
        owner.update(added)
        alertmanager = stack.enter_context(Alertmanager(tmp_path, tree, release))
        alertmanager.tell([alert], annotations={"score": "0.031"})
        first = wait_for(lines, reclaim.log)[0]
        since = first.pop("since")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", since)
        assert first == {
            **{name: alert[name] for name in ("gpu", "uuid", "owner_kind", "owner", "namespace")},
            "pod": "notebook-0",
            "host": "gpu-node-7",
            "state": "idle_held",
            "score": "0.031",
        }
        assert mailbox.wait("gpu-team@example.com", "held by notebook-0"), "the mail comes as before"
        alertmanager.tell([alert], resolved=True)
        wait_for(lambda: len(lines()) == 2, lines)
        assert lines()[1]["state"] == "released"
        reclaim.check()


def test_the_page_shows_the_lines_that_are_deployed() -> None:
    (smtp,) = (text for text in blocks("yaml") if "smtp_smarthost" in text)
    assert len(smtp.splitlines()) == 3, "the promise of the README"
    assert smtp in CONFIGURATION.read_text()
