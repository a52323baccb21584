"""Who a device is: read once, when its handle is taken."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pynvml

from gpu_exporter.model import Device, Driver
from gpu_exporter.sources.nvml.errors import raise_if_fatal

_ARCHITECTURES: Final = {
    getattr(pynvml, name): name.removeprefix("NVML_DEVICE_ARCH_").capitalize()
    for name in dir(pynvml)
    if name.startswith("NVML_DEVICE_ARCH_") and name != "NVML_DEVICE_ARCH_UNKNOWN"
}
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


def device(index: int, handle: Any) -> Device:
    """The device's identity. What it does not tell stays empty; DeviceFailedError where it is gone."""
    return Device(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID, handle),
        model=_text(pynvml.nvmlDeviceGetName, handle),
        architecture=_ARCHITECTURES.get(_ask(pynvml.nvmlDeviceGetArchitecture, handle), ""),
        brand=_BRANDS.get(_ask(pynvml.nvmlDeviceGetBrand, handle), ""),
        pci_bus_id=_bus_id(handle),
        serial=_text(pynvml.nvmlDeviceGetSerial, handle),
        vbios_version=_text(pynvml.nvmlDeviceGetVbiosVersion, handle),
    )


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
        uuid=uuid if re.fullmatch(r"GPU-[0-9a-f-]{36}", uuid) else "",  # a GPU without firmware tells question marks
        model=told.get("Model", ""),
        pci_bus_id=f"0000{told['Bus Location']}".upper() if "Bus Location" in told else "",
    )


def driver() -> Driver:
    """Versions of driver, CUDA and NVML."""
    cuda = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return Driver(
        driver_version=_text(pynvml.nvmlSystemGetDriverVersion),
        cuda_version="" if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        nvml_version=_text(pynvml.nvmlSystemGetNVMLVersion),
    )


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        raise_if_fatal(error.value, call.__name__)
        return None


def _text(call: Callable[..., Any], *arguments: Any) -> str:
    try:
        answer = _ask(call, *arguments)
    except UnicodeDecodeError:  # a corrupt InfoROM answers noise, which pynvml decodes as UTF-8
        return ""
    if isinstance(answer, bytes):
        answer = answer.decode("utf-8", "replace")
    return answer or ""


def _bus_id(handle: Any) -> str:
    info = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    if info is None:
        return ""
    bus_id = info.busId
    return bus_id.decode("ascii", "replace") if isinstance(bus_id, bytes) else str(bus_id)
