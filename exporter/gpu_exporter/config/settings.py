"""The one table of settings: every setting is a dataclass field.

Its metadata feeds the command line, the environment twins, the parser and docs/CONFIGURATION.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from gpu_exporter.catalog.compat import GENERATIONS
from gpu_exporter.catalog.owner_kinds import BY_KIND, PROCESS_LABELS
from gpu_exporter.config import parsers

# Every source and what it is: the choices of ``source``. ``sources.REGISTRY`` says where each one stands.
SOURCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nvml": "the driver's library",
        "smi": "nvidia-smi",
        "dcgm": "dcgmi of NVIDIA DCGM",
        "replay": "a recording, replay:FILE or, over and over, replay:FILE?loop",
        "fake": "simulated",
    }
)
MODELS: Final = ("h100", "h200", "a100", "l40s", "rtx4090")
_LEVELS: Final = ("debug", "info", "warning", "error")
_FORMATS: Final = ("logfmt", "json")
T = TypeVar("T")


def _setting(
    default: T,
    parse: Callable[[Any], T],
    text: str,
    *,
    reload: bool = False,
    shown: str | None = None,
    many: bool = False,
) -> T:
    """One setting. ``reload`` tells that SIGHUP puts a changed value into force; the others need a restart.

    ``many`` tells that it is a list, whose flag may be given again and again.
    """
    metadata = {"parse": parse, "help": text, "reload": reload, "shown": shown, "many": many}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """How the driver is read."""

    interval: float = _setting(
        5.0,
        parsers.duration_between(0.1, 3600),
        "How often every GPU is read at least: lightly, and in full just before each scrape that is expected, or every "
        "10 s where nobody scrapes. Where that is less often than every 10 s, all readings are full, and the driver's "
        "own sample buffers, which hold 14 s, are read in between, so that busy seconds lose nothing.",
        reload=True,
        shown="5s",
    )
    timeout: float = _setting(
        3.0,
        parsers.duration_between(0.05, 600),
        "How long one GPU's reading may take before that GPU is reported down and parked; at most the interval.",
        reload=True,
        shown="3s",
    )
    pause: float = _setting(
        300.0, parsers.duration_between(1, 86400), "How long SIGUSR1 keeps the driver closed.", reload=True, shown="5m"
    )
    expected_gpus: int | None = _setting(
        None,
        parsers.integer_between(0, 4096),
        'How many GPUs this machine should have; published as gpu_exporter_gpus{state="expected"}.',
        reload=True,
    )
    kernel_log: str = _setting(
        "auto",
        parsers.log_path,
        "Where the kernel's messages of XIDs and NVSwitch faults are read (docs/EVENTS.md): auto is /dev/kmsg, or "
        "systemd's journal where that may not be read, and nothing where the data is not of this machine; or off, "
        "or a path.",
        shown="auto",
    )
    let_sleep: bool = _setting(
        False,
        parsers.boolean,
        "Close the driver where no GPU has worked for a minute, so that laptops and workstations can put theirs to "
        "sleep. GPUs that are asleep are never woken, whatever this says.",
        shown="false",
    )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The HTTP server."""

    listen_address: tuple[parsers.Address, ...] = _setting(
        (parsers.Address("", 9435),),
        parsers.listen_addresses,
        "Addresses and ports to listen on: without a host, or with [::], on all of the machine, IPv6 and IPv4; with a "
        "name, on all of the name.",
        shown=":9435",
        many=True,
    )
    telemetry_path: str = _setting("/metrics", parsers.url_path, "URL path of the metrics.", shown="/metrics")
    allow: tuple[parsers.Network, ...] = _setting(
        (),
        parsers.networks,
        "Networks that may connect, in CIDR form; empty lets everybody.",
        reload=True,
        shown="",
        many=True,
    )
    config_file: Path | None = _setting(
        None,
        parsers.file_path,
        "Prometheus's web configuration file: TLS, client certificates, passwords; read again when it changes.",
    )


@dataclass(frozen=True, slots=True)
class SmiConfig:
    """The program that ``source: smi`` runs."""

    path: Path = _setting(
        Path("nvidia-smi"),
        parsers.file_path,
        "The nvidia-smi to run: a path, or a name that is looked for in PATH, and where WSL and containers have it.",
        shown="nvidia-smi",
    )


@dataclass(frozen=True, slots=True)
class DcgmConfig:
    """The program that ``source: dcgm`` runs."""

    path: Path = _setting(
        Path("dcgmi"),
        parsers.file_path,
        "The dcgmi to run, NVIDIA DCGM's command: a path, or a name that is looked for in PATH.",
        shown="dcgmi",
    )


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """The simulated GPUs of ``source: fake``."""

    gpus: int = _setting(8, parsers.integer_between(1, 1024), "How many GPUs to simulate.", shown="8")
    model: str = _setting("h100", parsers.one_of(*MODELS), f"What to simulate: {', '.join(MODELS)}.", shown="h100")
    seed: int = _setting(1, parsers.integer_between(0, 2**31), "The same seed gives the same fleet.", shown="1")
    owners: str = _setting(
        "user", parsers.one_of(*BY_KIND), f"As whom simulated work is done: {', '.join(BY_KIND)}.", shown="user"
    )
    scenario: Path | None = _setting(None, parsers.file_path, "YAML file of timed faults; read again when it changes.")


@dataclass(frozen=True, slots=True)
class ProcessesConfig:
    """What is told of the processes on the GPUs."""

    enabled: bool = _setting(True, parsers.boolean, "Whether processes are listed at all.", shown="true")
    interval: float = _setting(
        15.0,
        parsers.duration_between(0.1, 3600),
        "How often the driver is asked what each process takes of a GPU, which costs it 2 to 3 ms a GPU. The "
        "processes themselves are listed at every reading.",
        shown="15s",
    )
    max: int = _setting(
        64,
        parsers.integer_between(0, 4096),
        "How many processes of a GPU get series of their own, largest memory first.",
        shown="64",
    )
    labels: tuple[str, ...] = _setting(
        PROCESS_LABELS,
        parsers.subset(*PROCESS_LABELS),
        f"Labels of those series: some of {', '.join(PROCESS_LABELS)}.",
        shown=",".join(PROCESS_LABELS),
        many=True,
    )


@dataclass(frozen=True, slots=True)
class OwnersConfig:
    """Where names of owners come from; see docs/OWNERS.md and docs/KUBERNETES_OWNERS.md."""

    procfs: bool = _setting(True, parsers.boolean, "Ask /proc whose a process is.", shown="true")
    procfs_nested: bool = _setting(
        False,
        parsers.boolean,
        "Trust /proc although it is of a pid namespace below the machine's (LXC, kind).",
        shown="false",
    )
    kubernetes: bool = _setting(
        False,
        parsers.boolean,
        "Ask the kubelet which pod was given which GPU; needs the library h2.",
        shown="false",
    )
    kubernetes_socket: Path = _setting(
        Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
        parsers.file_path,
        "The kubelet's pod-resources socket.",
        shown="/var/lib/kubelet/pod-resources/kubelet.sock",
    )
    kubernetes_timeout: float = _setting(
        10.0, parsers.duration_between(0.1, 120), "How long the kubelet may take to answer.", shown="10s"
    )
    kubernetes_resources: tuple[str, ...] = _setting(
        ("nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-*"),
        parsers.words,
        "Resources that stand for GPUs; * and ? are wild.",
        shown="nvidia.com/gpu,nvidia.com/gpu.shared,nvidia.com/mig-*",
        many=True,
    )
    slurm_directory: Path = _setting(
        Path("/run/gpu-exporter/slurm"),
        parsers.file_path,
        "Where a Slurm prolog writes which job was given which GPU; one that does not exist means no jobs.",
        shown="/run/gpu-exporter/slurm",
    )


@dataclass(frozen=True, slots=True)
class HostConfig:
    """What /api/v1/snapshot tells of the machine itself."""

    enabled: bool = _setting(
        True,
        parsers.boolean,
        "Whether /api/v1/snapshot tells of the machine: addresses, system, CPU, memory, load, disks.",
        shown="true",
    )
    name: str = _setting(
        "",
        parsers.host_name,
        "What the machine is called there; empty is its own name, in a container that of /host/etc/hostname.",
        shown="",
    )
    root: Path = _setting(
        Path("/"),
        parsers.folder,
        "Where the machine's file systems are; in a container, where its root is mounted (read-only will do).",
        shown="/",
    )


@dataclass(frozen=True, slots=True)
class AccountingConfig:
    """What counts as active, and as held."""

    active_ratio: float = _setting(
        0.05, parsers.ratio, "A GPU is active where it was busy for this share of the time or more.", shown="0.05"
    )
    held_bytes: float = _setting(
        256 * 1024.0**2,
        parsers.size,
        "An idle GPU is held by whoever has more than this of its memory, or was allocated it.",
        shown="256MiB",
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is written to standard error."""

    level: str = _setting("info", parsers.one_of(*_LEVELS), f"One of {', '.join(_LEVELS)}.", reload=True, shown="info")
    format: str = _setting("logfmt", parsers.one_of(*_FORMATS), f"One of {', '.join(_FORMATS)}.", shown="logfmt")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    source: str = _setting(
        "auto",
        parsers.source("auto", *SOURCES),
        f"Where readings come from: {', '.join(f'{name} is {what}' for name, what in SOURCES.items())}; "
        "auto is nvml, then smi, never fake.",
        shown="auto",
    )
    require_gpu: bool = _setting(
        False, parsers.boolean, "Exit with status 2 where no GPU can be read at the start.", shown="false"
    )
    compat: tuple[str, ...] = _setting(
        (),
        parsers.subset(*GENERATIONS),
        "Also publish what another exporter calls it (docs/MIGRATING.md): dcgm is dcgm-exporter before 4.9, dcgm-4.9 "
        "the same with the names and units since then.",
        shown="",
        many=True,
    )
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    web: WebConfig = field(default_factory=WebConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)
    owners: OwnersConfig = field(default_factory=OwnersConfig)
    accounting: AccountingConfig = field(default_factory=AccountingConfig)
    host: HostConfig = field(default_factory=HostConfig)
    smi: SmiConfig = field(default_factory=SmiConfig)
    dcgm: DcgmConfig = field(default_factory=DcgmConfig)
    fake: FakeConfig = field(default_factory=FakeConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the command line and the documentation see it."""

    key: str
    help: str
    shown: str | None
    reload: bool
    parse: Callable[[Any], Any]
    many: bool

    @property
    def flag(self) -> str:
        """``collection.interval`` is ``--collection.interval``; underscores become dashes.

        ``web.config_file`` is the exception, since all of Prometheus's exporters call it ``--web.config.file``.
        A switch that is on unless told otherwise has the flag that turns it off: ``--no-processes.enabled``.
        """
        name = self.key.replace("config_file", "config.file").replace("_", "-")
        return f"--no-{name}" if self.shown == "true" else f"--{name}"

    @property
    def switch(self) -> str | None:
        """What the flag says where it takes no value."""
        return {"true": "false", "false": "true"}.get(self.shown or "")

    @property
    def variable(self) -> str:
        """The environment twin of the flag."""
        return "GPU_EXPORTER_" + self.key.replace(".", "_").upper()


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for entry in fields(Config):
        if entry.metadata:
            yield _as_setting(entry.name, entry.metadata)
        else:
            for inner in fields(entry.default_factory):  # type: ignore[arg-type]
                yield _as_setting(f"{entry.name}.{inner.name}", inner.metadata)


def _as_setting(key: str, metadata: Mapping[str, Any]) -> Setting:
    return Setting(key, metadata["help"], metadata["shown"], metadata["reload"], metadata["parse"], metadata["many"])
