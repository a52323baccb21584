"""What runs on each GPU: pure functions of (seed, index, time), so that any moment can be asked for in any order.

A fleet is cut into nodes of eight GPUs and each node into jobs; the ranks of a training job share its phases. All that
looks random comes from ``noise``, a hash, never from a generator with a state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from gpu_exporter.catalog.owner_kinds import BY_KIND
from gpu_exporter.model import Identity

Kind: TypeAlias = Literal["training", "inference", "idle", "held", "spinning"]
KINDS: Final[tuple[Kind, ...]] = ("training", "inference", "idle", "held", "spinning")
ProcessType: TypeAlias = Literal["compute", "graphics"]

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_DAY: Final = 86400.0
_PAGE: Final = 2 * 1024 * 1024  # the driver hands out memory in pages of 2 MiB
_USERS: Final = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
_PROGRAMS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        "training": ("python3", "torchrun", "python"),
        "inference": ("vllm", "tritonserver", "python3"),
        "held": ("jupyter-lab", "python3", "ipython"),
        "idle": ("",),
        "spinning": ("python3", "a.out"),
    }
)
_T: Final = "training"
_I: Final = "inference"
_NODES: Final[tuple[tuple[tuple[Kind, int], ...], ...]] = (
    ((_T, 4), (_I, 2), ("held", 1), ("idle", 1)),
    ((_T, 2), (_T, 2), (_I, 2), ("held", 1), ("idle", 1)),
    ((_T, 2), (_I, 3), (_I, 1), ("held", 1), ("idle", 1)),
    ((_T, 8),),
    ((_I, 4), (_I, 3), ("idle", 1)),
)
_MIXED: Final = 3  # the first node is one of the first three, so that every demo shows every kind
_SMALL: Final[Mapping[int, tuple[tuple[Kind, int], ...]]] = MappingProxyType(
    {
        1: ((_T, 1),),
        2: ((_T, 1), (_I, 1)),
        3: ((_T, 1), (_I, 1), ("held", 1)),
        4: ((_T, 2), (_I, 1), ("held", 1)),
        5: ((_T, 2), (_I, 1), ("held", 1), ("idle", 1)),
        6: ((_T, 2), (_I, 2), ("held", 1), ("idle", 1)),
        7: ((_T, 4), (_I, 1), ("held", 1), ("idle", 1)),
    }
)


class Demand(NamedTuple):
    """What the work asks of a GPU at one moment: shares from 0 to 1 of what the board can do.

    ``intensity`` is the power that a fully busy second draws, as a share of the span between idle and the limit; above
    1 the power cap bites. ``memory`` is the share of usable memory that is allocated.
    """

    utilization: float = 0.0
    memory_io: float = 0.0
    intensity: float = 0.0
    memory: float = 0.0
    encoder: float = 0.0
    decoder: float = 0.0
    jpeg: float = 0.0
    ofa: float = 0.0
    pcie_transmit: float = 0.0
    pcie_receive: float = 0.0
    nvlink: float = 0.0


NO_DEMAND: Final = Demand()
DRAM_ACTIVE: Final = 0.8  # what busy memory carries, as a share of what it can


class Profile(NamedTuple):
    """What the profiling counters tell of a second in which a kernel ran, as shares of it: the catalogue's ratios."""

    sm_active: float = 0.0
    sm_occupancy: float = 0.0
    tensor_active: float = 0.0
    fp64_active: float = 0.0
    fp32_active: float = 0.0
    fp16_active: float = 0.0


# Training as an H200 told of bf16 matrix products, thinned by what is between them; one block spins on 1 SM of 132.
_PROFILES: Final[Mapping[Kind, Profile]] = MappingProxyType(
    {
        "training": Profile(0.92, 0.24, 0.48, 0.0, 0.06, 0.01),
        "inference": Profile(0.62, 0.16, 0.14, 0.0, 0.05, 0.02),
        "spinning": Profile(0.0075, 0.0001),
    }
)
_NO_PROFILE: Final = Profile()


@dataclass(frozen=True, slots=True)
class SimulatedProcess:
    """A process on a GPU; ``name`` is the executable's base name, ``memory_used`` is in bytes.

    ``job`` is not 0 for the fleet's own work, whose owner goes by ``fake.owners``; a story's processes tell their own.
    ``mig_uuid`` is the MIG device that it runs on, if any.
    One that is not ``alive`` is in the driver's list only: nobody is there to be asked who that is.
    """

    pid: int
    name: str
    user: str
    memory_used: int
    type: ProcessType = "compute"
    job: int = 0
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    alive: bool = True
    mig_uuid: str = ""

    def identity(self, kind: str) -> Identity | None:
        """Who that is on a machine whose work is done as that kind of owner; None of a process that is none."""
        if not self.alive:
            return None
        simulated = BY_KIND[kind].simulated if self.job else ()
        if not simulated:
            return Identity(self.name, self.user, labels=self.labels)
        facts = {
            "user": self.user,
            "program": self.name.rstrip("3"),
            "team": "serving" if self.name in _PROGRAMS["inference"][:2] else "research",
            "number": 100_000 + self.job % 900_000,
            "code": f"{self.job % 36**4:x}",
            "container": f"{key(self.job, 'container'):016x}"[:12],
        }
        labels = {label: value.format_map(facts) for label, value in simulated}
        return Identity(self.name, labels.pop("user", self.user), labels.pop("container", ""), labels)


@dataclass(frozen=True, slots=True)
class Workload:
    """What one GPU is used for. ``job`` is the same number for all ``size`` GPUs of a job, ``own`` differs."""

    kind: Kind
    job: int
    own: int
    size: int
    user: str

    def demand(self, when: float) -> Demand:
        """Demand at Unix time ``when``."""
        return _DEMANDS[self.kind](self, when)

    def profile(self) -> Profile:
        """What each of its busy seconds is to the profiling counters."""
        return _PROFILES.get(self.kind, _NO_PROFILE)

    def processes(self, when: float, usable_bytes: int) -> tuple[SimulatedProcess, ...]:
        """The job's process on this GPU, if there is one at that moment."""
        memory_used = allocated(self.demand(when).memory, usable_bytes)
        if not memory_used:
            return ()
        run = _run(self, when)[0] if self.kind == "training" else 0
        programs = _PROGRAMS[self.kind]
        return (
            SimulatedProcess(
                pid=2000 + (self.own + 37 * run) % 4_000_000,
                name=programs[self.job % len(programs)],
                user=self.user,
                memory_used=memory_used,
                job=self.job,
            ),
        )


def allocated(share: float, usable_bytes: int) -> int:
    """Bytes in whole pages."""
    return int(share * usable_bytes) // _PAGE * _PAGE


def key(*parts: object) -> int:
    """A 64-bit number from anything printable; the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def noise(seed: int, moment: int) -> float:
    """A number from 0 to 1 that looks random and is a function of its arguments (splitmix64)."""
    mixed = (seed + moment * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return (mixed ^ (mixed >> 31)) / _MASK


def assign(gpus: int, seed: int) -> tuple[Workload, ...]:
    """The workload of every GPU of a fleet."""
    workloads: list[Workload] = []
    while len(workloads) < gpus:
        node = len(workloads) // 8
        layout = _SMALL.get(gpus - len(workloads))
        if layout is None:
            layout = _NODES[key(seed, "node", node) % (_MIXED if node == 0 else len(_NODES))]
        for position, (kind, size) in enumerate(layout):
            job = key(seed, "job", node, position)
            user = _USERS[(key(seed, "users", node) + position) % len(_USERS)]
            workloads += (Workload(kind, job, key(job, rank), size, user) for rank in range(size))
    return tuple(workloads)


def _between(number: int, low: float, high: float) -> float:
    """A fixed choice for a job."""
    return low + (high - low) * (number % 10007) / 10006


def _run(workload: Workload, when: float) -> tuple[int, float, float]:
    """Of a training job: number of the run, seconds since it began, its length. A run takes 6 to 14 hours."""
    period = _between(workload.job >> 3, 6 * 3600.0, 14 * 3600.0)
    run, since = divmod(when + _between(workload.job >> 7, 0.0, period), period)
    return int(run), since, period


def _training(workload: Workload, when: float) -> Demand:
    """Long runs at full load with a ripple of steps, checkpoint pauses, a load phase, and ten minutes free between."""
    job = workload.job
    _, since, period = _run(workload, when)
    memory = _between(job >> 11, 0.72, 0.93)
    if since > period - 600.0:
        return NO_DEMAND
    if since < 90.0:  # the data set and the weights come in
        share = since / 90.0
        return Demand(0.04, 0.03, 0.5, memory * (0.1 + 0.9 * share), pcie_receive=0.5, pcie_transmit=0.02)
    if since % _between(job >> 13, 1500.0, 2700.0) < _between(job >> 17, 25.0, 45.0) and since > 300.0:
        return Demand(0.05, 0.04, 0.5, memory, pcie_transmit=0.35, pcie_receive=0.01)
    ripple = math.sin(when / _between(job >> 19, 2.0, 6.0))
    jitter = noise(workload.own, int(when // 5.0))
    return Demand(
        utilization=min(1.0, 0.955 + 0.03 * ripple + 0.03 * jitter),
        memory_io=_between(job >> 23, 0.35, 0.6) + 0.04 * ripple + 0.02 * jitter,
        intensity=_between(job >> 29, 0.82, 1.02) + 0.04 * ripple + 0.03 * jitter,
        memory=memory,
        pcie_transmit=0.02 + 0.01 * jitter,
        pcie_receive=0.05 + 0.02 * jitter,
        nvlink=(0.28 + 0.06 * ripple) if workload.size > 1 else 0.0,
    )


def _inference(workload: Workload, when: float) -> Demand:
    """Requests that follow the day (most at 15:00 UTC) with bursts; every third server also decodes video."""
    day = 0.5 + 0.5 * math.cos(2 * math.pi * (when / _DAY - 15 / 24))
    level = (0.12 + 0.5 * day) * (0.55 + 0.9 * noise(workload.own, int(when // 15.0)))
    burst = 0.35 if noise(workload.job, int(when // 90.0)) > 0.86 else 0.0
    load = min(1.0, level + burst)
    vision = load if workload.job % 3 == 0 else 0.0
    return Demand(
        utilization=load,
        memory_io=0.62 * load,
        intensity=_between(workload.job >> 29, 0.5, 0.75),
        memory=_between(workload.job >> 11, 0.6, 0.9),
        encoder=0.12 * vision,
        decoder=0.5 * vision,
        jpeg=0.2 * vision,
        ofa=0.04 * vision,
        pcie_transmit=0.03 * load,
        pcie_receive=0.06 * load,
        nvlink=0.08 * load if workload.size > 1 else 0.0,
    )


def _held(workload: Workload, _when: float) -> Demand:
    """A notebook that keeps its memory and computes nothing."""
    return Demand(memory=_between(workload.own >> 11, 0.15, 0.55))


def _spinning(workload: Workload, _when: float) -> Demand:
    """A kernel of one block that waits for what never comes: always running, and next to nothing of the GPU."""
    return Demand(utilization=1.0, intensity=0.01, memory=_between(workload.own >> 11, 0.05, 0.1))


def _idle(_workload: Workload, _when: float) -> Demand:
    """Nobody is there."""
    return NO_DEMAND


_DEMANDS: Final[Mapping[Kind, Callable[[Workload, float], Demand]]] = MappingProxyType(
    {"training": _training, "inference": _inference, "held": _held, "idle": _idle, "spinning": _spinning}
)
