"""What stands between this process and NVML: binding, library, kernel driver, device nodes, container."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

from gpu_exporter.config import Config
from gpu_exporter.model import Finding


def findings(_config: Config, root: Path) -> Iterator[Finding]:
    """What ``doctor`` looks at before the driver is opened."""
    from importlib import metadata  # noqa: PLC0415 - only for doctor

    yield Finding("ok", "binding", f"nvidia-ml-py {metadata.version('nvidia-ml-py')}")
    yield from _library()
    yield from _kernel_driver(root)
    yield from _device_nodes(root)
    yield from _container(root)


def _library() -> Iterator[Finding]:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        yield Finding(
            "fail",
            "libnvidia-ml.so.1",
            str(error).removeprefix("libnvidia-ml.so.1: "),
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
    yield Finding("ok", "kernel driver", match[1] if match else text.strip().partition("\n")[0] or "of no version")


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
        names = [path.name for path in nodes]
        missing = [
            what
            for what, there in (
                ("/dev/nvidiactl", "nvidiactl" in names),
                ("/dev/nvidia0 or other GPU's node", names != ["nvidiactl"]),
            )
            if not there
        ]
        if missing:
            yield Finding(
                "warn",
                "device nodes",
                f"no {missing[0]}, only {', '.join(names)}",
                "run nvidia-smi once as root, or start the container with GPUs",
            )
        else:
            yield Finding("ok", "device nodes", ", ".join(names))


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
