"""Which GPU a name of Dynamic Resource Allocation stands for, without asking the API server.

NVIDIA's driver names a GPU after the minor number of its device file (``gpu-0``, and ``gpu-0-mig-…`` for a part of it),
or by CDI names whose specifications, files of this node, tell the device files. Minor numbers become UUIDs by what the
kernel's driver tells below /proc/driver/nvidia. A part of a GPU comes out as that GPU.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

DRIVER: Final = "gpu.nvidia.com"
# https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md: where specifications lie.
CDI: Final = (Path("/etc/cdi"), Path("/var/run/cdi"))
PROC: Final = Path("/proc/driver/nvidia")
_LARGEST: Final = 1024**2  # bytes of a specification
_MOST_FILES: Final = 2_000

_HEX: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAMED: Final = re.compile(rf"(?<![0-9a-z])(gpu|mig)-({_HEX})(?![0-9a-z])", re.IGNORECASE)
_MINOR_NAME: Final = re.compile(r"gpu-([0-9]{1,4})(?:-mig-[0-9a-z-]+)?")
_DEVICE_FILE: Final = re.compile(r"^/dev/nvidia([0-9]{1,4})$", re.MULTILINE)
_INFORMATION: Final = re.compile(r"^\s*(GPU UUID|Device Minor):\s*(\S+)\s*$", re.MULTILINE)


def named_devices(names: str) -> frozenset[str]:
    """The UUIDs within DRA's names for a device; Kubernetes allows lower case only there, NVML writes GPU-, MIG-."""
    return frozenset(f"{kind.upper()}-{uuid.lower()}" for kind, uuid in _NAMED.findall(names))


class DynamicDevices:
    """Belongs to one thread. ``refresh`` before each round; files that have not changed are not read again."""

    def __init__(self, *, cdi: Sequence[Path] = CDI, proc: Path = PROC) -> None:
        self._cdi = tuple(cdi)
        self._proc = proc
        self._minors: dict[int, str] = {}
        self._files: dict[Path, tuple[tuple[int, int], Mapping[str, str]]] = {}
        self._told: set[Path] = set()

    def refresh(self) -> None:
        """Look at the node's files again."""
        self._minors = dict(self._read_minors())
        found: dict[Path, tuple[tuple[int, int], Mapping[str, str]]] = {}
        for path in self._specifications():
            try:
                status = path.stat()
                version = (status.st_mtime_ns, status.st_size)
                known = self._files.get(path)
                found[path] = known if known is not None and known[0] == version else (version, _devices(path))
            except (OSError, ValueError, RecursionError) as error:
                if path not in self._told:
                    self._told.add(path)
                    why = (error.strerror if isinstance(error, OSError) else None) or "is no CDI specification"
                    log.warning("a CDI specification is passed over", extra={"file": str(path), "why": why})
        self._files = found

    def keys(self, driver: str, names: str) -> frozenset[str]:
        """UUIDs of the device that has these names (CDI names, then the driver's own; one a line); empty if unknown."""
        if found := named_devices(names):
            return found
        lines = names.split("\n")
        edits = "\n".join(
            text for _, devices in self._files.values() for name, text in devices.items() if name in lines
        )
        if found := named_devices(edits):
            return found
        minors = {int(number) for number in _DEVICE_FILE.findall(edits)}
        if not minors and driver == DRIVER and (match := _MINOR_NAME.fullmatch(lines[-1])):
            minors = {int(match[1])}
        if not minors <= self._minors.keys():
            return frozenset()  # half an answer would be a wrong one
        return frozenset(self._minors[minor] for minor in minors)

    def _read_minors(self) -> Iterator[tuple[int, str]]:
        for path in sorted(self._proc.glob("gpus/*/information")):
            try:
                told = dict(_INFORMATION.findall(path.read_text("utf-8", "replace")))
            except OSError:
                continue
            uuids = named_devices(told.get("GPU UUID", ""))  # question marks until the GPU was first used
            if len(uuids) == 1 and told.get("Device Minor", "").isdecimal():
                yield int(told["Device Minor"]), next(iter(uuids))

    def _specifications(self) -> list[Path]:
        found = []
        for folder in self._cdi:
            try:
                found += sorted(path for path in folder.iterdir() if path.suffix in {".json", ".yaml"})
            except OSError:
                continue
        return found[:_MOST_FILES]


def _devices(path: Path) -> Mapping[str, str]:
    """The full names of a specification's devices, each with its device files and variables, one a line."""
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError("too large")
    tree = json.loads(content) if path.suffix == ".json" else _yaml(content)
    if not isinstance(tree, dict) or "kind" not in tree:
        raise ValueError("no kind")
    return {
        f"{tree['kind']}={device.get('name')}": "\n".join(_edits(device.get("containerEdits")))
        for device in _list(tree, "devices")
        if isinstance(device, dict)
    }


def _yaml(content: bytes) -> Any:
    import yaml  # noqa: PLC0415 - PyYAML is a MiB, and most nodes have no such file

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError("no YAML") from error


def _edits(tree: Any) -> Iterator[str]:
    for node in _list(tree, "deviceNodes"):
        if isinstance(node, dict):
            yield str(node.get("hostPath") or node.get("path"))
    for variable in _list(tree, "env"):
        yield str(variable)


def _list(tree: Any, key: str) -> list[Any]:
    found = tree.get(key) if isinstance(tree, dict) else None
    return found if isinstance(found, list) else []
