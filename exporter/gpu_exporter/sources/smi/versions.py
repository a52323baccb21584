"""The versions that ``nvidia-smi --version`` prints."""

from __future__ import annotations

import re
from typing import Final

from gpu_exporter.model import Driver
from gpu_exporter.sources.program import ProgramError, Run

_TIMEOUT: Final = 10.0  # seconds
_LINE: Final = re.compile(r"^([A-Za-z]+) version +: ([0-9][0-9.]{0,30})\s*$", re.MULTILINE | re.IGNORECASE)


def versions(run: Run) -> Driver:
    """Versions of driver, CUDA and NVML; empty is what is not told. Older nvidia-smi do not have the option."""
    try:
        said = run(["--version"], timeout=_TIMEOUT)
    except ProgramError:
        return Driver()
    told = {name.upper(): version for name, version in _LINE.findall(said.out)} if said.code == 0 else {}
    return Driver(
        driver_version=told.get("DRIVER", ""),
        cuda_version=told.get("CUDA", ""),
        nvml_version=told.get("NVML", ""),
    )
