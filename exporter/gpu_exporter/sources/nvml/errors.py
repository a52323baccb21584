"""What an NVML return code means: for one value, for one device, or for the whole source."""

from __future__ import annotations

from typing import Final

import pynvml

from gpu_exporter.model import Failure, Reason
from gpu_exporter.sources import SourceError

# The device does not have it, or not now: a GPU that is asleep, sick or partitioned says so too. Asked again now and
# then (rows.py). "Library not found" is what a call says that needs another library than NVML's own.
UNSUPPORTED: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
        pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    }
)
# No value at this moment; asked again at the next tick. Some calls raise NVMLError with code SUCCESS for an empty list.
NO_VALUE_NOW: Final = frozenset(
    {
        pynvml.NVML_SUCCESS,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_NOT_READY,
        pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
        pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    }
)
# The device as a whole is gone, whichever call says so.
_DEVICE_GONE: Final[dict[int, Reason]] = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "lost",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset_required",
}
# What these say of the driver is believed where opening it, or a call without a device, answers so; from one device's
# call they are that call's failure.
_SOURCE_GONE: Final = {
    pynvml.NVML_ERROR_UNINITIALIZED: "NVML was shut down beneath the exporter; it is opened again",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA kernel driver is not loaded: run nvidia-smi to see why",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "libnvidia-ml.so.1 was not found: install the NVIDIA driver, or start the container with GPUs"
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver's library and kernel module differ: the driver was upgraded; reload the module, reboot, or "
        "restart the container"
    ),
}
MISMATCH: Final = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
SOURCE_CODES: Final = frozenset(_SOURCE_GONE) - {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND}
# NVIDIA's container toolkit #48: a container that lost its devices answers 999 or "no permission" for ever; one whose
# driver was upgraded on the host still has the old library mounted.
_RESTART_MAY_HELP: Final = frozenset(
    {
        pynvml.NVML_ERROR_UNKNOWN,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)


# NVML_ERROR_NO_PERMISSION is "no permission".
_WORDS: Final = {
    value: name.removeprefix("NVML_ERROR_").lower().replace("_", " ")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_")
}


class DeviceFailedError(Exception):
    """The device cannot be read at all; ``code`` is what its driver answered, 0 where that was no error."""

    def __init__(self, failure: Failure, code: int = 0) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.code = code


def raise_if_fatal(code: int, call: str) -> None:
    """Raise DeviceFailedError where the code, whichever call says so, condemns the device."""
    if code in _DEVICE_GONE:
        raise DeviceFailedError(failure(code, call), code)


def failure(code: int, call: str) -> Failure:
    """The device's failure for a code that every call answered."""
    reason: Reason = "permission" if code == pynvml.NVML_ERROR_NO_PERMISSION else "unknown"
    return Failure(_DEVICE_GONE.get(code, reason), f"{call}: {described(code)}")


def source_error(code: int) -> SourceError:
    """Why the driver cannot be used, from what opening it answered, or a call without a device."""
    return SourceError(
        _SOURCE_GONE.get(code, f"NVML cannot be opened: {described(code)}"),
        restart_may_help=code in _RESTART_MAY_HELP,
    )


def described(code: int) -> str:
    """A return code in words of ours: the library's own text is not known, and /readyz shows this to anybody."""
    return f"{_WORDS.get(code, 'an error that this exporter does not know')} (NVML error {code})"
