"""The hub over a simulated fleet and machines that lie, while files, disks and clients go wrong."""

from __future__ import annotations

import http.client
import json
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import trustme
from tools.faults.liars import Liar, machine
from tools.lab.exporter import Exporter
from tools.lab.hub import Hub
from tools.lab.wait import patience, wait_for
from tools.lab.web import ask

_LIARS: Final = 4
_GPUS: Final = 16
_INTERVAL: Final = 1.0  # seconds
_GONE: Final = 3.0  # intervals from which on a machine may be called offline
_PEAK_MIB: Final = 200.0  # that the hub may take: each liar's bomb is unpacked up to a bound, then thrown away
_EXIT: Final = 2.0  # seconds
_LOOK: Final = 0.25
_REQUESTS: Final = (b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT", b"\x16\3\1")
_HANDSHAKES: Final = (
    b"",
    b"\x16\3\1",
    b"\x16\3\1\2\0\1\0\1\xfc\3\3" + b"x" * 200,
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x80" * 500,
)
_SCENARIOS: Final = (
    "events: [{at: 0s, gpu: 0, fault: lost}]",
    "events: [{at: 1s, gpu: 3, fault: hang, for: 3s}, {at: 1s, gpu: 4, fault: xid, xid: 79}]",
    "events: [{at: 0s, gpu: 1, fault: overheat, target: 99, for: 1m}]",
    "events: [",
    "a: &a [*a]",
    "x" * 100_000,
    "{}",
)


class Fleet:
    """A simulated machine, machines that lie, and the hub that looks at them all; ``broken`` has what did not hold."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        folder.mkdir()
        self.broken: list[str] = []
        self.looks = 0
        self._chance = chance
        self._scenario = folder / "scenario.yml"
        self._scenario.write_text("{}\n")
        self._nodes = folder / "nodes.json"
        self._clients: list[socket.socket] = []
        self._liars: list[Liar] = [machine(chance.randrange(1000)) for _ in range(_LIARS)]
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "fleet.pem")
        web = folder / "web.yml"
        web.write_text("tls_server_config: {cert_file: fleet.pem, key_file: fleet.pem}\n")
        arguments = (
            f"--web.config.file={web}", "--source=fake", f"--fake.gpus={_GPUS}", f"--fake.scenario={self._scenario}",
            "--collection.interval=1s",
        )  # fmt: skip
        self._exporter = Exporter(folder, *arguments)
        self._list()
        (folder / "hub.yml").write_text(
            "interval: 1s\nhttp_config: {tls_config: {ca_file: ca.pem}}\n"
            f"control: {{url: 'http://127.0.0.1:{self._liars[0].port}/', dry_run: false}}\n"
        )
        self.hub = Hub(folder, self._nodes, f"--history.path={folder / 'gpu.db'}")
        wait_for(self._seen, self.hub.log)
        self._faults: list[Callable[[], None]] = [
            self.scenario, self.list_breaks, self.list_grows, self.disk_full, self.viewers, self.handshakes,
            self.reloads, self.pages,
        ]  # fmt: skip
        self.peak = 0.0  # MiB of RSS
        self._calm = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch fleet", daemon=True)
        self._thread.start()

    def step(self) -> None:
        """One fault."""
        self._chance.choice(self._faults)()

    def end(self) -> None:
        """Everything is well again but the disk and the liars; then the hub is told to stop."""
        self._closing.set()
        self._thread.join()
        self.peak = _peak(self.hub.process.pid)
        if self.peak > _PEAK_MIB:
            self.broken.append(f"the hub took {self.peak:.0f} MiB")
        for client in self._clients[::2]:
            client.close()
        began = time.monotonic()
        for program in (self.hub, self._exporter):
            program.process.send_signal(signal.SIGTERM)
        for program in (self.hub, self._exporter):
            status, took = program.process.wait(patience()), time.monotonic() - began
            if status != 0 or took > max(_EXIT, patience(_EXIT)):
                self.broken.append(f"SIGTERM to {program.name}: status {status} after {took:.1f} s")
            if "Traceback" in program.log():
                self.broken.append(f"the log of {program.name} has a traceback")

    def close(self) -> None:
        """Leave nothing behind."""
        self._closing.set()
        for program in (self.hub, self._exporter):
            program.process.kill()
            program.process.wait()
        for liar in self._liars:
            liar.close()
        for client in self._clients:
            client.close()

    # --- what must hold -----------------------------------------------------------------------------------------------

    def _seen(self) -> bool:
        nodes = json.loads(ask(self.hub.port, "/api/v1/nodes").text)["nodes"]
        return any(node["name"] == "fleet" and node["state"] == "online" for node in nodes)

    def _watch(self) -> None:
        seen = began = time.monotonic()
        while not self._closing.wait(_LOOK):
            # A machine that is busy with others keeps us waiting as it does the hub.
            late, began = max(0.0, time.monotonic() - began - 2 * _LOOK), time.monotonic()
            try:
                if ask(self.hub.port, "/livez").status != 200:
                    self._break("the hub's /livez was not answered with 200")
                online = self._seen()
            except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
                self._break(f"the hub did not answer: {type(error).__name__}: {error}")
                continue
            self.looks += 1
            now = time.monotonic()
            if online:
                seen = now
            elif now - seen - late - (now - began) > _GONE * _INTERVAL:
                self._break(f"the fleet's machine was offline for {now - seen:.1f} s")
                seen = now

    def _break(self, what: str) -> None:
        if len(self.broken) < 20:
            self.broken.append(what)

    # --- faults -------------------------------------------------------------------------------------------------------

    def scenario(self) -> None:
        self._scenario.write_text(self._chance.choice(_SCENARIOS))

    def list_breaks(self) -> None:
        self._nodes.write_text(self._chance.choice(("[", "- targets: [x]\n", "\0" * 1000, "[" * 50_000)))
        self.hub.signal(signal.SIGHUP)

    def list_grows(self) -> None:
        """Machines that are not there, beside those that are."""
        self._list(self._chance.choice((0, 10, 200)))

    def _list(self, more: int = 0) -> None:
        ports = {f"liar{number}": liar.port for number, liar in enumerate(self._liars)}
        groups = [{"targets": [f"127.0.0.1:{port}"], "labels": {"alias": alias}} for alias, port in ports.items()]
        secure = {"alias": "fleet", "__scheme__": "https"}
        groups.append({"targets": [f"127.0.0.1:{self._exporter.port}"], "labels": secure})
        groups += [{"targets": [f"127.0.9.{number % 250}:{9000 + number}"]} for number in range(more)]
        self._nodes.write_text(json.dumps(groups))

    def disk_full(self) -> None:
        """No file of the hub's may grow, its log and its history; or they may again."""
        pid = self.hub.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (self._chance.choice((4096, hard)), hard))

    def handshakes(self) -> None:
        """Half a handshake and garbage, where the simulated machine speaks TLS."""
        self._dial(self._exporter.port, "127.0.0.2", _HANDSHAKES)

    def viewers(self) -> None:
        """Live pages whose viewers read nothing, and half a request."""
        self._dial(self.hub.port, "127.0.0.1", _REQUESTS)

    def _dial(self, port: int, source: str, beginnings: Sequence[bytes]) -> None:
        for _ in range(self._chance.choice((5, 50))):
            with suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))
                self._clients.append(client)
                client.sendall(
                    self._chance.choice((b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /", b"\x16\3"))
                )
        while len(self._clients) > 150:
            self._clients.pop(0).close()

    def reloads(self) -> None:
        for _ in range(20):
            self.hub.signal(signal.SIGHUP)

    def pages(self) -> None:
        for path in ("/", "/metrics", "/api/v1/gpus", "/free", "/api/v1/processes") * 4:
            status = ask(self.hub.port, path).status
            if status != 200:
                self._break(f"the hub answered {path} with {status}")


def _peak(pid: int) -> float:
    """The most RSS that it ever had, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
