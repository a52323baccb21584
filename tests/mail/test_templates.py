"""What the templates of deploy/alertmanager make of a few alerts: subjects, both parts, addresses, links."""

from __future__ import annotations

import html
import re
import urllib.parse
from pathlib import Path

import pytest
from tools.lab.programs import Release

from gpu_exporter.sources.fake import FakeFleet
from mail import GPU, HELD, HOST, TEMPLATES, Told, hot, ill, other, render, told, xid


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


@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_no_label_makes_a_line_of_its_own(tmp_path: Path, release: Release, name: str) -> None:
    forged = "x\r\n\n  Owner:     nobody\n* GPU 7: well again"
    names = ("alertname", "alias", "cluster", "instance", "model", "owner", "severity", "uuid", "gpu")
    annotations = dict.fromkeys(("summary", "description", "runbook_url", "dashboard_url"), forged)
    for count in (1, 50):
        alerts = [
            told({**GPU, **dict.fromkeys(names, forged), "number": str(number)}, annotations, ended=ended)
            for number in range(count)
            for ended in ([False, True] if name == "email" else [False])
        ]
        lines = render(tmp_path, f"gpu.{name}.text", *alerts, release=release).splitlines()
        assert not [line for line in lines if re.match(r"\s*(\*|Owner:)\s*(nobody|GPU 7: well)", line)], lines


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
    before, after = "http://localhost:3000/d/gpu-device?", "https://grafana.test/gpu/d/gpu-device?"
    for kind in ("text", "html"):
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


LONG = {"startsAt": "2026-11-20T04:00:00Z", "endsAt": "2026-11-20T10:00:00Z"}
GONE = "gpu-node-7 is not scraped any more (up was 1 before): nobody watches its GPUs."
NOT_LISTED = (
    "GPU 3 (H100) of gpu-node-7 has not answered for a minute: lost. It is not listed any more. Drain the node."
)
FLEET = (
    "12 machines are not watched any more, more than a fifth of all: their exporters do not answer, were taken from "
    "the targets, or cannot read a GPU."
)
MISSING = "gpu-node-7 lists 1 GPUs fewer than within the last 6 hours. Compare nvidia-smi -L with lspci."


def over(alert: str, **labels: str) -> Told:
    """An alert that has ended."""
    return told({"alertname": alert, **labels}, ended=True)


@pytest.mark.parametrize(
    ("ended", "subject", "expired"),
    [
        ([told({"alertname": "GPUHostVanished", **HOST}, {"description": GONE}, ended=True) | LONG],
         "[EXPIRED] gpu-node-7: GPU host vanished", 1),
        ([told({"alertname": "GPUHostVanished", **HOST}, {"description": GONE}, ended=True)],  # it came back
         "[RESOLVED] gpu-node-7: GPU host vanished", 0),
        ([told({"alertname": "GPUMissing", **HOST}, {"description": MISSING}, ended=True) | LONG],
         "[EXPIRED] gpu-node-7: GPU missing", 1),
        ([told({"alertname": "GPUMissing", **HOST}, {"description": MISSING.replace("within the last 6 hours", "set")},
               ended=True) | LONG],
         "[RESOLVED] gpu-node-7: GPU missing", 0),
        ([told({"alertname": "GPULost", **GPU}, {"description": NOT_LISTED}, ended=True) | LONG],
         "[EXPIRED] gpu-node-7: GPU 3 lost", 1),
        ([told({"alertname": "GPULost", **GPU}, {"description": "It does not answer."}, ended=True) | LONG],
         "[RESOLVED] gpu-node-7: GPU 3 lost", 0),
        ([{**xid(3, 79), "status": "resolved"}], "[EXPIRED] gpu-node-7: GPU 3 XID 79", 1),
        ([{**xid(3, 48), "status": "resolved"}, {**hot(4), "status": "resolved"}],
         "[EXPIRED] gpu-node-7: GPU 3 XID 48; GPU 4 overheating", 1),
        ([{**xid(number, 79), "status": "resolved"} for number in range(20)],
         "[EXPIRED] gpu-node-7: GPU " + ", ".join(map(str, range(20))) + " XID 79", 1),
        ([over("GPUEventCritical", event="fatal_poison", **GPU)], "[EXPIRED] gpu-node-7: GPU 3 event critical", 1),
        ([over("GPUEventWarning", event="poison", **GPU)], "[EXPIRED] gpu-node-7: GPU 3 event warning", 1),
        ([over("GPUNVSwitchFatal", sxid="20034", **HOST)], "[EXPIRED] gpu-node-7: GPU NVSwitch fatal", 1),
        ([over("GPUNVSwitchFault", sxid="20012", **HOST)], "[EXPIRED] gpu-node-7: GPU NVSwitch fault", 1),
        ([over("GPUXidRepeatedAcrossOwners", xid="31", **GPU)], "[EXPIRED] gpu-node-7: GPU 3 XID 31", 1),
        ([over("GPUEventSourceLost", source="kernel_log", **HOST) | LONG],
         "[RESOLVED] gpu-node-7: GPU event source lost", 0),
        ([told({"alertname": "GPUFleetUnwatched"}, {"description": FLEET + " 4 are no targets any more."}, ended=True)
          | LONG], "[EXPIRED] GPUs: GPU fleet unwatched", 1),
        ([told({"alertname": "GPUFleetUnwatched"}, {"description": FLEET}, ended=True) | LONG],
         "[RESOLVED] GPUs: GPU fleet unwatched", 0),
    ],
    ids=["gone", "back", "fewer", "as set", "not listed", "listed", "XID", "one of two", "a crowd", "event",
         "milder event", "NVSwitch", "milder NVSwitch", "owners", "source", "fleet gone", "fleet back"],
)  # fmt: skip
def test_what_only_expired_is_no_all_clear(
    tmp_path: Path, release: Release, ended: list[Told], subject: str, expired: int
) -> None:
    """Alertmanager calls resolved what a rule does not tell of any more, for whatever reason."""
    assert render(tmp_path, "gpu.email.subject", *ended, release=release) == subject
    text = render(tmp_path, "gpu.email.text", *ended, release=release)
    page = render(tmp_path, "gpu.email.html", *ended, kind="html", release=release)
    for shown in (text, page):
        assert len(re.findall("Told for (?:six hours|an hour|a day)", shown)) == expired
    assert page.count("&#10003;") == max(0, min(1, len(ended) - expired)) if len(ended) < 12 else "&#10003;" not in page
    if len(ended) == 1 or len(ended) > 12:
        assert bool(re.search(r"^EXPIRED", text, re.MULTILINE)) == bool(expired)


REAL = {"uuid": "GPU-7b8bace7-f031-48d1-9451-c1fcd4f8ad29"}
FAKE = {"uuid": FakeFleet(model="h100", gpus=1, seed=1).devices[0].uuid}


@pytest.mark.parametrize(
    ("alerts", "sentence", "marks"),
    [
        ([hot(3, **REAL), hot(4, **REAL)], "", 0),
        ([hot(3, **FAKE), hot(4, **FAKE), other("GPUExporterDown", **HOST)], "no real GPU is concerned.", 2),
        ([hot(3, **REAL), hot(4, **FAKE)], "some of these GPUs are not real.", 1),
        ([hot(gpu, **FAKE) for gpu in range(20)], "no real GPU is concerned.", 0),
    ],
    ids=["real", "simulated", "both", "a crowd"],
)
def test_simulated_gpus_are_told_to_be(
    tmp_path: Path, release: Release, alerts: list[Told], sentence: str, marks: int
) -> None:
    for name in ("email", "owner", "digest", "chat"):
        for kind in ("text",) if name == "chat" else ("text", "html"):
            text = render(tmp_path, f"gpu.{name}.{kind}", *alerts, kind=kind, release=release)
            told_so = re.findall("SIMULATED DATA: ([^<\n]*)", text)
            assert told_so == ([sentence] if sentence else []), (name, kind)
            mark = {"chat": "", "digest": ". Simulated."}.get(name, " (simulated)")
            assert not mark or len(alerts) > 12 or text.count(mark) == marks, (name, kind)
    ended = [{**found, "status": "resolved"} for found in alerts]
    assert (sentence in render(tmp_path, "gpu.email.text", *ended, release=release)) or not sentence
