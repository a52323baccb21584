"""Plays the story: three exporters, Prometheus and Alertmanager with what deploy/ has, a real mailbox.

``pace`` is how many times faster than the clock the story goes. At 1 the files of deploy/ are used as they stand, but
for addresses and the login of the mail server. At more, every duration in them is that much shorter, windows of
expressions as well.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import yaml
from tools.bad_day.story import FAULTS, GPUS, MACHINES, MINUTES, MODEL, RESTART_SECONDS, RESTARTS, scenario
from tools.lab import LOOPBACK, ROOT
from tools.lab.alertmanager import Alertmanager
from tools.lab.exporter import command, environment
from tools.lab.mailbox import Mailbox, part
from tools.lab.ports import free_port
from tools.lab.programs import Program, Release, program
from tools.lab.victoria import VictoriaMetrics
from tools.lab.wait import wait_for
from tools.lab.web import answers, ask

Engine = Literal["prometheus", "vmalert"]
DEPLOY = ROOT / "deploy"
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?<=[\[: ])(\d+)(ms|[smhdw])(?=[\]:) \n]|$)")
# Ages that rules tell in seconds.
_SECONDS = re.compile(r"(instance(?:_gpu)?:gpu_(?:xid|event|nvswitch_sxid)_age_seconds:\w+(?:\{[^}]*\})?\s*< )(\d+)")
_LEAST = 0.5  # seconds between two readings of an exporter
_QUIET = 1.5  # minutes before the story, in which all is well


@dataclass(frozen=True)
class Told:
    """An alert in a mail."""

    alert: str
    gpu: int | None
    over: bool


@dataclass(frozen=True)
class Letter:
    """A mail, and the minute of the story in which it came."""

    minute: float
    mail: EmailMessage

    @property
    def to(self) -> str:
        """The address."""
        return str(self.mail["To"])

    @property
    def subject(self) -> str:
        """As it stands in the list of a mailbox."""
        return str(self.mail["Subject"])

    @property
    def machine(self) -> str:
        """Which machine it is about; empty where it is about none."""
        found = re.match(r"\[[^\]]+\] (gpu-\w+): ", self.subject)
        return found[1] if found else ""

    def told(self) -> frozenset[Told]:
        """The alerts that it tells one by one."""
        text = part(self.mail, "plain")
        firing, _, over = re.sub(r"\nEXPIRED \(", "\nRESOLVED (", text).partition("\nRESOLVED (")
        blocks = re.findall(r"^\* (?:GPU (\d+): )?.*?^  Alert: +(\w+),", firing, re.MULTILINE | re.DOTALL)
        ended = re.findall(r"^\* (?:GPU (\d+): )?.*\n  (\w+), \S+: from", over, re.MULTILINE)
        return frozenset(
            Told(name, int(gpu) if gpu else None, over)
            for found, over in ((blocks, False), (ended, True))
            for gpu, name in found
        )


def shorter(text: str, pace: float) -> str:
    """A file of deploy/ with all of its durations divided by the pace."""
    if pace == 1:
        return text

    def divided(found: re.Match[str]) -> str:
        return f"{max(1, round(1000 * int(found[1]) * _UNITS[found[2]] / pace))}ms"

    faster = _DURATION.sub(divided, text)
    return _SECONDS.sub(lambda found: f"{found[1]}{float(found[2]) / pace:g}", faster)


class Day:
    """The story while it is told."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        *,
        pace: float,
        release: Release = "debian",
        engine: Engine = "prometheus",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder, self._pace, self._say = folder, pace, say
        self._ports = {machine: free_port() for machine in MACHINES}
        self._running: dict[str, Program] = {}
        self.began = 0.0  # Unix time
        self._watched: list[Program] = []
        self.letters: list[Letter] = []
        stack.callback(self._stop)
        self._mailbox = stack.enter_context(Mailbox())
        alertmanager = stack.enter_context(Alertmanager(folder, self._routes(), release))
        for machine in MACHINES:
            (folder / machine).mkdir()
            (folder / machine / "story.yml").write_text("events: []\n")
            self._start(machine)
        configuration = self._configuration(alertmanager.port)
        start = self._with_prometheus if engine == "prometheus" else self._with_vmalert
        start(stack, configuration, alertmanager.port, release)

    def _with_prometheus(self, stack: ExitStack, configuration: Path, alertmanager: int, release: Release) -> None:
        port = free_port()
        prometheus = Program(
            [
                *(program("prometheus", release), f"--config.file={configuration}"),
                *(f"--storage.tsdb.path={self._folder / 'tsdb'}", f"--web.listen-address={LOOPBACK}:{port}"),
                # As in compose.yaml.
                *(f"--rules.alert.resend-delay={self._shorter('2m')}", "--log.level=warn"),
                f"--rules.alert.for-grace-period={self._shorter('1m')}",
            ],
            self._folder / "prometheus.log",
        )
        self._watched.append(stack.enter_context(prometheus))
        wait_for(lambda: answers(port, "/-/ready"), prometheus.log)
        wait_for(lambda: json.loads(ask(port, "/api/v1/alertmanagers").text)["data"]["activeAlertmanagers"])

    def _with_vmalert(self, stack: ExitStack, configuration: Path, alertmanager: int, release: Release) -> None:
        """VictoriaMetrics scrapes, vmalert evaluates: the options that docs/MAIL.md names, and shorter waits."""
        tree = yaml.safe_load(configuration.read_text())
        store = {"global": {"scrape_interval": tree["global"]["scrape_interval"]}}
        victoria = VictoriaMetrics(self._folder, yaml.safe_dump({**store, "scrape_configs": tree["scrape_configs"]}))
        self._watched.append(stack.enter_context(victoria))
        port = free_port()
        urls = [f"-{which}.url={victoria.url}" for which in ("datasource", "remoteWrite", "remoteRead")]
        vmalert = Program(
            [
                *(
                    program("vmalert", "shipped"),
                    f"-rule={self._folder}/rules/*.yml",
                    f"-httpListenAddr={LOOPBACK}:{port}",
                ),
                *(*urls, f"-notifier.url=http://{LOOPBACK}:{alertmanager}"),
                f"-evaluationInterval={tree['global']['evaluation_interval']}",
                *(f"-datasource.queryStep={self._shorter('5m')}", "-remoteWrite.flushInterval=100ms"),
                *(f"-rule.resendDelay={self._shorter('2m')}", f"-rule.evalDelay={self._shorter('30s')}"),
            ],
            self._folder / "vmalert.log",
        )
        self._watched.append(stack.enter_context(vmalert))
        wait_for(lambda: answers(port, "/health"), vmalert.log)

    def _shorter(self, duration: str) -> str:
        return shorter(f" {duration}", self._pace).strip()

    def play(self) -> None:
        """All of it."""
        acts: list[tuple[float, Callable[[], None]]] = [
            (minute + seconds / 60, act)
            for machine, minutes in RESTARTS.items()
            for minute in minutes
            for seconds, act in (
                (0.0, lambda machine=machine: self._end(machine, "is restarted")),
                (RESTART_SECONDS, lambda machine=machine: self._begin(machine)),
            )
        ]
        for fault in FAULTS:
            if not fault.events and fault.until is not None:
                acts.append((fault.at, lambda machine=fault.machine: self._kill(machine)))  # type: ignore[misc]
                acts.append((fault.until, lambda machine=fault.machine: self._begin(machine)))  # type: ignore[misc]
            what = fault.what if fault.machine in fault.what else f"{fault.machine}: {fault.what}"
            acts.append((fault.at, lambda what=what: self._tell(f"! {what}")))  # type: ignore[misc]
        time.sleep(60 * _QUIET / self._pace)
        self.began = time.time()
        for machine in MACHINES:
            self._write(machine)
        for minute, act in sorted(acts, key=lambda each: each[0]):
            self._until(minute)
            act()
        self._until(MINUTES)

    @property
    def minute(self) -> float:
        """Of the story."""
        return (time.time() - self.began) * self._pace / 60

    def _until(self, minute: float) -> None:
        while self.minute < minute:
            time.sleep(min(0.1, max(0.0, (minute - self.minute) * 60 / self._pace)))
            self._read()
            for each in self._watched:
                each.check()

    def _read(self) -> None:
        for mail in self._mailbox.new():
            self.letters.append(Letter(self.minute, mail))
            self._tell(f"  mail to {mail['To']}: {mail['Subject']}")

    def _tell(self, what: str) -> None:
        self._say(f"{clock(self.minute)}  {what}")

    # --- exporters ----------------------------------------------------------------------------------------------

    def _start(self, machine: str) -> None:
        interval, timeout = (max(_LEAST, 5 / self._pace), max(0.6 * _LEAST, 3 / self._pace))
        self._running[machine] = Program(
            [
                *(*command(), "--source=fake", f"--fake.model={MODEL}", f"--fake.gpus={GPUS}"),
                *(f"--fake.seed={MACHINES.index(machine)}", f"--web.listen-address={LOOPBACK}:{self._ports[machine]}"),
                *(f"--collection.interval={round(1000 * interval)}ms", f"--fake.scenario={self._story(machine)}"),
                *(f"--collection.timeout={round(1000 * timeout)}ms", "--log.level=error"),
            ],
            self._folder / machine / "exporter.log",
            env=environment(),
        )

    def _story(self, machine: str) -> Path:
        return self._folder / machine / "story.yml"

    def _write(self, machine: str) -> None:
        self._story(machine).write_text(yaml.safe_dump(dict(scenario(machine, self.minute, self._pace))))

    def _begin(self, machine: str) -> None:
        self._tell(f"! the exporter of {machine} is there again")
        self._write(machine)
        self._start(machine)

    def _end(self, machine: str, what: str) -> None:
        self._tell(f"! the exporter of {machine} {what}")
        self._running.pop(machine).stop()

    def _kill(self, machine: str) -> None:
        self._running[machine].process.send_signal(signal.SIGKILL)
        self._running.pop(machine).process.wait()

    def _stop(self) -> None:
        for running in self._running.values():
            running.stop()

    # --- what is deployed -----------------------------------------------------------------------------------------

    def _configuration(self, alertmanager: int) -> Path:
        nodes = self._folder / "nodes.json"
        nodes.write_text(
            json.dumps(
                [
                    {"targets": [f"{LOOPBACK}:{port}"], "labels": {"alias": machine, "instance": f"{machine}:9435"}}
                    for machine, port in self._ports.items()
                ]
            )
        )
        tree = yaml.safe_load(shorter((DEPLOY / "prometheus/prometheus.yml").read_text(), self._pace))
        rules = self._folder / "rules"
        rules.mkdir()
        for name in tree["rule_files"]:
            text = (DEPLOY / "prometheus" / name).read_text()
            (rules / Path(name).name).write_text(shorter(text, self._pace))
        tree["rule_files"] = [f"{rules}/*.yml"]
        tree["global"].pop("scrape_timeout", None)
        tree["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"{LOOPBACK}:{alertmanager}"]}]}]
        (job,) = (job for job in tree["scrape_configs"] if job["job_name"] == "gpu-exporter")
        job["scrape_timeout"] = tree["global"]["scrape_interval"]
        job["file_sd_configs"] = [{"files": [str(nodes)]}]
        tree["scrape_configs"] = [job]
        file = self._folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(tree))
        return file

    def _routes(self) -> dict[str, Any]:
        tree: dict[str, Any] = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
        for login in ("smtp_auth_username", "smtp_auth_password_file"):
            del tree["global"][login]
        tree["global"] |= {"smtp_smarthost": f"{LOOPBACK}:{self._mailbox.port}", "smtp_require_tls": False}
        tree["global"]["resolve_timeout"] = self._shorter("5m")
        tree["templates"] = [str(DEPLOY / "alertmanager/templates/*.tmpl")]
        for route in (tree["route"], *tree["route"]["routes"]):
            for name in ("group_wait", "group_interval", "repeat_interval"):
                route[name] = self._shorter(route[name])
        return tree


@contextmanager
def day(
    folder: Path,
    *,
    pace: float,
    release: Release = "debian",
    engine: Engine = "prometheus",
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Day]:
    """Everything, started; what stops it all."""
    with ExitStack() as stack:
        yield Day(stack, folder, pace=pace, release=release, engine=engine, say=say)


def latest(letters: Sequence[Letter]) -> dict[tuple[str, str], Letter]:
    """The last mail to each address about each machine: what somebody who opens the mailbox then believes."""
    return {(letter.to, letter.machine): letter for letter in letters if letter.machine}


def clock(minute: float) -> str:
    """A minute of the story as a time."""
    return f"{int(minute) // 60}:{int(minute) % 60:02d}"
