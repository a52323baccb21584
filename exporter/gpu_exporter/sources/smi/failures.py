"""What nvidia-smi's exit status, its remarks and its bracketed cells mean: for one GPU, or for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Failure, Reason
from gpu_exporter.sources import SourceError
from gpu_exporter.sources.program import MissingProgramError, ProgramError, Said

# nvidia-smi(1), "return value". 18 is not listed there; it is what NVML answers, and nvidia-smi with it.
_NO_PERMISSION: Final = 4
_NOTHING_FOUND: Final = 6
_CORRUPT_INFOROM: Final = 14  # it complains, and prints its table
_ALL: Final[Mapping[int, str]] = {
    9: "the NVIDIA kernel driver is not loaded: run nvidia-smi to see why",
    12: "libnvidia-ml.so.1 was not found: install the NVIDIA driver, or start the container with GPUs",
    18: "the driver's library and kernel module differ: the driver was upgraded; reload the module, or reboot",
}
_ONE: Final[Mapping[int, tuple[Reason, str]]] = {
    3: ("unknown", "the operation is not available on this GPU"),
    _NO_PERMISSION: ("permission", "no permission for this GPU"),
    _NOTHING_FOUND: ("lost", "it is not found any more"),
    8: ("unknown", "its external power cables are not attached"),
    10: ("unknown", "the kernel detected an interrupt issue with it"),
    13: ("unknown", "NVML does not have a function that nvidia-smi needs"),
    _CORRUPT_INFOROM: ("unknown", "its infoROM is corrupted"),
    15: ("lost", "it has fallen off the bus or cannot be reached"),
}
# Words of NVML's errors, as nvidia-smi writes them into its remarks and, in brackets, into cells.
_WORDS: Final[tuple[tuple[str, Reason], ...]] = (
    ("gpu is lost", "lost"),
    ("fallen off the bus", "lost"),
    ("requires reset", "reset_required"),
    ("reset required", "reset_required"),
    ("insufficient permissions", "permission"),
)
# A cell that says so belongs to a GPU that has no such value.
_NOT_THERE: Final = frozenset(
    {
        "",
        "N/A",
        "Not Supported",
        "Not Available",
        "Not Found",
        "Function Not Found",
        "Requested functionality has been deprecated",
    }
)
_GPU_OF: Final = re.compile(
    r"\bGPU ?(?:[0-9]+ ?: ?)?(?=[0-9A-Fa-f]{3,8}:)([0-9A-Fa-f:]+\.[0-9A-Fa-f])\b", re.IGNORECASE
)
_INIT_FAILED: Final = "Failed to initialize NVML"
_NOBODY: Final = "No devices were found"


def raise_for_all(said: Said) -> None:
    """Raise SourceError where what nvidia-smi said is of the driver, and not of one GPU."""
    if said.code in _ALL:
        raise SourceError(_ALL[said.code])
    if said.code and (told := next((line for line in said.lines if line.startswith(_INIT_FAILED)), None)):
        # NVIDIA's container toolkit #48: a container that lost its devices answers so for ever.
        raise SourceError(f"nvidia-smi: {shown(told)}", restart_may_help="mismatch" not in told)


def source_error(error: ProgramError) -> SourceError:
    """Nothing can be asked at all."""
    advice = "; install the NVIDIA driver, or name it by smi.path" if isinstance(error, MissingProgramError) else ""
    return SourceError(f"{error}{advice}")


def finds_none(said: Said) -> bool:
    """Whether nvidia-smi said that there is no GPU, or none of that name."""
    return said.code == _NOTHING_FOUND or any(line.startswith(_NOBODY) for line in said.lines)


def of_status(said: Said) -> Failure:
    """Why one GPU that was asked for alone, or for which there is no row, could not be read."""
    if said.code < 0:
        return Failure("unknown", f"nvidia-smi was killed by signal {-said.code}")
    reason, text = _ONE.get(said.code, ("unknown", f"nvidia-smi ended with status {said.code}"))
    return Failure(_reason(said.complaint) or reason, f"{text}: {said.complaint}" if said.complaint else text)


def of_remarks(remarks: Iterable[str]) -> Iterator[tuple[str, Failure]]:
    """GPUs of which it said ``Unable to determine the device handle for GPU …: GPU is lost``, by bus address."""
    for line in remarks:
        match = _GPU_OF.search(line)
        if match is not None and not line.lower().startswith("warning"):
            yield bus(match[1]), Failure(_reason(line) or "unknown", f"nvidia-smi: {shown(line)}")


def of_cell(text: str) -> str | None:
    """What is wrong with a cell that holds no value: empty where the GPU just has none, None where it may hold one."""
    inner = text[1:-1].strip() if text.startswith("[") and text.endswith("]") else text
    if inner in _NOT_THERE:
        return ""
    return shown(inner, 40) if inner != text or text == "ERR!" else None


def of_error(text: str) -> Reason | None:
    """The reason for which a whole GPU fails whose cell says so; None where that is of the cell alone."""
    reason = _reason(text)
    return None if reason == "permission" else reason


def bus(address: str) -> str:
    """A PCI address, written alike whoever tells it: nvidia-smi's domain has three, four or eight digits."""
    domain, _, rest = address.lower().partition(":")
    return f"{int(domain or '0', 16):x}:{rest}" if re.fullmatch("[0-9a-f]*", domain) else address.lower()


def _reason(text: str) -> Reason | None:
    return next((reason for words, reason in _WORDS if words in text.lower()), None)
