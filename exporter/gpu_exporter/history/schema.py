"""The tables of a history file, their versions, and the views for people. docs/HISTORY.md describes them.

A row's key packs time and subject into one integer, time first: new rows are appended, a GPU's rows of an hour (of a
day) lie together, and a row needs six bytes for it. Numbers are whole, in units that keep them small: a GPU's minute
takes some 45 bytes, so that 64 GPUs fit into 150 MB a month. The views give base units.
"""

from __future__ import annotations

from typing import Final, NamedTuple

APPLICATION: Final = 0x47505548  # "GPUH", PRAGMA application_id
VERSION: Final = 1  # PRAGMA user_version

# key = time << SHIFT | subject << LOW | place; see the two spans below.
SUBJECTS: Final = 1 << 16  # GPUs, nodes or disks that one file can tell apart
HOUR: Final = 3600
DAY: Final = 86400
OBSERVED: Final = "(active_s + idle_held_s + idle_free_s + unknown_s)"  # seconds of a row in which the GPU answered


class Span(NamedTuple):
    """One of the two grains of rows: minutes in keys of an hour, quarter hours in keys of a day."""

    suffix: str  # of its tables
    unit: int  # seconds that the leading part of the key counts in
    shift: int  # bits below that part
    low: int  # bits below the subject
    grain: int  # seconds of a row

    @property
    def time(self) -> str:
        """The Unix time of ``row``, as SQL."""
        return f"((row.id >> {self.shift}) * {self.unit} + (row.id & {(1 << self.low) - 1}) * {self.grain})"

    @property
    def subject(self) -> str:
        """The GPU, node or disk of ``row``, as SQL."""
        return f"(row.id >> {self.low} & {SUBJECTS - 1})"


MINUTES: Final = Span("minute", HOUR, 22, 6, 60)
QUARTERS: Final = Span("quarter", DAY, 23, 7, 900)

_GPU_COLUMNS: Final = """
    id INTEGER PRIMARY KEY,
    owner INTEGER,
    active_s INTEGER NOT NULL,
    idle_held_s INTEGER NOT NULL,
    idle_free_s INTEGER NOT NULL,
    unknown_s INTEGER NOT NULL,
    down_s INTEGER NOT NULL,
    utilization_pct INTEGER,
    utilization_max_pct INTEGER,
    memory_io_pct INTEGER,
    memory_mib INTEGER,
    memory_over_mib INTEGER,
    temperature_c INTEGER,
    temperature_over_c INTEGER,
    power_dw INTEGER,
    power_over_w INTEGER,
    score_pct INTEGER,
    sm_clock_mhz INTEGER,
    slowed_s INTEGER,
    processes INTEGER
"""
_OWNER_COLUMNS: Final = """
    id INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    active_s INTEGER NOT NULL,
    idle_held_s INTEGER NOT NULL,
    unknown_s INTEGER NOT NULL,
    PRIMARY KEY (id, owner)
"""
_HOST_COLUMNS: Final = """
    id INTEGER PRIMARY KEY,
    seconds INTEGER NOT NULL,
    cpu_pct INTEGER,
    cpu_max_pct INTEGER,
    memory_mib INTEGER,
    memory_over_mib INTEGER,
    load_hundredths INTEGER
"""


def _gpu_views(span: Span) -> str:
    table, owners = f"gpu_{span.suffix}", f"gpu_{span.suffix}_owner"
    return f"""
CREATE VIEW {table}s AS
SELECT row.id, {span.time} AS time, node.alias AS node, gpu.idx AS gpu, gpu.uuid, gpu.model,
    active_s AS active_seconds, idle_held_s AS idle_held_seconds, idle_free_s AS idle_free_seconds,
    unknown_s AS unknown_seconds, down_s AS down_seconds,
    utilization_pct / 100.0 AS utilization_ratio, utilization_max_pct / 100.0 AS utilization_ratio_max,
    memory_io_pct / 100.0 AS memory_io_utilization_ratio,
    memory_mib * 1048576 AS memory_used_bytes, (memory_mib + memory_over_mib) * 1048576 AS memory_used_bytes_max,
    temperature_c AS temperature_celsius, temperature_c + temperature_over_c AS temperature_celsius_max,
    power_dw / 10.0 AS power_watts, power_dw / 10.0 + power_over_w AS power_watts_max,
    power_dw / 10.0 * {OBSERVED} AS energy_joules,
    score_pct / 100.0 AS score_ratio, sm_clock_mhz * 1000000 AS sm_clock_hertz, slowed_s AS slowed_seconds, processes
FROM {table} AS row JOIN gpu ON gpu.id = {span.subject} JOIN node ON node.id = gpu.node;

CREATE VIEW {owners}s AS
SELECT row.id, {span.time} AS time, node.alias AS node, gpu.idx AS gpu, gpu.uuid, owner.kind AS owner_kind,
    owner.name AS owner, owner.namespace, active_s AS active_seconds, idle_held_s AS idle_held_seconds,
    unknown_s AS unknown_seconds
FROM (
    SELECT id, owner, active_s, idle_held_s, unknown_s FROM {table} WHERE owner IS NOT NULL
    UNION ALL
    SELECT id, owner, active_s, idle_held_s, unknown_s FROM {owners}
) AS row JOIN gpu ON gpu.id = {span.subject} JOIN node ON node.id = gpu.node JOIN owner ON owner.id = row.owner;
"""  # noqa: S608 - our own names


def _host_view(span: Span) -> str:
    return f"""
CREATE VIEW host_{span.suffix}s AS
SELECT row.id, {span.time} AS time, node.alias AS node, seconds, cpu_pct / 100.0 AS cpu_utilization_ratio,
    cpu_max_pct / 100.0 AS cpu_utilization_ratio_max, memory_mib * 1048576 AS memory_used_bytes,
    (memory_mib + memory_over_mib) * 1048576 AS memory_used_bytes_max, load_hundredths / 100.0 AS load
FROM host_{span.suffix} AS row JOIN node ON node.id = {span.subject};
"""  # noqa: S608


FIRST: Final = f"""
CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    alias TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    memory_total_bytes INTEGER,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
);
CREATE TABLE gpu (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL REFERENCES node (id),
    uuid TEXT NOT NULL,
    idx INTEGER NOT NULL,
    model TEXT NOT NULL,
    memory_total_bytes INTEGER,
    power_limit_watts REAL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
);
CREATE INDEX gpu_of_node ON gpu (node, uuid, idx);
CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    namespace TEXT NOT NULL,
    last_seen INTEGER NOT NULL,
    UNIQUE (kind, name, namespace)
);
CREATE TABLE gpu_minute ({_GPU_COLUMNS});
CREATE TABLE gpu_quarter ({_GPU_COLUMNS});
CREATE TABLE gpu_minute_owner ({_OWNER_COLUMNS}) WITHOUT ROWID;
CREATE TABLE gpu_quarter_owner ({_OWNER_COLUMNS}) WITHOUT ROWID;
CREATE TABLE host_minute ({_HOST_COLUMNS});
CREATE TABLE host_quarter ({_HOST_COLUMNS});
CREATE TABLE disk (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL REFERENCES node (id),
    mount TEXT NOT NULL,
    device TEXT NOT NULL,
    filesystem TEXT NOT NULL,
    UNIQUE (node, mount)
);
CREATE TABLE disk_hour (
    id INTEGER PRIMARY KEY,
    total_mib INTEGER NOT NULL,
    used_mib INTEGER NOT NULL
);
CREATE TABLE process (
    id INTEGER PRIMARY KEY,
    gpu INTEGER NOT NULL REFERENCES gpu (id),
    pid INTEGER NOT NULL,
    type TEXT NOT NULL,
    mig_uuid TEXT NOT NULL,
    process TEXT NOT NULL,
    user TEXT NOT NULL,
    container TEXT NOT NULL,
    labels TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    memory_max_bytes INTEGER
);
CREATE INDEX process_by_end ON process (last_seen);
CREATE TABLE event (
    time INTEGER NOT NULL,
    gpu INTEGER NOT NULL REFERENCES gpu (id),
    metric TEXT NOT NULL,
    labels TEXT NOT NULL,
    count INTEGER NOT NULL
);
CREATE INDEX event_by_time ON event (time);
{_gpu_views(MINUTES)}
{_gpu_views(QUARTERS)}
{_host_view(MINUTES)}
{_host_view(QUARTERS)}
"""

# What makes each version of the one before; a file of an older version gets those that it lacks, in one transaction.
MIGRATIONS: Final = (FIRST,)


def minute_key(minute: int, subject: int) -> int:
    """The key of a row that stands for a minute (Unix time divided by 60): hour << 22 | subject << 6 | minute."""
    return (minute // 60 << 22) | (subject << 6) | minute % 60


def hour_key(hour: int) -> int:
    """Below the keys of all rows of that hour (Unix time divided by 3600)."""
    return hour << 22


def quarter_key(quarter: int, subject: int) -> int:
    """The key of a row that stands for a quarter of an hour (Unix time / 900): day << 23 | subject << 7 | quarter."""
    return (quarter // 96 << 23) | (subject << 7) | quarter % 96


def day_key(day: int) -> int:
    """Below the keys of all quarters of that day (Unix time divided by 86400)."""
    return day << 23
