"""Writes batches of minutes into the file: each one whole, in one transaction, or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gpu_exporter.history.document import GpuName
from gpu_exporter.history.minutes import Batch, GpuMinute, HostMinute, ProcessRun
from gpu_exporter.history.names import Names
from gpu_exporter.history.rows import MIB, Carry, Row, gpu_row, host_row, owner_rows, owners_of
from gpu_exporter.history.schema import HOUR, MINUTES, hour_key, minute_key
from gpu_exporter.model import Owner

_GPU: Final = (
    "active_s", "idle_held_s", "idle_free_s", "unknown_s", "down_s", "utilization_pct", "utilization_max_pct",
    "memory_io_pct", "memory_mib", "memory_over_mib", "temperature_c", "temperature_over_c", "power_dw", "power_over_w",
    "score_pct", "sm_clock_mhz", "slowed_s", "processes",
)  # fmt: skip
_HOST: Final = ("seconds", "cpu_pct", "cpu_max_pct", "memory_mib", "memory_over_mib", "load_hundredths")
_SUMS: Final = frozenset({"active_s", "idle_held_s", "idle_free_s", "unknown_s", "down_s", "slowed_s", "seconds"})
_HIGHS: Final = frozenset({"utilization_max_pct", "cpu_max_pct", "processes"})
_OBSERVED: Final = "({0}active_s + {0}idle_held_s + {0}idle_free_s + {0}unknown_s)"  # {0} is the row's name
# Two parts of one minute (the recorder was started anew) make one; more than a minute in a minute was a clock that went
# back: then what was there first stays.
_MOST: Final = 61
_MOST_COUNT: Final = 2**62
_DISK_EVERY: Final = 900.0  # seconds between rows of a disk's size


def _merge(columns: Iterable[str], weight: str) -> str:
    """The SET clause that makes one row of two that stand for parts of the same minute."""
    old, new = weight.format("old."), weight.format("excluded.")
    parts = []
    for name in columns:
        mine, other = f"old.{name}", f"excluded.{name}"
        if name in _SUMS:
            together = f"coalesce({mine} + {other}, {mine}, {other})"
        elif name in _HIGHS or "_over_" in name:
            together = f"coalesce(max({mine}, {other}), {mine}, {other})"
        else:
            mean = f"cast(round(({mine} * {old} + {other} * {new}) * 1.0 / nullif({old} + {new}, 0)) AS INTEGER)"
            together = f"coalesce({mean}, {mine}, {other})"
        parts.append(f"{name} = {together}")
    return ", ".join(parts)


_PUT_GPU: Final = (
    f"INSERT INTO gpu_minute AS old (id, owner, {', '.join(_GPU)}) VALUES ({', '.join('?' * (len(_GPU) + 2))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {_merge(_GPU, _OBSERVED)} "
    f"WHERE {_OBSERVED.format('old.')} + old.down_s + {_OBSERVED.format('excluded.')} + excluded.down_s <= {_MOST}"
)
_PUT_HOST: Final = (
    f"INSERT INTO host_minute AS old (id, {', '.join(_HOST)}) VALUES ({', '.join('?' * (len(_HOST) + 1))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {_merge(_HOST, '{0}seconds')} WHERE old.seconds + excluded.seconds <= {_MOST}"
)
_PUT_OWNER: Final = (
    "INSERT INTO gpu_minute_owner AS old (id, owner, active_s, idle_held_s, unknown_s) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (id, owner) DO UPDATE SET active_s = active_s + excluded.active_s, "
    "idle_held_s = idle_held_s + excluded.idle_held_s, unknown_s = unknown_s + excluded.unknown_s"
)


class Store:
    """Puts batches into an open file. Belongs to one thread. Raises sqlite3.Error, and then it wrote nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._names = Names(connection)
        self._carries: dict[GpuName, Carry] = {}
        self._forget()
        newest = connection.execute("SELECT max(id) FROM gpu_minute").fetchone()[0]
        self._hour = 0 if newest is None else int(newest) >> MINUTES.shift
        self._newest = 0 if newest is None else self._last_minute()

    def write(self, batch: Batch) -> None:
        """Write it all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._write(batch)
            self._db.execute("COMMIT")
        except BaseException:
            # What was looked up may not have been written either.
            self._forget()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _write(self, batch: Batch) -> None:
        for host in batch.hosts:
            self._put_host(host)
        latest = self._hour
        for minute in sorted(batch.gpus, key=lambda entry: entry.minute):
            if minute.minute // 60 > latest:
                self._pack(latest)
                latest = minute.minute // 60
            self._put_gpu(minute)
        self._put_processes(batch.processes)
        self._hour = latest
        self._newest = max([self._newest, *(minute.minute for minute in batch.gpus)])

    def _forget(self) -> None:
        self._names.forget()
        self._disks: dict[int, int] = {}
        self._runs: dict[tuple[object, ...], int] = {}

    def _last_minute(self) -> int:
        """The newest minute that has a row."""
        found = self._db.execute(
            "SELECT max(id & 63) FROM gpu_minute WHERE id >= ?", (hour_key(self._hour),)
        ).fetchone()[0]
        return self._hour * 60 + int(found)

    def _pack(self, hour: int) -> None:
        """Write an hour's rows anew, in order: as they came, they leave a tenth of their pages empty (measured)."""
        span = (hour_key(hour), hour_key(hour + 1))
        rows = self._db.execute("SELECT * FROM gpu_minute WHERE id >= ? AND id < ? ORDER BY id", span).fetchall()
        if rows:
            self._db.execute("DELETE FROM gpu_minute WHERE id >= ? AND id < ?", span)
            marks = ", ".join("?" * len(rows[0]))
            self._db.executemany(f"INSERT INTO gpu_minute VALUES ({marks})", rows)  # noqa: S608 - question marks

    # --- minutes ------------------------------------------------------------------------------------------------------

    def _put_gpu(self, minute: GpuMinute) -> None:
        name, seen = minute.sample.name, minute.minute * 60
        carry = self._carries.setdefault(name, Carry())
        gpu = self._names.gpu(minute.sample, seen)
        for (metric, labels), count in minute.rare.items():
            self._db.execute(
                "INSERT INTO event VALUES (?, ?, ?, ?, ?)", (seen, gpu, metric, labels, min(round(count), _MOST_COUNT))
            )
        row = gpu_row(minute, carry)
        if row is None:
            return
        key = minute_key(minute.minute, gpu)
        sole, shares = owners_of(minute)
        owner = None if sole is None else self._names.owner(sole, seen)
        if minute.minute <= self._newest and (before := self._db.execute(
            "SELECT owner, active_s, idle_held_s, unknown_s, idle_free_s, down_s FROM gpu_minute WHERE id = ?", (key,)
        ).fetchone()):  # fmt: skip
            if sum(before[1:]) + sum(value or 0 for value in row[:5]) > _MOST:
                return
            if before[0] != owner:
                owner, shares = None, self._split_owner(key, before, sole, shares, row)
        self._db.execute(_PUT_GPU, (key, owner, *row))
        for who, seconds in owner_rows(shares, carry):
            self._db.execute(_PUT_OWNER, (key, self._names.owner(who, seen), *seconds))

    def _split_owner(
        self, key: int, before: Any, sole: Owner | None, shares: Mapping[Owner, tuple[float, ...]], row: Row
    ) -> Mapping[Owner, tuple[float, ...]]:
        """Of two parts of a minute with different owners: from now on each has a row of its own."""
        if before[0] is not None:
            self._db.execute("UPDATE gpu_minute SET owner = NULL WHERE id = ?", (key,))
            self._db.execute(_PUT_OWNER, (key, *before[:4]))
        if sole is None:
            return shares
        active, idle_held, _, unknown = (float(value or 0) for value in row[:4])
        return {sole: (active, idle_held, unknown)}

    def _put_host(self, minute: HostMinute) -> None:
        seen = minute.minute * 60
        node = self._names.node(minute.node, seen, minute)
        self._db.execute(_PUT_HOST, (minute_key(minute.minute, node), *host_row(minute)))
        for disk in minute.sample.disks:
            known = self._names.disk(node, disk)
            if 0 <= seen - self._disks.get(known, 0) < _DISK_EVERY:
                continue
            key = hour_key(seen // HOUR) | known
            sizes = (round(disk.total / MIB), round(disk.used / MIB))
            self._db.execute("INSERT OR REPLACE INTO disk_hour VALUES (?, ?, ?)", (key, *sizes))
            self._disks[known] = seen

    def _put_processes(self, runs: list[ProcessRun]) -> None:
        for run in runs:
            gpu = self._names.gpu_id(run.name.gpu)
            if gpu is None:  # its GPU has no whole minute yet
                continue
            first, last = int(run.first_seen), int(run.last_seen)
            memory = None if run.memory_max is None else int(run.memory_max)
            key = (gpu, *run.name[1:], first)
            known = self._runs.get(key)
            if known is None:
                known = self._runs[key] = self._begun(gpu, run, first, last)
                if len(self._runs) > 65_536:
                    self._runs = {key: known}
            self._db.execute(
                "UPDATE process SET last_seen = max(last_seen, ?), "
                "memory_max_bytes = coalesce(max(memory_max_bytes, ?), memory_max_bytes, ?) WHERE id = ?",
                (last, memory, memory, known),
            )

    def _begun(self, gpu: int, run: ProcessRun, first: int, last: int) -> int:
        """The row of a process that we see for the first time: of one that was seen before us, the same one goes on."""
        _, pid, kind, mig, *names = run.name
        found = self._db.execute(
            "SELECT id FROM process WHERE last_seen >= ? AND gpu = ? AND pid = ? AND type = ? AND mig_uuid = ? "
            "AND process = ? AND user = ? AND container = ? AND labels = ? ORDER BY last_seen DESC LIMIT 1",
            (first - 600, gpu, pid, kind, mig, *names),
        ).fetchone()
        if found is not None:
            return int(found[0])
        made = self._db.execute(
            "INSERT INTO process (gpu, pid, type, mig_uuid, process, user, container, labels, first_seen, last_seen) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (gpu, pid, kind, mig, *names, first, last),
        )
        return int(made.lastrowid or 0)
