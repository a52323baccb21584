"""What flows through the exporter: devices, readings, snapshots. Frozen, in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from gpu_exporter.catalog.row import Metric

# ``partial`` is of a GPU that answers, but most of whose calls fail.
Reason: TypeAlias = Literal["lost", "timeout", "reset_required", "permission", "unknown", "partial"]
ProcessType: TypeAlias = Literal["compute", "graphics"]
# What a GPU did with its time; an owner's time has those of them in which somebody can hold it.
State: TypeAlias = Literal["active", "idle_held", "idle_free", "unknown", "down"]


@dataclass(frozen=True, slots=True)
class Device:
    """Identity of one GPU, read when the source opens it. Empty strings are what the device does not tell."""

    index: int
    uuid: str
    model: str
    architecture: str = ""
    brand: str = ""
    pci_bus_id: str = ""
    serial: str = ""
    vbios_version: str = ""
    # Where it is in an NVLink fabric and in its rack.
    cluster_uuid: str = ""
    clique: str = ""
    chassis: str = ""
    slot: str = ""
    tray: str = ""
    host: str = ""
    module: str = ""

    @property
    def board(self) -> str:
        """The UUID, written alike whoever tells it: NVML, the kernel driver, with the prefix or without."""
        return self.uuid.lower().removeprefix("gpu-")

    @property
    def key(self) -> str:
        """What tells this GPU apart: UUID and index, as UUIDs have been seen twice in one machine.

        A board that moves to another index gets another key (sampling/roster.py tells which it had).
        """
        return f"{self.index} {self.board}"


@dataclass(frozen=True, slots=True)
class Driver:
    """Versions that the driver tells."""

    driver_version: str = ""
    cuda_version: str = ""
    nvml_version: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """Versions of this program."""

    version: str
    python_version: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a device could not be read; ``standing`` while it is an earlier call that has not returned, counted then."""

    reason: Reason
    message: str
    standing: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """One process on one GPU, as the driver tells it.

    ``memory_used`` is in bytes and ``utilization`` a share of the multiprocessors' time; None is what the driver does
    not tell. ``mig_uuid`` names the MIG device that the process runs on, if any. ``identity`` is None until it is
    looked for.
    """

    pid: int
    type: ProcessType
    memory_used: float | None = None
    utilization: float | None = None
    mig_uuid: str = ""
    identity: Identity | None = None

    @property
    def has_pid(self) -> bool:
        """Whether ``pid`` is one: a driver that cannot tell it here (another pid namespace) says 0 or 2^32 - 1."""
        return 0 < self.pid < 2**31


@dataclass(frozen=True, slots=True)
class Identity:
    """What is told of a process, or of those to whom a GPU was allocated. Empty strings are what is not known.

    ``process`` is the base name of the executable, never its arguments. ``user`` is the uid as text while no name is
    known of it, and ``uid`` None where only the name is told. ``container`` is the container's identifier (of
    a process) or its name (of an allocation). ``labels`` has what the owner kinds add, as far as it
    is known (catalog/owner_kinds.py).
    """

    process: str = ""
    user: str = ""
    container: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    uid: int | None = field(default=None, compare=False)

    def all_labels(self) -> dict[str, str]:
        """What is told as labels of processes, by name."""
        return {"process": self.process, "user": self.user, "container": self.container, **self.labels}


class Owner(NamedTuple):
    """Whom time is charged to, as the labels owner_kind, owner and namespace tell. Empty strings are what is not known.

    ``kind`` is one of catalog/owner_kinds.py, whose row tells what name and namespace are.
    """

    kind: str
    name: str
    namespace: str


class Hold(NamedTuple):
    """An owner's share of a GPU; ``memory`` in bytes, None where the driver does not tell."""

    owner: Owner
    memory: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One device at one moment.

    ``values`` holds gauges and the counters that the device keeps itself; what it does not have is absent.
    ``increments`` holds the growth of counters that we keep, since the device's previous reading. ``covered`` has the
    seconds that such a growth stands for, where that may be less than the time since then: for the rest of it the gauge
    is integrated. None stands for no time at all, not even for that in which nothing was due yet.
    ``labelled`` holds the rows with labels valued at run time: (row, label values) -> value.
    ``processes`` is None where it is not known what runs on the device; a process that computes and draws is there
    twice. ``process_types`` are those that were looked for. ``listed_at`` is when they were listed, in seconds since
    the boot (CLOCK_BOOTTIME); None is not known.
    ``mig_uuids`` names its MIG devices, and ``mig_whole`` tells that these are all of a GPU in MIG mode.
    ``allocations`` are those it was given to, busy or not, and ``mig_allocations`` the same of each MIG device.
    ``state`` is what its time is being charged to, and ``holds`` to whom; None until the ledger has seen the reading,
    and ``holds`` also where it is not known who is there.
    ``refused`` has what was told and cannot be, each with its row and left out of all the rest: a "not available" of
    -1, a sample of 4294967295 %. A source adds what only it can see, the pipeline what is outside of the row's range.
    ``partial`` tells why it is only part of what the device otherwise tells; empty where it is whole.
    ``read_at`` is when it began to be read, on the clock of ``Snapshot.monotonic``; its age counts from there.
    ``only`` has the rows that a light reading asked for, None where all were asked; what else it has is of the full
    reading before, which began at ``full_at``.
    """

    device: Device
    values: Mapping[Metric, float] = field(default_factory=dict)
    increments: Mapping[Metric, float] = field(default_factory=dict)
    labelled: Mapping[tuple[Metric, tuple[str, ...]], float] = field(default_factory=dict)
    failure: Failure | None = None
    processes: tuple[Process, ...] | None = None
    process_types: tuple[ProcessType, ...] = ("compute", "graphics")
    listed_at: float | None = None
    mig_uuids: tuple[str, ...] = ()
    mig_whole: bool = False
    allocations: tuple[Identity, ...] = ()
    mig_allocations: Mapping[str, tuple[Identity, ...]] = field(default_factory=dict)
    state: State | None = None
    holds: tuple[Hold, ...] | None = None
    refused: tuple[tuple[Metric, float], ...] = ()
    covered: Mapping[Metric, float | None] = field(default_factory=dict)
    partial: str = ""
    read_at: float | None = None
    only: frozenset[Metric] | None = None
    full_at: float | None = None


# Stands for XIDs that are not told by their number.
OTHER_XID: Final = -1


@dataclass(frozen=True, slots=True)
class XidDetail:
    """What the kernel log says of one XID beside its number. Empty strings and None are what it does not say.

    ``word`` is its own severity (Fatal, Nonfatal) and ``unit`` the part of the GPU, with ``sub_code`` and ``link``: of
    NVLink 5 (XID 144 to 150). ``pid`` and ``process`` tell whose work it struck.
    """

    word: str = ""
    unit: str = ""
    sub_code: int | None = None
    link: int | None = None
    pid: int | None = None
    process: str = ""


@dataclass(frozen=True, slots=True)
class Xid:
    """``count`` XID events of one number; ``timestamp`` is Unix time in seconds, of the latest of them.

    ``by`` tells them who heard the same event: the latest is told by ``detail`` where the kernel log told it.
    ``earlier`` marks those from before the exporter looked.
    """

    device: Device
    xid: int
    timestamp: float
    count: int = 1
    by: str = "nvml"
    detail: XidDetail | None = None
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """``count`` events of a kind that NVML tells and that is no XID; ``timestamp`` is Unix time of the latest.

    A count of 0 says that such events would be heard.
    """

    device: Device
    event: str
    count: int = 1
    timestamp: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """How often something happened, and Unix time of the latest; ``earlier``: before the exporter looked."""

    count: int
    timestamp: float
    earlier: bool = False

    def after(self, before: Told | None) -> Told:
        """Both together. The latest that came is the latest, whatever a clock that was set back says.

        What was heard late must not take the place of what came after it.
        """
        if before is None:
            return self
        timestamp = max(before.timestamp, self.timestamp) if self.earlier else self.timestamp
        return Told(before.count + self.count, timestamp, self.earlier and before.earlier)


Event: TypeAlias = Xid | GpuEvent


class Histogram(NamedTuple):
    """Observations: how many there were up to each bound but above the one before, then those above all; their sum."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one exposition tells; never changed after it was published.

    ``simulated`` tells that no real GPU is read, from the first snapshot on.
    ``readings`` are complete: counters that we keep are in ``values``, failure counts and XIDs in them as well.
    ``monotonic`` is when the oldest of the readings that succeeded began, light ones as well, in seconds since the boot
    (CLOCK_BOOTTIME, which goes on while the machine sleeps). ``full_at`` is the same of full readings, since which
    nothing is older that is told, and ``timestamp`` that moment in Unix time, of the last success.
    ``ages`` is how old the readings were, by the full one, that scrapers got before this snapshot.
    ``implausible`` counts refused values by the name of their metric, since the exporter started, and
    ``reading_seconds`` how long readings took, by their kind (full, light).
    ``event_sources`` tells of each way to hear of events whether it works, ``sxids`` counts faults of NVSwitches by
    number and PCI address, and ``sxids_latest`` is Unix time of the latest of each.
    """

    build: Build
    source: str
    driver: Driver | None = None
    readings: tuple[Reading, ...] = ()
    ok: bool = False
    timestamp: float | None = None
    monotonic: float = field(default=0.0)
    duration: float | None = None
    overruns: int = 0
    stuck: int = 0
    paused: bool = False
    gpus_expected: int | None = None
    config_ok: bool = True
    simulated: bool = False
    implausible: Mapping[str, int] = field(default_factory=dict, hash=False)
    event_sources: Mapping[str, float] = field(default_factory=dict, hash=False)
    sxids: Mapping[tuple[str, str], int] = field(default_factory=dict, hash=False)
    sxids_latest: Mapping[tuple[str, str], float] = field(default_factory=dict, hash=False)
    reading_seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    full_at: float = 0.0
    ages: Histogram | None = None

    @property
    def gpus_found(self) -> int:
        """GPUs that the driver lists or has listed."""
        return len(self.readings)

    @property
    def gpus_up(self) -> int:
        """GPUs that answered."""
        return sum(1 for reading in self.readings if reading.failure is None)


@dataclass(frozen=True, slots=True)
class Disk:
    """One file system, as df(1) counts it: bytes, of which ``free`` can be had by users who are not root."""

    mount: str
    device: str
    filesystem: str
    total: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the GPUs. Empty and None are what is not known.

    ``boot_timestamp`` is Unix time, ``cpu_utilization`` a share of all CPUs' time since the look before, memory is in
    bytes, ``load`` the average number of runnable tasks over 1, 5 and 15 minutes.
    """

    name: str = ""
    addresses: tuple[str, ...] = ()
    os: str = ""
    kernel: str = ""
    boot_timestamp: float | None = None
    cpus: int | None = None
    cpu_utilization: float | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    load: tuple[float, float, float] | None = None
    disks: tuple[Disk, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``doctor`` looked at; ``advice`` says what to do where it is not ok."""

    state: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    advice: str = ""
