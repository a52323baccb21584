"""Who a device is: its UUID is asked with each new handle, the rest until it is told."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pynvml

from gpu_exporter.model import Device, Driver
from gpu_exporter.sources.nvml.again import SELDOM, SOON, Again
from gpu_exporter.sources.nvml.errors import raise_if_fatal

_ARCHITECTURES: Final = {
    getattr(pynvml, name): name.removeprefix("NVML_DEVICE_ARCH_").capitalize()
    for name in dir(pynvml)
    if name.startswith("NVML_DEVICE_ARCH_") and name != "NVML_DEVICE_ARCH_UNKNOWN"
}
_NOT_TOLD: Final = 0xFF
# nvml.h, nvmlBrandType_t, in NVIDIA's own spelling.
_BRANDS: Final = {
    pynvml.NVML_BRAND_QUADRO: "Quadro",
    pynvml.NVML_BRAND_TESLA: "Tesla",
    pynvml.NVML_BRAND_NVS: "NVS",
    pynvml.NVML_BRAND_GRID: "GRID",
    pynvml.NVML_BRAND_GEFORCE: "GeForce",
    pynvml.NVML_BRAND_TITAN: "Titan",
    pynvml.NVML_BRAND_NVIDIA_VAPPS: "NVIDIA Virtual Applications",
    pynvml.NVML_BRAND_NVIDIA_VPC: "NVIDIA Virtual PC",
    pynvml.NVML_BRAND_NVIDIA_VCS: "NVIDIA Virtual Compute Server",
    pynvml.NVML_BRAND_NVIDIA_VWS: "NVIDIA RTX Virtual Workstation",
    pynvml.NVML_BRAND_NVIDIA_CLOUD_GAMING: "NVIDIA Cloud Gaming",
    pynvml.NVML_BRAND_QUADRO_RTX: "Quadro RTX",
    pynvml.NVML_BRAND_NVIDIA_RTX: "NVIDIA RTX",
    pynvml.NVML_BRAND_NVIDIA: "NVIDIA",
    pynvml.NVML_BRAND_GEFORCE_RTX: "GeForce RTX",
    pynvml.NVML_BRAND_TITAN_RTX: "Titan RTX",
}


def uuid_of(handle: Any) -> str:
    """The UUID; empty where it is not told. Raises DeviceFailedError where the device is gone."""
    return _text(pynvml.nvmlDeviceGetUUID, handle)


class Nameplate:
    """What one device has told of itself. Belongs to whichever thread reads the device.

    What it has not told is asked again: a GPU that is sick or asleep as it is first seen gets its name when it is well.
    Some of it many devices never have (a GeForce has no serial number), which costs a few calls every five minutes.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._again = Again(most=SOON)

    def ask_at_once(self) -> None:
        """Ask for what is missing at the next reading."""
        self._again.at_once()

    def complete(self, handle: Any, now: float) -> Device:
        """Ask for what is missing, where that is due; ``now`` is monotonic seconds. Raises DeviceFailedError."""
        if self._again.due(now):
            for name in [name for name in _ASKED if not getattr(self.device, name)]:
                self.device = replace(self.device, **{name: _ASKED[name](handle)})  # type: ignore[arg-type]
            self.device = replace(self.device, **_place(handle))  # type: ignore[arg-type]
            # Its name every device has.
            self._again.most = SOON if not (self.device.uuid and self.device.model) else SELDOM
            self._again.later(now)
        return self.device


def unanswered(index: int, count: int, *, root: Path = Path("/")) -> Device:
    """What the kernel driver's /proc files tell of a device that NVML cannot look up.

    NVML numbers devices in the order of their bus addresses, as the files are named; where their number is not NVML's
    ``count`` (a container sees some only), the device stays nameless.
    """
    files = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    if len(files) != count:
        return Device(index=index, uuid="", model="")
    try:
        text = files[index].read_text("utf-8", "replace")
    except OSError:
        return Device(index=index, uuid="", model="")
    told = dict(re.findall(r"^([^:\n]+):[ \t]*(\S.*)$", text, re.MULTILINE))
    uuid = told.get("GPU UUID", "")
    return Device(
        index=index,
        uuid=uuid if re.fullmatch(r"GPU-[0-9A-Fa-f-]{36}", uuid) else "",  # a GPU without firmware tells question marks
        model=told.get("Model", ""),
        pci_bus_id=f"0000{told['Bus Location']}".upper() if "Bus Location" in told else "",
    )


def driver() -> Driver:
    """Versions of driver, CUDA and NVML; what is refused stays empty."""
    cuda = _told(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return Driver(
        driver_version=_decoded(_told(pynvml.nvmlSystemGetDriverVersion)),
        cuda_version="" if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nvml_version=_decoded(_told(pynvml.nvmlSystemGetNVMLVersion)),
    )


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        raise_if_fatal(error.value, call.__name__)
    except ValueError:  # a corrupt InfoROM answers noise, which pynvml decodes as UTF-8
        pass
    return None


def _told(call: Callable[..., Any]) -> Any:
    try:
        return call()
    except (pynvml.NVMLError, ValueError):
        return None


def _text(call: Callable[..., Any], *arguments: Any) -> str:
    return _decoded(_ask(call, *arguments))


def _decoded(answer: Any) -> str:
    if isinstance(answer, bytes):
        answer = answer.decode("utf-8", "replace")
    return str(answer or "").strip()


def _bus_id(handle: Any) -> Any:
    return pynvml.nvmlDeviceGetPciInfo(handle).busId


def _place(handle: Any) -> dict[str, str]:
    """Where it is in an NVLink fabric, and in its rack; the fabric may be set up later, and anew."""
    place = {}
    fabric = _filled("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfoV_t", handle)
    if fabric is not None and fabric.state == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED and any(fabric.clusterUuid):
        place = {"cluster_uuid": str(UUID(bytes=bytes(fabric.clusterUuid))), "clique": str(fabric.cliqueId)}
    platform = _filled("nvmlDeviceGetPlatformInfo", "c_nvmlPlatformInfo_v2_t", handle)
    if platform is not None:
        # As bytes: pynvml takes numbers for characters, and noise for UTF-8.
        structure, raw = type(platform), bytes(platform)
        serial = structure.chassisSerialNumber
        text = raw[serial.offset : serial.offset + serial.size].partition(b"\0")[0].decode("ascii", "replace").strip()
        place["chassis"] = text if text.isprintable() and text.isascii() else ""
        numbers = {"slot": "slotNumber", "tray": "trayIndex", "host": "hostId", "module": "moduleId"}
        told = {name: raw[getattr(structure, member).offset] for name, member in numbers.items()}
        place |= {name: str(number) for name, number in told.items() if number != _NOT_TOLD}
    return place


def _filled(call: str, structure: str, handle: Any) -> Any:
    """A structure as the driver fills it in; None where it, or this binding, has no such call."""
    if not hasattr(pynvml, call) or not hasattr(pynvml, structure):
        return None
    filled = getattr(pynvml, structure)()
    return filled if _ask(getattr(pynvml, call), handle, ctypes.byref(filled)) is not None else None


_ASKED: Final[dict[str, Callable[[Any], str]]] = {
    "uuid": uuid_of,
    "model": partial(_text, pynvml.nvmlDeviceGetName),
    "architecture": lambda handle: _ARCHITECTURES.get(_ask(pynvml.nvmlDeviceGetArchitecture, handle), ""),
    "brand": lambda handle: _BRANDS.get(_ask(pynvml.nvmlDeviceGetBrand, handle), ""),
    "pci_bus_id": partial(_text, _bus_id),
    "serial": partial(_text, pynvml.nvmlDeviceGetSerial),
    "vbios_version": partial(_text, pynvml.nvmlDeviceGetVbiosVersion),
}
