"""Faults, one after the other, in an order that the seed decides."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tools.faults.liars import Liar, kubelet
from tools.faults.watch import Watch
from tools.lab.exporter import Exporter
from tools.lab.nvml_stub import Mig, Process, Stub
from tools.lab.wait import wait_for
from tools.lab.web import ask

_CODES: Final = (1, 2, 3, 4, 6, 9, 10, 13, 15, 16, 18, 28, 999)
_GARBAGE: Final = (
    b"", b"GET / HT", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
)  # fmt: skip
_BAD_SETTINGS: Final = (
    "collection: [", "collection: {interval: [a]}", "web: {allow: 7}", "- a", "x" * 300_000, "a: &b [*b]", "",
)  # fmt: skip


class Storm:
    """What goes wrong around one daemon: GPUs of ``sick``, the driver, files, signals and clients."""

    def __init__(
        self,
        exporter: Exporter,
        machine: Stub,
        watch: Watch,
        *,
        chance: random.Random,
        sick: int,
        config: Path,
        jobs: Path,
        kernel_log: Path,
        kubelet: Path,
    ) -> None:
        self._exporter = exporter
        self._machine = machine
        self._watch = watch
        self._chance = chance
        self._sick = sick
        self._config = config
        self._jobs = jobs
        self._kernel_log = kernel_log
        self._kubelet_socket = kubelet
        self._kubelet: Liar | None = None
        self._clients: list[socket.socket] = []
        self._degrees = 40
        self.counts: dict[str, int] = {}
        self._faults: list[Callable[[], None]] = [
            self.hang, self.hang, self.lose, self.code, self.slow, self.recover, self.recover, self.recover, self.mig,
            self.processes, self.xids, self.clock, self.driver_goes, self.pause, self.reloads, self.settings,
            self.jobs_change, self.jobs_vanish, self.kubelet, self.half_open, self.burst, self.flood, self.identity,
            self.no_descriptors, self.no_disk, self.kernel_log_flood,
        ]  # fmt: skip

    def step(self) -> None:
        """One fault, and healthy GPUs that show another temperature."""
        fault = self._chance.choice(self._faults)
        self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
        fault()
        self._warm()

    def end(self) -> None:
        """Everything is well again."""
        with self._machine.batch():
            for gpu in range(self._sick):
                self._machine.recover(gpu)
                self._machine.processes(gpu, [])
            self._machine.fail_init(0)
        self._config.write_text("{}\n")
        if self._kubelet is not None:
            self._kubelet.close()
        for client in self._clients:
            client.close()

    def _warm(self) -> None:
        before, self._degrees = self._degrees, 40 + (self._degrees - 39) % 40
        with self._machine.batch():
            for gpu in range(self._sick, self._machine.count):
                self._watch.replaced.pop((gpu, float(self._degrees)), None)
                self._machine.set(gpu, "temperature", self._degrees)
        for gpu in range(self._sick, self._machine.count):
            self._watch.replaced[gpu, float(before)] = time.time()

    def _gpu(self) -> int:
        return self._chance.randrange(self._sick)

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    def hang(self) -> None:
        self._machine.hang(self._gpu())

    def lose(self) -> None:
        self._machine.lose(self._gpu())

    def code(self) -> None:
        self._machine.error(self._gpu(), self._chance.choice(_CODES))

    def slow(self) -> None:
        self._machine.slow(self._gpu(), self._chance.choice((0.001, 0.005, 0.02)))

    def recover(self) -> None:
        self._machine.recover(self._gpu())

    def identity(self) -> None:
        self._machine.set(self._gpu(), "pci_bus_id", self._chance.choice(("\udcff\udcfe", "0000:0A:00.0", "")) or None)

    def mig(self) -> None:
        gpu = self._gpu()
        if self._chance.random() < 0.5:
            self._machine.mig(gpu, [Mig(f"MIG-{gpu}", "1g.10gb", 1, 0, 2**33, 2**20)])
        else:
            with self._machine.batch():
                self._machine.mig(gpu, [])
                self._machine.set(gpu, "mig_mode", 0)

    def processes(self) -> None:
        count = self._chance.choice((0, 1, 100, 1000))
        self._machine.processes(self._gpu(), [Process(os.getpid() + number, 2**20) for number in range(count)])

    def xids(self) -> None:
        with self._machine.batch():
            for _ in range(self._chance.choice((1, 100))):
                self._machine.xid(self._gpu(), self._chance.choice((13, 31, 48, 79, 94, self._chance.randrange(10**6))))

    def clock(self) -> None:
        self._machine.set_clock(self._chance.choice((-86400.0, -1.0, 1.0, 3600.0)))

    # --- the driver ---------------------------------------------------------------------------------------------------

    def driver_goes(self) -> None:
        """Without calls that hang: beneath them the driver is not shut down, and so never opened anew."""
        with self._machine.batch():
            for gpu in range(self._sick):
                self._machine.recover(gpu)
        wait_for(lambda: self._exporter.value("gpu_exporter_stuck_reads") == 0)
        self._watch.disturbed()
        with self._machine.batch():
            self._machine.fail_driver(9)
            self._machine.fail_init(9)
        time.sleep(self._chance.random())
        wait_for(lambda: self._exporter.value("gpu_up", gpu=self._sick) is None)
        self._machine.fail_init(0)
        self._back()

    def pause(self) -> None:
        self._watch.disturbed()
        self._exporter.signal(signal.SIGUSR1)
        wait_for(lambda: self._exporter.value("gpu_exporter_paused") == 1)
        self._exporter.signal(signal.SIGUSR1)
        wait_for(lambda: self._exporter.value("gpu_exporter_paused") == 0)
        self._back()

    def _back(self) -> None:
        """Wait until healthy GPUs are read again: the driver is opened with backoff."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self._exporter.value("gpu_up", gpu=self._sick) == 1:
                    self._watch.calm()
                    return
            time.sleep(0.05)
        self._watch.broken.append("the driver was back, and not read for 90 s")
        self._watch.calm()

    # --- files and signals --------------------------------------------------------------------------------------------

    def reloads(self) -> None:
        for _ in range(50):
            self._exporter.signal(signal.SIGHUP)

    def settings(self) -> None:
        self._config.write_text(self._chance.choice(_BAD_SETTINGS))
        self._exporter.signal(signal.SIGHUP)

    def jobs_change(self) -> None:
        path = self._jobs / str(self._gpu())
        if not self._jobs.exists():
            return
        if path.exists():
            path.unlink()
        else:
            path.write_text(self._chance.choice(("17 alice\n", "\0", "17 " + "x" * 20_000, "")))

    def jobs_vanish(self) -> None:
        """The directory of Slurm's files goes, or is back."""
        away = self._jobs.with_name("jobs-away")
        if away.exists():
            away.rename(self._jobs)
        else:
            self._jobs.rename(away)

    def kubelet(self) -> None:
        """The kubelet goes, or is back and answers nonsense."""
        if self._kubelet is not None:
            self._kubelet.close()
            self._kubelet_socket.unlink(missing_ok=True)
            self._kubelet = None
        else:
            self._kubelet = kubelet(self._kubelet_socket, self._chance.randrange(1000))

    def kernel_log_flood(self) -> None:
        """Of XIDs and noise; or the file begins anew."""
        lines = [
            f"3,1,{number},-;NVRM: Xid (PCI:0000:1{self._gpu()}:00): {self._chance.randrange(2000)}, pid=1, x\n"
            for number in range(self._chance.choice((10, 5000)))
        ]
        mode = self._chance.choice(("a", "a", "a", "w"))
        with self._kernel_log.open(mode) as file:
            file.write("".join(lines) + self._chance.choice(("", "\0" * 5000 + "\n", "x" * 100_000 + "\n", "3,1,")))

    def no_disk(self) -> None:
        """No file of the exporter's may grow: its log."""
        pid = self._exporter.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        time.sleep(self._chance.random())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    # --- clients ------------------------------------------------------------------------------------------------------

    def half_open(self) -> None:
        for _ in range(self._chance.choice((10, 100))):
            with suppress(OSError):
                client = socket.create_connection(
                    ("127.0.0.1", self._exporter.port), timeout=5, source_address=("127.0.0.2", 0)
                )
                self._clients.append(client)
                client.sendall(self._chance.choice(_GARBAGE))
        while len(self._clients) > 200:
            self._clients.pop(0).close()

    def burst(self) -> None:
        for path in ("/metrics", "/", "/api/v1/gpus", "/api/v1/snapshot") * 25:
            status = ask(self._exporter.port, path).status
            if status != 200:
                self._watch.broken.append(f"{path} was answered with {status}")

    def flood(self) -> None:
        """A thousand scrapes at once, on four connections."""
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
        for _ in range(4):
            with (
                suppress(OSError),
                socket.create_connection(
                    ("127.0.0.1", self._exporter.port), timeout=5, source_address=("127.0.0.3", 0)
                ) as client,
            ):
                client.sendall(request * 250)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 20):
                    pass

    def no_descriptors(self) -> None:
        pid = self._exporter.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, hard))
        time.sleep(self._chance.random())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
