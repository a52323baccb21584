"""``make demo`` as somebody who tries it: a mail in the terminal, and nothing left behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.demo import __main__ as demo
from tools.demo import deployed
from tools.demo.__main__ import news
from tools.lab import ROOT, programs
from tools.lab.exporter import environment
from tools.lab.programs import Program, program
from tools.lab.wait import patience, wait_for
from tools.lab.web import ask

pytestmark = pytest.mark.e2e
# The incident that people see needs 45 s until the mail; this GPU falls off the bus at once.
SHORT = """\
events:
  - {at: 1s, gpu: 3, fault: xid, xid: 79}
  - {at: 1s, gpu: 3, fault: lost}
"""
ANY = "--any-ports"  # the usual ones belong to whoever takes them first
MAIL = r"^To: +gpu-oncall@example\.com\nSubject: \[FIRING:\d\] gpu-b: GPU 3 (XID 79|lost)"


class Demo(Program):
    """One that runs in a session of its own, as in a terminal, with all its files in a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        for name in ("prometheus", "alertmanager"):
            program(name)  # a reason why there is no demo
        self.files = folder / "files"
        self.files.mkdir()
        super().__init__(
            [sys.executable, "-m", "tools.demo", *arguments],
            folder / "demo.log",
            cwd=ROOT,
            env=environment({"TMPDIR": str(self.files), "PYTHONUNBUFFERED": "1"}),
            own_session=True,
        )

    def __enter__(self) -> Demo:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def ended(self) -> int:
        """Its status, once it has ended."""
        return self.process.wait(patience())

    def interrupt(self) -> None:
        """What Ctrl-C does: the signal goes to everything in the terminal's foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def children(self) -> list[str]:
        """Processes that were started by the demo and are still there, known by where they run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    place, line = (entry / "cwd").readlink(), (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if place.is_relative_to(self.files):
                    found.append(line.replace(b"\0", b" ").decode())
        return found

    def left(self) -> list[str]:
        return [*self.children(), *(str(path) for path in self.files.iterdir())]


def test_a_mail_in_the_terminal_and_nothing_left_behind(tmp_path: Path) -> None:
    (tmp_path / "incident.yml").write_text(SHORT)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9435))
        except OSError:
            pass  # taken by somebody else: as good
        else:
            taken.listen()
        with Demo(tmp_path, "--incident", str(tmp_path / "incident.yml"), "--until-mail") as shown:
            assert shown.ended() == 0, shown.log()
    text = shown.log()
    assert re.search(r"^port 9435 is taken: gpu-a listens on \d+$", text, re.MULTILINE), text
    for name in ("gpu-a", "gpu-b", "gpu-c", "Prometheus", "Alertmanager"):
        assert re.search(rf"^{name} +http://127\.0\.0\.1:\d+/", text, re.MULTILINE), name
    assert re.search(r"gpu-b GPU 3: GPU(XidCritical|Lost) is firing", text), text
    assert re.search(MAIL, text, re.MULTILINE), text
    assert "GPU 3 (NVIDIA H100 80GB HBM3) of gpu-b" in text, "the whole mail is shown"
    assert re.search(r"^Mails go to .* neither a login nor TLS", text, re.MULTILINE), "how it differs from deploy/"
    (hub,) = re.findall(r"^all machines +(\S+)$", text, re.MULTILINE)
    assert f"Dashboard: {hub}machines/gpu-b/gpus/3\n" in text
    assert shown.left() == []


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    with Demo(tmp_path, ANY) as shown:
        wait_for(lambda: "Ctrl-C stops everything" in shown.log(), shown.log)
        (first, *_) = re.findall(r"^\S.*?(http://127\.0\.0\.1:(\d+)/)", shown.log(), re.MULTILINE)
        assert f"all machines  {first[0]}" in shown.log(), "the hub is told first"
        wait_for(lambda: ask(int(first[1]), "/api/v1/nodes").text.count('"state":"online"') == 3, shown.log)
        assert '"alerts":[' in ask(int(first[1]), "/api/v1/nodes/gpu-b").text, "the hub shows what fires"
        assert "What fires is not known" not in ask(int(first[1]), "/").text, "and could ask for it"
        machines = re.findall(r"^(gpu-\w) +http://127\.0\.0\.1:(\d+)/", shown.log(), re.MULTILINE)
        assert [name for name, _ in machines] == ["gpu-a", "gpu-b", "gpu-c"]
        for name, port in machines:
            assert f"<h1>{name}</h1>" in ask(int(port), "/").text, "each page is headed by its machine"
        links = re.findall(r"^(?:\w+ +| +)http://127\.0\.0\.1:(\d+)(/\S*)", shown.log(), re.MULTILINE)
        assert {(port, path): ask(int(port), path).status for port, path in links if path.endswith("alerts")} == {
            (port, path): 200 for port, path in links if path.endswith("alerts")
        }, "every release has its page of alerts, and it is that one which is named"
        assert any(path.endswith("alerts") for _, path in links)
        for silence in re.findall(r"^ +(\S*amtool .*)$", shown.log(), re.MULTILINE):
            done = subprocess.run(shlex.split(silence), cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        (manager,) = re.findall(r"^Alertmanager +http://127\.0\.0\.1:(\d+)/", shown.log(), re.MULTILINE)
        told = '"value":"gpu-b"' in ask(int(manager), "/api/v2/silences").text
        assert told == ("does not include" in ask(int(manager), "/").text), "without pages, a command that silences"
        assert told == any("--alertmanager.external-url= " in line for line in shown.children()), "nor links to them"
        assert len(shown.children()) == 6, "the hub, three exporters, Prometheus, Alertmanager"
        shown.interrupt()
        assert shown.ended() == 0, shown.log()
    assert "Traceback" not in shown.log()
    assert shown.left() == []


def test_ctrl_c_in_the_middle_of_the_start(tmp_path: Path) -> None:
    with Demo(tmp_path, ANY) as shown:
        wait_for(shown.children, shown.log)
        shown.interrupt()
        assert shown.ended() == 0, shown.log()
    assert "Traceback" not in shown.log()
    assert shown.left() == []


def test_a_program_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "incident.yml").write_text("events: [{at: 1s, gpu: 99, fault: lost}]")
    with Demo(tmp_path, "--incident", str(tmp_path / "incident.yml"), ANY) as shown:
        assert shown.ended() == 1
    assert re.search(r"^demo: gpu-b ended with status 2; its log:\n.*events\[0\]\.gpu: '99'", shown.log(), re.MULTILINE)
    assert "Traceback" not in shown.log()
    assert shown.left() == []


@pytest.mark.slow
def test_the_incident_that_make_demo_plays(tmp_path: Path) -> None:
    with Demo(tmp_path, ANY) as shown:
        wait_for(lambda: "[FIRING:1] gpu-b: GPU 2 overheating" in shown.log(), shown.log, timeout=120)
        (hub,) = re.findall(r"^all machines  http://127\.0\.0\.1:(\d+)/$", shown.log(), re.MULTILINE)
        wait_for(lambda: "GPUTemperatureNearSlowdown" in ask(int(hub), "/").text, shown.log)
        # The rule looks at the hottest of five minutes, and conditions are the deployed ones.
        wait_for(lambda: "[RESOLVED] gpu-b: GPU 2 overheating" in shown.log(), shown.log, timeout=480)
        shown.interrupt()
        assert shown.ended() == 0, shown.log()
    assert shown.left() == []


def test_alerts_begin_and_end_in_the_news() -> None:
    def alert(name: str, state: str, alias: str = "gpu-b", **labels: str) -> dict[str, Any]:
        return {
            "state": state,
            "labels": {"alias": alias, "alertname": name, "severity": "warning", "gpu": "2", **labels},
        }

    told: dict[str, str] = {}
    hot, warmer = alert("GPUHot", "pending"), alert("GPUHotter", "pending")
    assert list(news(told, [hot, warmer])) == ["gpu-b GPU 2: GPUHot is pending", "gpu-b GPU 2: GPUHotter is pending"]
    assert list(news(told, [hot, warmer])) == []
    hot["state"] = "firing"
    others = [alert("GPUHot", "pending", "gpu-a"), alert("GPUIdleHeld", "firing", owner="bob")]
    assert list(news(told, [hot, *others])) == [
        "gpu-b GPU 2: GPUHot is firing",
        "gpu-b GPU 2: GPUHotter passed without firing",
    ]
    assert list(news(told, [])) == ["gpu-b GPU 2: GPUHot is over"]
    assert list(news(told, [])) == []
    assert list(news(told, [hot])) == ["gpu-b GPU 2: GPUHot is firing"]


def test_the_page_of_those_without_a_gpu_takes_no_port_of_the_demo() -> None:
    demos = set(re.findall(r"_port\((\d+),", Path(demo.__file__).read_text()))
    assert {"9435", "9436", "9437", "9438"} <= demos
    page = (ROOT / "docs/START_NO_GPU.md").read_text()
    _, installing, using = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "pip install" in installing
    assert not demos & set(re.findall(r"--web\.listen-address \S*:(\d+)", using))


def test_where_programs_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(programs, "UNPACKED", tmp_path / "unpacked")
    assert programs.found("prometheus") is None
    with pytest.raises(programs.MissingProgramError, match="prometheus is not installed"):
        programs.program("prometheus")
    unpacked = tmp_path / "unpacked/prometheus-alertmanager"
    unpacked.parent.mkdir(parents=True)
    unpacked.touch(0o755)
    assert programs.found("alertmanager") == str(unpacked)
    installed = tmp_path / "bin/alertmanager"
    installed.parent.mkdir()
    installed.touch(0o755)
    assert programs.found("alertmanager") == str(installed)


# --- what is deployed, made shorter -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "shorter"), [("10m", "10s"), ("1h", "60s"), ("24h", "1440s"), ("30s", "1s"), ("1m", "1s")]
)
def test_a_minute_is_a_second(written: str, shorter: str) -> None:
    assert deployed.sooner(written) == shorter


def patient(tree: Any, *keys: str) -> Any:
    """The tree without what says how long to wait."""
    if isinstance(tree, dict):
        return {name: patient(value, *keys) for name, value in tree.items() if name not in keys}
    if isinstance(tree, list):
        return [patient(item, *keys) for item in tree]
    return tree


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


MACHINES = [deployed.Machine("gpu-a", "h200", 8, 1, 4711), deployed.Machine("gpu-b", "h100", 8, 2, 4712)]


def test_the_rules_are_the_deployed_ones_but_for_their_patience(tmp_path: Path) -> None:
    hub = "http://127.0.0.1:9436/"
    file = deployed.write_prometheus(tmp_path, MACHINES, port=9090, alertmanager=9093, hub=hub)
    copies = deployed.write_rules(tmp_path, hub=hub)
    assert {path.name for path in copies} >= {"recording.yml", "alerts-health.yml", "alerts-thermal.yml"}
    waits = ("interval", "for", "keep_firing_for", "dashboard_url")
    for copy in copies:
        original = read(ROOT / "deploy/prometheus/rules" / copy.name)
        assert patient(read(copy), *waits) == patient(original, *waits)
        assert "localhost:3000" not in copy.read_text(), "there is no Grafana"
        assert read(copy) != original or not re.search(r"\b(for|interval):", copy.read_text())
    done = subprocess.run(
        [program("promtool"), "check", "config", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tree = read(file)
    assert "gpu-exporter" in {job["job_name"] for job in tree["scrape_configs"]}
    assert tree["alerting"]["alertmanagers"][0]["static_configs"] == [{"targets": ["127.0.0.1:9093"]}]


def test_routes_and_receivers_are_the_deployed_ones(tmp_path: Path) -> None:
    file = deployed.write_alertmanager(tmp_path, smtp=1025)
    original = read(ROOT / "deploy/alertmanager/alertmanager.yml")
    made = read(file)
    for part in ("route", "inhibit_rules", "receivers"):
        waits = ("group_wait", "group_interval")
        assert patient(made[part], *waits) == patient(original[part], *waits)
    # As the demo says in its own words: its mailbox is another one, without a login and TLS. Nothing else differs.
    assert {name: value for name, value in made["global"].items() if original["global"].get(name) != value} == {
        "smtp_smarthost": "127.0.0.1:1025",
        "smtp_require_tls": False,
    }
    assert original["global"].keys() - made["global"].keys() == {"smtp_auth_username", "smtp_auth_password_file"}
    assert original.keys() == made.keys()
    for part in original.keys() - {"global", "templates", "route"}:
        assert made[part] == original[part]
    done = subprocess.run([program("amtool"), "check-config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
