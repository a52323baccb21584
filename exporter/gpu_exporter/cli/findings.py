"""What works here, what does not, and what to do about it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from gpu_exporter import __version__
from gpu_exporter.app import read_once
from gpu_exporter.catalog import DEVICE_METRICS
from gpu_exporter.config import Config
from gpu_exporter.model import Reading, Snapshot
from gpu_exporter.owners.kubernetes import KubernetesAllocations
from gpu_exporter.pages.failures import WORDS

State = Literal["ok", "warn", "fail"]
# The initial PID namespace has this inode on every kernel (include/linux/proc_ns.h, PROC_PID_INIT_INO).
_HOST_PID_NAMESPACE: Final = "pid:[4026531836]"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; ``advice`` says what to do if it is not ok."""

    state: State
    what: str
    detail: str
    advice: str = ""


def findings(config: Config, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at everything, in the order in which one thing needs the other."""
    yield Finding("ok", "gpu-exporter", f"{__version__} on Python {platform.python_version()}, {platform.machine()}")
    if config.source == "fake":
        yield Finding("warn", "source", "fake: the data is simulated", "leave --source out to read real GPUs")
    else:
        yield Finding("ok", "binding", f"nvidia-ml-py {metadata.version('nvidia-ml-py')}")
        yield from _library()
        yield from _kernel_driver(root)
        yield from _device_nodes(root)
        yield from _container(root)
    yield from _readings(config)
    yield from _namespace(root)
    if config.owners.kubernetes:
        yield from _kubelet(config)


def _library() -> Iterator[Finding]:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        yield Finding(
            "fail",
            "libnvidia-ml.so.1",
            str(error),
            "install the NVIDIA driver; in a container use --gpus all, or mount the library and run ldconfig",
        )
    else:
        yield Finding("ok", "libnvidia-ml.so.1", "loads")


def _kernel_driver(root: Path) -> Iterator[Finding]:
    version = root / "proc/driver/nvidia/version"
    try:
        text = version.read_text("utf-8", "replace")
    except OSError:
        yield Finding(
            "warn", "kernel driver", "not visible in /proc/driver/nvidia", "on the host: modprobe nvidia; see dmesg"
        )
        return
    match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    yield Finding("ok", "kernel driver", match[1] if match else text.splitlines()[0])


def _device_nodes(root: Path) -> Iterator[Finding]:
    nodes = sorted(path for path in (root / "dev").glob("nvidia*") if re.fullmatch(r"nvidia(ctl|\d+)", path.name))
    if not nodes:
        yield Finding(
            "warn", "device nodes", "no /dev/nvidiactl", "run nvidia-modprobe, or start the container with GPUs"
        )
        return
    closed = [path.name for path in nodes if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        group = nodes[0].stat().st_gid
        yield Finding(
            "fail",
            "device nodes",
            f"no permission for {', '.join(closed)}",
            f"add this user to group {group} (in Kubernetes: supplementalGroups: [{group}])",
        )
    else:
        yield Finding("ok", "device nodes", ", ".join(path.name for path in nodes))


def _container(root: Path) -> Iterator[Finding]:
    markers = (".dockerenv", "run/.containerenv", "var/run/secrets/kubernetes.io")
    if not any((root / marker).exists() for marker in markers):
        return
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES")
    if visible in {"all", None}:
        yield Finding("ok", "container", f"yes; NVIDIA_VISIBLE_DEVICES={visible or 'not set'}")
    else:
        yield Finding(
            "warn",
            "container",
            f"NVIDIA_VISIBLE_DEVICES={visible} hides some or all GPUs",
            "set it to all, so that the exporter sees every GPU of the machine",
        )


def _readings(config: Config) -> Iterator[Finding]:
    snapshot, why = read_once(config)
    if snapshot.driver is None:
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
        yield _gpu(reading)
    yield from _modes(snapshot)


def _gpu(reading: Reading) -> Finding:
    device = reading.device
    name = f"GPU {device.index}"
    if reading.failure is not None:
        advice = WORDS[reading.failure.reason].advice.format(gpu=device.index)
        return Finding("fail", name, f"{reading.failure.reason}: {reading.failure.message}", advice)
    rows = {metric.name for metric in reading.values} | {metric.name for metric, _ in reading.labelled}
    missing = sorted({metric.name for metric in DEVICE_METRICS if metric.nvml} - rows)
    detail = f"{device.model}, {device.uuid}, {len(reading.values) + len(reading.labelled)} series"
    if missing:
        detail += f"; it does not have: {', '.join(missing)}"
    return Finding("ok", name, detail)


def _kubelet(config: Config) -> Iterator[Finding]:
    pods = KubernetesAllocations(socket=config.owners.kubernetes_socket, resources=config.owners.kubernetes_resources)
    try:
        pods.wait_first(5.0)
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
            for metric, value in reading.values.items()
            if metric.name == name and wrong(value)
        )

    if off := gpus_where("gpu_persistence_mode_enabled", lambda value: value == 0):
        yield Finding(
            "warn",
            "persistence mode",
            f"off on GPU {off}",
            "nvidia-smi -pm 1, or enable nvidia-persistenced: without it each start of a job waits for the driver",
        )
    if mig := gpus_where("gpu_mig_mode_enabled", lambda value: value == 1):
        yield Finding("warn", "MIG", f"on for GPU {mig}", "utilization does not exist in MIG mode; it is left out")


def _namespace(root: Path) -> Iterator[Finding]:
    try:
        namespace = str((root / "proc/self/ns/pid").readlink())
    except OSError:
        return
    if namespace == _HOST_PID_NAMESPACE:
        yield Finding("ok", "PID namespace", "the host's")
    else:
        yield Finding(
            "warn",
            "PID namespace",
            "a container's own: processes of other containers cannot be named",
            "--pid=host (in Kubernetes: hostPID: true) if you want to know who holds a GPU",
        )
