"""A real Alertmanager and a real SMTP server; and what is deployed, with short times and local addresses for them."""

from __future__ import annotations

import copy
import email
import email.policy
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from harness import ROOT, Release, program, wait_for

DEPLOYED = ROOT / "deploy/alertmanager"
CONFIGURATION = DEPLOYED / "alertmanager.yml"
TEMPLATES = DEPLOYED / "templates/*.tmpl"
PASSWORD = "from a file"  # noqa: S105 - the test's own
Labels = Mapping[str, str]
Told = dict[str, Any]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- what is deployed, for a test -----------------------------------------------------------------------------------


def replaced(tree: Any, path: Sequence[str | int], value: object) -> None:
    """Set what is there already: a key that the deployed file does not have is a mistake of the test or of the file."""
    place = tree
    for step in path[:-1]:
        place = place[step]
    place[path[-1]]  # KeyError where it is missing
    place[path[-1]] = value


def configuration(folder: Path, *, smtp_port: int, wait: str = "1s", never: str = "") -> dict[str, Any]:
    """The deployed alertmanager.yml with short waits, a local mail server; time intervals are always or ``never``."""
    tree: dict[str, Any] = copy.deepcopy(yaml.safe_load(CONFIGURATION.read_text()))
    (folder / "smtp-password").write_text(PASSWORD)
    replaced(tree, ("global", "smtp_smarthost"), f"127.0.0.1:{smtp_port}")
    replaced(tree, ("global", "smtp_auth_password_file"), str(folder / "smtp-password"))
    replaced(tree, ("global", "smtp_require_tls"), False)
    replaced(tree, ("templates",), [str(TEMPLATES)])
    for route in [tree["route"], *tree["route"]["routes"]]:
        replaced(route, ("group_wait",), wait)
        replaced(route, ("group_interval",), "2s")
        replaced(route, ("repeat_interval",), "1h")
    assert never in {"", *(interval["name"] for interval in tree["time_intervals"])}
    for interval in tree["time_intervals"]:
        when: dict[str, object] = {"times": [{"start_time": "00:00", "end_time": "24:00"}]}
        if interval["name"] == never:
            when["years"] = ["2001"]
        replaced(interval, ("time_intervals",), [when])
    return tree


# --- the programs ---------------------------------------------------------------------------------------------------


def amtool(*arguments: str, release: Release = "debian") -> subprocess.CompletedProcess[str]:
    command = [program("amtool", release), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def told(labels: Mapping[str, str], annotations: Mapping[str, str] | None = None, *, ended: bool = False) -> Told:
    times = {"startsAt": "2026-11-20T10:23:41Z", "endsAt": "2026-11-20T10:53:41Z"}
    return {
        "status": "resolved" if ended else "firing",
        "labels": dict(labels),
        "annotations": dict(annotations or {}),
        **times,
    }


def render(
    folder: Path, template: str, *alerts: Mapping[str, Any], kind: str = "text", release: Release = "debian"
) -> str:
    """What amtool makes of a named template for a group of alerts."""
    shared = [found["labels"] for found in alerts]
    data = {
        "receiver": "oncall",
        "status": "firing" if any(found["status"] == "firing" for found in alerts) else "resolved",
        "alerts": alerts,
        "groupLabels": {},
        "commonLabels": dict(set.intersection(*(set(labels.items()) for labels in shared))),
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.test:9093",
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps(data))
    done: subprocess.CompletedProcess[str] = amtool(
        "template", "render", f"--template.glob={TEMPLATES}", f"--template.data={folder / 'data.json'}",
        f"--template.type={kind}", f'--template.text={{{{ template "{template}" . }}}}', release=release,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Alertmanager:
    """A real Alertmanager that talks to nobody else; a context manager that stops it."""

    def __init__(self, folder: Path, tree: Mapping[str, Any], release: Release = "debian") -> None:
        file = folder / "alertmanager.yml"
        file.write_text(yaml.safe_dump(dict(tree)))
        self._log = folder / "alertmanager.log"
        self.port = free_port()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("alertmanager", release),
                    f"--config.file={file}",
                    f"--storage.path={folder / 'alertmanager'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--web.external-url=http://alertmanager.test:9093",
                    "--web.route-prefix=/",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(self._ready, self.log)
        except BaseException:
            self.__exit__()
            raise

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            return self._ask("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def __enter__(self) -> Alertmanager:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def tell(self, alerts: Iterable[Labels], *, annotations: Labels | None = None, resolved: bool = False) -> None:
        """Let alerts fire, or end, as Prometheus would."""
        now = time.time()
        times = {"startsAt": now - 60, "endsAt": now - 1 if resolved else now + 600}
        stamps = {name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) for name, when in times.items()}
        body = [{"labels": dict(alert), "annotations": dict(annotations or {}), **stamps} for alert in alerts]
        status, answer = self._ask("POST", "/api/v2/alerts", body)
        assert status == 200, answer

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that stands, with its status."""
        status, answer = self._ask("GET", "/api/v2/alerts")
        assert status == 200, answer
        found: list[dict[str, Any]] = json.loads(answer)
        return found

    def inhibited(self, instance: str) -> set[str]:
        """The instance's alerts that another one silences: their names, with GPU and owner where there is one."""
        return {
            " ".join(alert["labels"][name] for name in ("alertname", "gpu", "owner") if name in alert["labels"])
            for alert in self.alerts()
            if alert["labels"].get("instance") == instance and alert["status"]["inhibitedBy"]
        }


class Mailbox:
    """A real SMTP server that wants a login and keeps what it gets; a context manager that stops it."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.logins: set[tuple[bytes, bytes]] = set()
        self.port = free_port()
        self._until = time.monotonic() + 50
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self._login,
            auth_require_tls=False,
            auth_exclude_mechanism=["LOGIN"],  # Alertmanager does not understand how aiosmtpd asks for the name
        )

    def __enter__(self) -> Mailbox:  # noqa: PYI034 - typing has Self from Python 3.11 on
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.add((data.login, data.password))
        return AuthResult(success=data.password == PASSWORD.encode())

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if not session.authenticated:
            return "530 5.7.0 Authentication required"
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.recipients.append(list(envelope.rcpt_tos))
        self.mails.append(mail)
        return "250 OK"

    def to(self, address: str, about: str = "") -> list[EmailMessage]:
        """The mails to an address, oldest first; only those with the words in the subject."""
        return [mail for mail in list(self.mails) if address in mail["To"] and about in mail["Subject"]]

    def wait(self, address: str, about: str = "") -> EmailMessage:
        """The first such mail, as soon as it is there. Nothing is waited for longer than 50 s after the start."""
        subjects = lambda: [f"{mail['To']}: {mail['Subject']}" for mail in self.mails]  # noqa: E731
        return wait_for(lambda: self.to(address, about), subjects, max(1.0, self._until - time.monotonic()))[0]


def part(mail: EmailMessage, subtype: str) -> str:
    """The text of the ``plain`` or the ``html`` part."""
    found = mail.get_body((subtype,))
    assert found is not None, f"{mail['Subject']} has no {subtype} part"
    text: str = found.get_content()
    return text.replace("\r\n", "\n")


# --- the rules ------------------------------------------------------------------------------------------------------


def deploy_rules(folder: Path) -> None:
    """The deployed rule files with every second an evaluation, and less patience: 1m is 1 s, 1h is 10 s.

    Simulated GPUs heat up as slowly as real ones, so the alert on heat gets a margin that is reached within seconds.
    What fires before Prometheus has found its Alertmanager, 5 s, is told only a minute later: Watchdog waits for that.
    """
    sources = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    assert sources
    for source in sources:
        if source.name == "alerts-optional.yml":  # not loaded by the deployed prometheus.yml either
            continue
        tree = yaml.safe_load(source.read_text())
        for group in tree["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                for patience in {"for", "keep_firing_for"} & set(rule):
                    number, unit = int(rule[patience][:-1]), rule[patience][-1]
                    rule[patience] = f"{number * {'s': 0, 'm': 1, 'h': 10}[unit]}s"
                if rule.get("alert") == "Watchdog":
                    rule["for"] = "12s"
                if rule.get("alert") == "GPUTemperatureNearSlowdown":
                    shorter = rule["expr"].replace("gpu_temperature_celsius <= 5", "gpu_temperature_celsius <= 22")
                    assert shorter != rule["expr"], "the rule has changed"
                    rule["expr"] = shorter
        (folder / source.name).write_text(yaml.safe_dump(tree))
