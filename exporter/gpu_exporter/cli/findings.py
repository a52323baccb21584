"""What works here, what does not, and what to do about it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpu_exporter import __version__
from gpu_exporter.app import open_kernel_log, read_once
from gpu_exporter.catalog import DEVICE_METRICS, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.config import Config
from gpu_exporter.events.kernel_log import readable
from gpu_exporter.model import Finding, Reading, Snapshot
from gpu_exporter.owners.kubernetes import KubernetesAllocations
from gpu_exporter.owners.procfs import BOOT_PID_NAMESPACE, hides_processes
from gpu_exporter.pages.failures import WORDS
from gpu_exporter.sources import kind_of, source_kind


def findings(config: Config, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at everything, in the order in which one thing needs the other."""
    yield Finding("ok", "gpu-exporter", f"{__version__} on Python {platform.python_version()}, {platform.machine()}")
    kind = source_kind(config)
    if kind.simulated:
        yield Finding("warn", "source", f"{kind.name}: the data is simulated", "leave --source out to read real GPUs")
    failed: list[Finding] = []
    for finding in kind.findings(config, root):
        failed += [finding] * (finding.state == "fail")
        yield finding
    yield from _readings(config, failed)
    yield from _kernel_log(config)
    yield from _namespace(root)
    if config.owners.kubernetes:
        yield from _kubelet(config)


def _kernel_log(config: Config) -> Iterator[Finding]:
    """Whether XIDs are heard that NVML does not tell."""
    if open_kernel_log(config) is None:
        return
    path = config.collection.kernel_log
    trouble = readable(None if path == "auto" else Path(path))
    if not trouble:
        yield Finding("ok", "kernel log", "can be read: it tells XIDs that NVML does not")
        return
    advice = (
        "give CAP_SYSLOG and /dev/kmsg, or the group systemd-journal (docs/EVENTS.md); or collection.kernel_log: off"
    )
    yield Finding("warn", "kernel log", f"cannot be read: {trouble}; XIDs that NVML does not tell are missed", advice)


def _readings(config: Config, failed: Sequence[Finding]) -> Iterator[Finding]:
    snapshot, why = read_once(config)
    if snapshot.driver is None:
        # A library or a program that is not there was told of by the source, with more advice.
        if not any(why and why.startswith((finding.what, finding.detail)) for finding in failed):
            yield Finding("fail", "driver", why or "does not answer")
        return
    driver = snapshot.driver
    yield Finding(
        "ok",
        "driver",
        f"{driver.driver_version}, CUDA {driver.cuda_version}, NVML {driver.nvml_version}, "
        f"all GPUs read in {(snapshot.duration or 0) * 1000:.0f} ms",
    )
    if not snapshot.readings:
        yield Finding("fail", "GPUs", "the driver lists none", "lspci -d 10de: shows what the machine sees")
    for reading in snapshot.readings:
        yield _gpu(reading, kind_of(snapshot.source).tells)
    yield from _modes(snapshot)


def _gpu(reading: Reading, tells: Callable[[Metric], bool]) -> Finding:
    device = reading.device
    name = f"GPU {device.index}"
    if reading.failure is not None:
        advice = WORDS[reading.failure.reason].advice.format(gpu=device.index)
        return Finding("fail", name, f"{reading.failure.reason}: {reading.failure.message}", advice)
    if reading.partial:
        return Finding("fail", name, f"partial: {reading.partial}", WORDS["partial"].advice.format(gpu=device.index))
    rows = {metric.name for metric in reading.values} | {metric.name for metric, _ in reading.labelled}
    missing = sorted({metric.name for metric in DEVICE_METRICS if tells(metric)} - rows)
    detail = f"{device.model}, {device.uuid}, {len(reading.values) + len(reading.labelled)} series"
    if missing:
        detail += f"; it does not have: {', '.join(missing)}"
    return Finding("ok", name, detail)


def _kubelet(config: Config) -> Iterator[Finding]:
    owners = config.owners
    pods = KubernetesAllocations(
        socket=owners.kubernetes_socket, resources=owners.kubernetes_resources, timeout=owners.kubernetes_timeout
    )
    try:
        pods.wait_first(owners.kubernetes_timeout + 1.0)
        trouble, held = pods.trouble(), len(pods.current())
    finally:
        pods.close()
    if trouble is None:
        yield Finding("ok", "kubelet", f"answers; pods hold {held} device{'' if held == 1 else 's'}")
    else:
        yield Finding("warn", "kubelet", trouble, "docs/KUBERNETES_OWNERS.md tells what the socket needs")


def _modes(snapshot: Snapshot) -> Iterator[Finding]:
    def gpus_where(name: str, wrong: Callable[[float], bool]) -> str:
        return ", ".join(
            str(reading.device.index)
            for reading in snapshot.readings
            if (value := reading.values.get(by_name(name))) is not None and wrong(value)
        )

    if off := gpus_where("gpu_persistence_mode_enabled", lambda value: value == 0):
        yield Finding(
            "warn",
            "persistence mode",
            f"off on GPU {off}",
            "nvidia-smi -pm 1, or enable nvidia-persistenced: without it each start of a job waits for the driver",
        )
    if mig := gpus_where("gpu_mig_mode_enabled", lambda value: value == 1):
        yield Finding(
            "warn",
            "MIG",
            f"on for GPU {mig}",
            "utilization does not exist in MIG mode; on Hopper and newer its MIG devices tell instead",
        )


def _namespace(root: Path) -> Iterator[Finding]:
    try:
        namespace = str((root / "proc/self/ns/pid").readlink())
    except OSError:
        return
    if hides_processes(root / "proc"):
        yield Finding(
            "warn",
            "/proc",
            "hides the processes of other users (hidepid): they hold their GPUs without a name",
            "put the exporter's user into the group that the mount option gid= names",
        )
    if namespace == BOOT_PID_NAMESPACE:
        yield Finding("ok", "PID namespace", "the host's")
    else:
        yield Finding(
            "warn",
            "PID namespace",
            "a container's own: processes of other containers cannot be named",
            "--pid=host (in Kubernetes: hostPID: true) if you want to know who holds a GPU",
        )
