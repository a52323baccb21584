"""Three machines with simulated GPUs, the hub, Prometheus, Alertmanager, a mailbox; a GPU overheats, the mail comes.

usage: python -m tools.demo [--incident FILE] [--until-mail] [--any-ports]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from tools.demo.deployed import Machine, write_alertmanager, write_hub, write_prometheus
from tools.demo.mails import is_about, shown
from tools.demo.programs import DemoError, StoppedError, port, running
from tools.lab import LOOPBACK, ROOT
from tools.lab.mailbox import Mailbox
from tools.lab.programs import EndedError, Program, StuckError, found, program
from tools.lab.wait import NeverCameError

INCIDENT = Path(__file__).with_name("incident.yml")
SICK = "gpu-b"
PATIENCE = 180.0  # seconds that --until-mail waits
_OVER = "over"
_HOTTEST = "topk(1, gpu_temperature_celsius)"


def main() -> int:
    """Start what can be found, tell where it is and what happens, stop it all on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--incident", type=Path, default=INCIDENT, help=f"what happens to {SICK}: docs/SCENARIOS.md")
    parser.add_argument(
        "--until-mail", action="store_true", help=f"stop when a mail about {SICK} has come; status 1 without one"
    )
    parser.add_argument("--any-ports", action="store_true", help="listen on free ports rather than the usual ones")
    wishes = parser.parse_args()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: done.set())
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-exporter-demo-")))
            demo = Demo(stack, folder, done, usual_ports=not wishes.any_ports)
            return demo.play(wishes.incident.resolve(), until_mail=wishes.until_mail)
    except StoppedError:
        return 0
    except (DemoError, EndedError, NeverCameError, StuckError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


@dataclass(frozen=True)
class Mails:
    """Where alerts become mails: the mailbox, and Alertmanager's port, address, and whether it has pages."""

    box: Mailbox
    port: int
    url: str
    pages: bool


class Demo:
    """What runs, in the order in which it was started."""

    def __init__(self, stack: ExitStack, folder: Path, done: threading.Event, *, usual_ports: bool) -> None:
        self._stack = stack
        self._folder = folder
        self._done = done
        self._usual_ports = usual_ports
        self._programs: list[Program] = []
        self._prometheus = ""
        self._hub = ""
        self._states: dict[str, str] = {}  # of alerts, as they were told last
        self._next_look = 0.0

    def play(self, incident: Path, *, until_mail: bool) -> int:
        """Run until Ctrl-C, or the first mail. Raises DemoError and StoppedError."""
        machines = [
            Machine("gpu-a", "h200", 8, 1, self._port(9435, "gpu-a")),
            Machine(SICK, "h100", 8, 2, self._port(9437, SICK)),
            Machine("gpu-c", "l40s", 4, 3, self._port(9438, "gpu-c")),
        ]
        # The hub asks Alertmanager what fires: that one is there before, and told after it.
        mails = self._start_mails()
        self._start_hub(machines, mails)
        if mails is not None:
            self._start_prometheus(machines, mails)
        # The sick one last: its story counts from its start, and by then everybody watches.
        for machine in sorted(machines, key=lambda machine: machine.alias == SICK):
            self._start(machine, incident if machine.alias == SICK else None)
        for machine in machines:
            print(f"{machine.alias:<13} {machine.url}  {machine.gpus} simulated {machine.model.upper()}")
        print(f"\n{SICK} now goes through {_short(incident)}. Ctrl-C stops everything.\n", flush=True)
        if mails is None and until_mail:
            raise DemoError("no mail can come without Prometheus and Alertmanager")
        ended = self._watch(mails.box if mails else None, until_mail=until_mail)
        print("\nstopping", flush=True)
        return ended

    def _port(self, usual: int, what: str) -> int:
        return port(usual if self._usual_ports else 0, what)

    def _start(self, machine: Machine, incident: Path | None) -> None:
        command = [
            str(Path(sys.executable).with_name("gpu-exporter")),
            *("--source=fake", f"--fake.model={machine.model}", f"--fake.gpus={machine.gpus}"),
            *(f"--fake.seed={machine.seed}", f"--web.listen-address={LOOPBACK}:{machine.port}"),
            f"--host.name={machine.alias}",
            *("--collection.interval=1s", "--collection.timeout=1s", "--log.level=warning"),
            *([f"--fake.scenario={incident}"] if incident else []),
        ]
        self._run(machine.alias, command, machine.port, "/readyz")

    def _start_hub(self, machines: list[Machine], mails: Mails | None) -> None:
        """All machines on one page: what to look at first."""
        web = self._port(9436, "the hub")
        nodes, config = write_hub(self._folder, machines)
        command = [
            *(str(Path(sys.executable).with_name("gpu-exporter")), "hub", f"--nodes.file={nodes}"),
            *(f"--hub.config.file={config}", f"--history.path={self._folder / 'history.db'}"),
            *(f"--web.listen-address={LOOPBACK}:{web}", "--log.level=error"),
            *([f"--alertmanager.url={mails.url}"] if mails else []),
            *([] if mails is None or mails.pages else ["--alertmanager.external-url="]),
        ]
        self._run("hub", command, web, "/livez")
        self._hub = f"http://{LOOPBACK}:{web}/"
        print(f"all machines  {self._hub}", flush=True)

    def _run(self, name: str, command: list[str], port: int, page: str) -> None:
        self._programs.append(
            self._stack.enter_context(running(name, command, self._folder, port=port, page=page, done=self._done))
        )

    def _start_mails(self) -> Mails | None:
        """Mailbox and Alertmanager; None where one of the programs that alert is missing."""
        alertmanager = found("alertmanager")
        missing = [name for name in ("prometheus", "alertmanager") if not found(name)]
        if missing or alertmanager is None:
            print(f"not found and not fetched (make said why): {', '.join(missing)}; the exporters run without alerts")
            return None
        smtp = self._port(1025, "the mailbox")
        web = self._port(9093, "Alertmanager")
        box = self._stack.enter_context(Mailbox(smtp))
        url = f"http://{LOOPBACK}:{web}/"
        self._run(
            "alertmanager",
            [
                *(alertmanager, f"--config.file={write_alertmanager(self._folder, smtp=smtp)}"),
                *(f"--storage.path={self._folder / 'alertmanager'}", f"--web.listen-address={LOOPBACK}:{web}"),
                *(f"--web.external-url={url}", "--cluster.listen-address=", "--log.level=warn"),
            ],
            web,
            "/-/ready",
        )
        return Mails(box, web, url, pages=b"does not include" not in _body(url))  # Debian's has none

    def _start_prometheus(self, machines: list[Machine], mails: Mails) -> None:
        """Prometheus with the deployed rules; and how all of it differs from what is deployed."""
        print(f"Alertmanager  {mails.url}")
        if not mails.pages:
            print("              Debian leaves its pages out: Silence in mails leads to none; this silences:")
            print(f"              {_amtool()} --alertmanager.url={mails.url} silence add --comment=demo alias={SICK}")
        web = self._port(9090, "Prometheus")
        self._prometheus = f"http://{LOOPBACK}:{web}/"
        config = write_prometheus(self._folder, machines, port=web, alertmanager=mails.port, hub=self._hub)
        self._run(
            "prometheus",
            [
                *(program("prometheus"), f"--config.file={config}"),
                *(f"--storage.tsdb.path={self._folder / 'prometheus'}", f"--web.listen-address={LOOPBACK}:{web}"),
                f"--web.external-url={self._prometheus}",
                # What fires before Alertmanager was found is told again soon, not after a minute.
                *("--rules.alert.resend-delay=5s", "--log.level=warn"),
            ],
            web,
            "/-/ready",
        )
        # Debian's older release has its pages elsewhere.
        print(f"Prometheus    {self._prometheus}{_answering(self._prometheus, 'alerts', 'classic/alerts')}")
        print(f"              {self._prometheus}graph?g0.expr=gpu_temperature_celsius&g0.tab=0&g0.range_input=5m")
        print("Rules, routes and mails are those of deploy/; what waits for a minute there waits for a second here.")
        print("Mails go to a mailbox in this process, which wants neither a login nor TLS; nobody else is mailed.")
        print("What looks back for five minutes does so here as well: the mail that it is over comes after these.")
        print("Without a Grafana here, the mails' Dashboard is the hub's page of the GPU.")

    def _watch(self, box: Mailbox | None, *, until_mail: bool) -> int:
        """Print what happens. The status: 1 where a mail was to be waited for and did not come."""
        give_up = time.monotonic() + PATIENCE
        while not self._done.wait(0.2):
            for started in self._programs:
                started.check()
            if box is None:
                continue
            self._tell_news()
            for mail in box.new():
                if not is_about(mail, SICK):
                    _say(f"mail to {mail['To']}: {mail['Subject']}")
                    continue
                self._next_look = 0.0
                self._tell_news()  # what the mail is about comes before it
                _say("a mail has come:")
                print(shown(mail), flush=True)
                if until_mail:
                    return 0
            if until_mail and time.monotonic() > give_up:
                print(f"demo: no mail within {PATIENCE:g} s", file=sys.stderr)
                return 1
        return 0

    def _tell_news(self) -> None:
        """New alerts, and from time to time the hottest GPU."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 1.0
        try:
            alerts = self._ask("alerts", {})["alerts"]
            hottest = self._ask("query", {"query": _HOTTEST})["result"] if not self._states else []
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            return  # busy; it is looked at again in a second
        for line in news(self._states, alerts):
            _say(line)
        for sample in hottest:
            labels = sample["metric"]
            _say(f"{labels['alias']} GPU {labels['gpu']} is the hottest, {float(sample['value'][1]):.0f} °C")
            self._next_look = time.monotonic() + 5.0

    def _ask(self, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        url = f"{self._prometheus}api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            data: dict[str, Any] = json.load(answer)["data"]
            return data


def news(told: dict[str, str], alerts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What has changed since ``told``, which follows: alerts that begin, fire, and end. ``alerts`` are Prometheus's."""
    now: dict[str, str] = {}
    for alert in alerts:
        labels = alert["labels"]
        if "alias" not in labels or labels.get("severity") not in {"critical", "warning"}:
            continue
        if (alert["state"] == "pending" and labels["alias"] != SICK) or "owner" in labels:
            continue  # people who hold idle GPUs are no news here
        gpu = f" GPU {labels['gpu']}" if "gpu" in labels else ""
        what = f"{labels['alias']}{gpu}: {labels['alertname']}"
        if now.get(what) != "firing":  # one of several, by another label
            now[what] = alert["state"]
    for what, state in now.items():
        if told.get(what) != state:
            yield f"{what} is {state}"
    for what, state in told.items():
        if what not in now and state != _OVER:
            now[what] = _OVER
            yield f"{what} {'is over' if state == 'firing' else 'passed without firing'}"
    told.update(now)


def _body(url: str) -> bytes:
    """What stands there; nothing where it does not answer with a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the demo's own program
            return bytes(answer.read())
    except (OSError, ValueError):
        return b""


def _amtool() -> str:
    """How a shell in the checkout calls it: by its name where that is known, else by where it was unpacked."""
    path = found("amtool")
    return "amtool" if path is None or which("amtool") else _short(Path(path))


def _answering(base: str, *paths: str) -> str:
    """The first of the paths that has a page; the last where none has."""
    return next((path for path in paths if _body(base + path)), paths[-1])


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
