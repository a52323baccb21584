"""A day of a small fleet, simulated tick by tick: what a Prometheus would keep of it, and what really happened."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.lab.programs import program

TICK = 5
SCRAPE = 30
HOUR = 3600
DAY = 24 * HOUR
LIMIT, TOTAL = 700.0, 80e9
STATES = ("active", "idle_held", "idle_free", "unknown", "down")
Owner = tuple[str, str, str]
Series = dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, float]]]


@dataclass(frozen=True)
class Hold:
    """Owners hold a GPU from ``start`` to ``stop`` (seconds of the day) with so much memory; busy where ``busy``."""

    start: int
    stop: int
    owners: dict[Owner, float]
    busy: Callable[[int], bool] = lambda _: True


@dataclass
class Machine:
    """One exporter. Times are seconds of the day; ``began`` may lie long before it."""

    instance: str
    gpus: list[list[Hold]]
    labels: dict[str, str] = field(default_factory=dict)
    began: int = -2 * HOUR
    scraped: int = -2 * HOUR
    gap: tuple[int, int] = (0, 0)
    restarts: tuple[int, ...] = ()
    away: int = 20  # seconds, at each restart
    relabelled: int | None = None  # from then on every series has one more label
    mig: tuple[int, ...] = ()
    counts: bool = True  # score and energy of owners, which older exporters do not


@dataclass
class Truth:
    """What one holder had within the day: seconds by state, joules, score times scored seconds."""

    states: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    joules: float = 0.0
    score: float = 0.0
    scored: float = 0.0


ALICE, BOB, CI, ERIN, FRANK, GINA = (("user", name, "") for name in ("alice", "bob", "ci", "erin", "frank", "gina"))
CAROL, DAVE = ("slurm", "carol", "4242"), ("slurm", "dave", "77")
TRAINER = ("pod", "trainer-0", "ml")
FLEET = [
    Machine(
        "a:9435",
        [
            [Hold(-2 * HOUR, DAY, {ALICE: 20e9}, lambda t: t // HOUR % 2 == 0)],
            [Hold(5 * HOUR + 720, 8 * HOUR + 2400, {BOB: 60e9})],
            # Jobs as long as each other, each forgotten before the next begins.
            [Hold(t, t + 120, {CI: 10e9}) for t in range(-HOUR + 40, DAY, 2 * HOUR)],
            [Hold(12 * HOUR, 20 * HOUR, {ALICE: 30e9, BOB: 10e9})],
        ],
        restarts=(10 * HOUR + 430, 17 * HOUR + 2000),
    ),
    Machine(
        "b:9435",
        [
            [Hold(12 * HOUR, 18 * HOUR, {CAROL: 70e9}, lambda t: t < 16 * HOUR)],
            [Hold(13 * HOUR + 1800, 21 * HOUR, {DAVE: 5e9}, lambda _: False)],
        ],
        gap=(13 * HOUR, 15 * HOUR),
        counts=False,
    ),
    # Forty hours old when it is first scraped, nine hours into the day.
    Machine(
        "c:9435",
        [[Hold(-31 * HOUR, 22 * HOUR, {TRAINER: 40e9}, lambda t: t % HOUR < 1800)]],
        {"cluster": "west", "alias": "node-c"},
        began=-31 * HOUR,
        scraped=9 * HOUR,
        relabelled=16 * HOUR + 100,
    ),
    # New: scraped ten minutes after it began.
    Machine(
        "d:9435",
        [[Hold(17 * HOUR + 3000, DAY, {ERIN: 50e9})], [Hold(19 * HOUR, 23 * HOUR, {FRANK: 20e9})]],
        began=17 * HOUR + 3000,
        scraped=18 * HOUR,
        mig=(1,),
    ),
    # Without its exporter for three hours: the device's energy counter goes on.
    Machine(
        "e:9435",
        [[Hold(-HOUR, DAY, {GINA: 60e9}, lambda t: not 5 * HOUR < t < 8 * HOUR)]],
        restarts=(6 * HOUR,),
        away=3 * HOUR,
        counts=False,
    ),
]


class Day:
    """The fleet's day that ends at ``end`` (unix seconds): its series, and the truth by GPU and by holder."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.series: Series = defaultdict(list)
        self.holders: dict[tuple[str, int, Owner], Truth] = defaultdict(Truth)
        self.gpus: dict[tuple[str, int], Truth] = defaultdict(Truth)
        for machine in FLEET:
            for index, holds in enumerate(machine.gpus):
                self._live(machine, index, holds)

    def _live(self, machine: Machine, index: int, holds: list[Hold]) -> None:
        joules = 5e6  # the device's own counter outlives its exporter
        sums: dict[tuple[str, ...], float] = {}
        held_at: dict[Owner, int] = {}
        offset = len(machine.instance) + index
        for now in range(machine.began, DAY + 1, TICK):
            hold = next((hold for hold in holds if hold.start < now <= hold.stop), None)
            busy = hold is not None and hold.busy(now)
            parts = (0.95, 0.4, 0.9) if busy else (0.0, 0.0, 0.12)
            mig = index in machine.mig
            state = "unknown" if mig else "idle_free" if hold is None else "active" if busy else "idle_held"
            if now > machine.began:
                drawn = parts[2] * LIMIT * TICK
                joules += drawn
                if now > 0 and (machine.began >= 0 or now > machine.scraped):
                    self.gpus[machine.instance, index].joules += drawn
            if any(0 <= now - restart < machine.away for restart in machine.restarts):
                sums, held_at = {}, {}  # the new process has begun to count when it is first scraped
                continue
            if now > machine.began:
                self._tick(machine, index, hold, state=state, parts=parts, sums=sums, held_at=held_at, now=now)
            if now % SCRAPE == offset // TICK * TICK % SCRAPE and self._scraped(machine, now):
                self._scrape(machine, index, hold, sums=sums, energy=(joules, parts[2] * LIMIT), now=now)

    def _tick(
        self, machine: Machine, index: int, hold: Hold | None, *, state: str, parts: tuple[float, float, float],
        sums: dict[tuple[str, ...], float], held_at: dict[Owner, int], now: int,
    ) -> None:  # fmt: skip
        utilization, memory_io, power = parts
        counts = now > max(0, machine.scraped if machine.began < 0 else machine.began)
        memory = sum(hold.owners.values()) if hold else 0.0
        score = 0.5 * utilization + 0.2 * memory_io + 0.2 * memory / TOTAL + 0.1 * power
        shares = {owner: held / memory for owner, held in hold.owners.items()} if hold else {}
        told = [(self.gpus[machine.instance, index], 1.0, state)]
        for name in STATES:
            sums.setdefault(("gpu_state_seconds_total", name), 0.0)
        sums["gpu_state_seconds_total", state] += TICK
        for owner, share in shares.items():
            held_at[owner] = now
            for name in ("active", "idle_held"):
                sums.setdefault(("gpu_owner_seconds_total", *owner, name), 0.0)
            key = ("gpu_owner_seconds_total", *owner, state)
            sums[key] = sums.get(key, 0.0) + TICK * share
            if machine.counts:
                drawn: tuple[str, ...] = ("gpu_owner_energy_joules_total", *owner)
                sums[drawn] = sums.get(drawn, 0.0) + power * LIMIT * TICK * share
                if index not in machine.mig:
                    scored: tuple[str, ...] = ("gpu_owner_score_seconds_total", *owner)
                    sums[scored] = sums.get(scored, 0.0) + score * TICK * share
            told.append((self.holders[machine.instance, index, owner], share, state))
        if index not in machine.mig:
            for name, part in (
                ("gpu_busy_seconds_total", utilization),
                ("gpu_memory_io_busy_seconds_total", memory_io),
            ):
                sums[name,] = sums.get((name,), 0.0) + part * TICK
            if machine.counts:
                sums["gpu_score_seconds_total",] = sums.get(("gpu_score_seconds_total",), 0.0) + score * TICK
        for owner in [owner for owner, at in held_at.items() if now - at > HOUR]:
            del held_at[owner]
            for row in [row for row in sums if row[1:4] == owner]:
                del sums[row]
        if counts:
            for truth, share, name in told:
                truth.states[name] += TICK * share
                if truth is not self.gpus[machine.instance, index]:
                    truth.joules += power * LIMIT * TICK * share
                if index not in machine.mig:
                    truth.score += score * TICK * share
                    truth.scored += TICK * share

    def _scraped(self, machine: Machine, now: int) -> bool:
        return now >= machine.scraped and not machine.gap[0] <= now < machine.gap[1]

    def _scrape(
        self, machine: Machine, index: int, hold: Hold | None, *, sums: dict[tuple[str, ...], float],
        energy: tuple[float, float], now: int,
    ) -> None:  # fmt: skip
        labels = {"job": "gpu-exporter", "instance": machine.instance, "gpu": str(index), "model": "NVIDIA H100",
                  "uuid": f"GPU-{machine.instance[0]}{index}", **machine.labels}  # fmt: skip
        if machine.relabelled is not None and now >= machine.relabelled:
            labels["exporter_pod"] = "new"

        def keep(name: str, value: float, **more: str) -> None:
            key = (name, tuple({**labels, **more}.items()))
            self.series[key].append((self.end - DAY + now, value))

        for key, value in sums.items():
            if key[0] == "gpu_owner_seconds_total":
                _, kind, owner, namespace, state = key
                keep(key[0], value, owner_kind=kind, owner=owner, namespace=namespace, state=state)
            elif len(key) == 4:
                keep(key[0], value, owner_kind=key[1], owner=key[2], namespace=key[3])
            else:
                keep(key[0], value, **({"state": key[1]} if len(key) == 2 else {}))
        keep("gpu_energy_joules_total", energy[0])
        keep("gpu_power_watts", energy[1])
        keep("gpu_memory_used_bytes", sum(hold.owners.values()) if hold else 0.0)
        keep("gpu_memory_total_bytes", TOTAL)
        keep("gpu_power_limit_watts", LIMIT)

    def lines(self, *, times_of: int = 1) -> Iterator[str]:
        """OpenMetrics, with times in seconds; VictoriaMetrics takes the same with milliseconds (1000)."""
        last = ""
        for (name, labels), points in sorted(self.series.items()):
            if name != last:
                kind = "counter" if name.endswith("_total") else "gauge"
                yield f"# TYPE {name.removesuffix('_total')} {kind}\n"
                last = name
            shown = ",".join(f'{label}="{value}"' for label, value in labels if value)
            for at, value in points:
                yield f"{name}{{{shown}}} {value:.6g} {at * times_of}\n"
        yield "# EOF\n"

    def store(self, folder: Path) -> None:
        """Write the series as blocks of a Prometheus database into ``folder``/tsdb."""
        file = folder / "day.om"
        with file.open("w") as text:
            text.writelines(self.lines())
        subprocess.run(
            [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", file, folder / "tsdb"],
            check=True, capture_output=True,
        )  # fmt: skip
        file.unlink()
