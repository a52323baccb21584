"""Who is who in the file: machines, GPUs, disks and owners by the numbers that rows have for them."""

from __future__ import annotations

import sqlite3

from gpu_exporter.history.document import DiskFacts, GpuName, GpuSample
from gpu_exporter.history.minutes import HostMinute
from gpu_exporter.history.schema import HOUR, SUBJECTS
from gpu_exporter.model import Owner


class Names:
    """Finds numbers, makes them, remembers them until ``forget``. ``seen`` is Unix seconds. Raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.forget()

    def forget(self) -> None:
        """What was made may have been taken back."""
        self._nodes: dict[str, int] = {}
        self._gpus: dict[GpuName, int] = {}
        self._told: dict[int, tuple[object, ...]] = {}
        self._owners: dict[Owner, tuple[int, int]] = {}
        self._disks: dict[tuple[int, str], int] = {}

    def _id(self, select: str, values: tuple[object, ...]) -> int:
        found = int(self._db.execute(select, values).fetchone()[0])
        if found >= SUBJECTS:
            raise sqlite3.OperationalError(f"the file is full: it knows {SUBJECTS - 1} GPUs or disks")
        return found

    def node(self, alias: str, seen: int, host: HostMinute | None = None) -> int:
        """The machine of that alias, made where it is new; ``host`` is what it tells of itself."""
        known = self._nodes.get(alias)
        if known is None or host is not None:
            name = "" if host is None else host.sample.name
            memory = None if host is None or host.sample.memory_total is None else int(host.sample.memory_total)
            self._db.execute(
                "INSERT INTO node (alias, host, memory_total_bytes, first_seen, last_seen) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (alias) DO UPDATE SET host = coalesce(nullif(excluded.host, ''), host), "
                "memory_total_bytes = coalesce(excluded.memory_total_bytes, memory_total_bytes), "
                "last_seen = max(last_seen, excluded.last_seen)",
                (alias, name, memory, seen, seen),
            )
            known = self._nodes[alias] = self._id("SELECT id FROM node WHERE alias = ?", (alias,))
        return known

    def disk(self, node: int, disk: DiskFacts) -> int:
        """The disk, made where it is new."""
        known = self._disks.get((node, disk.mount))
        if known is None:
            self._db.execute(
                "INSERT INTO disk (node, mount, device, filesystem) VALUES (?, ?, ?, ?) ON CONFLICT (node, mount) "
                "DO UPDATE SET device = excluded.device, filesystem = excluded.filesystem",
                (node, disk.mount, disk.device, disk.filesystem),
            )
            known = self._id("SELECT id FROM disk WHERE node = ? AND mount = ?", (node, disk.mount))
            self._disks[node, disk.mount] = known
        return known

    def gpu_id(self, name: GpuName) -> int | None:
        """The GPU, by UUID where it tells one, else by index; None where it is new."""
        if name in self._gpus:
            return self._gpus[name]
        found = self._db.execute(
            "SELECT gpu.id FROM gpu JOIN node ON node.id = gpu.node "
            "WHERE alias = ? AND uuid = ? AND (uuid != '' OR idx = ?)",
            (name.node, name.uuid, name.number),
        ).fetchone()
        return None if found is None else int(found[0])

    def gpu(self, sample: GpuSample, seen: int) -> int:
        """The GPU, made where it is new."""
        name = sample.name
        known = self._gpus.get(name)
        facts = (sample.model, sample.memory_total, sample.power_limit)
        if known is None:
            known = self.gpu_id(name)
            if known is None:
                node = self.node(name.node, seen)
                made = self._db.execute(
                    "INSERT INTO gpu (node, uuid, idx, model, first_seen, last_seen) VALUES (?, ?, ?, ?, ?, ?)",
                    (node, name.uuid, name.number, sample.model, seen, seen),
                )
                known = self._id("SELECT ?", (made.lastrowid,))
            self._gpus[name] = known
        if self._told.get(known) != (*facts, seen // HOUR):
            self._told[known] = (*facts, seen // HOUR)
            self._db.execute(
                "UPDATE gpu SET idx = ?, model = coalesce(nullif(?, ''), model), last_seen = max(last_seen, ?), "
                "memory_total_bytes = coalesce(?, memory_total_bytes), "
                "power_limit_watts = coalesce(?, power_limit_watts) WHERE id = ?",
                (name.number, sample.model, seen, _whole(sample.memory_total), sample.power_limit, known),
            )
        return known

    def owner(self, owner: Owner, seen: int) -> int:
        """The owner, made where it is new."""
        known, told = self._owners.get(owner, (0, 0))
        if not known or seen - told >= HOUR:
            if len(self._owners) > 65_536:
                self._owners.clear()
            self._db.execute(
                "INSERT INTO owner (kind, name, namespace, last_seen) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, name, namespace) DO UPDATE SET last_seen = max(last_seen, excluded.last_seen)",
                (*owner, seen),
            )
            select = "SELECT id FROM owner WHERE kind = ? AND name = ? AND namespace = ?"
            known = int(self._db.execute(select, tuple(owner)).fetchone()[0])
            self._owners[owner] = (known, seen)
        return known


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
