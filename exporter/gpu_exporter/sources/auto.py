"""``source: auto``: the driver's library, and nvidia-smi where that cannot be opened. Never simulated GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from gpu_exporter.config import Config
from gpu_exporter.model import Finding
from gpu_exporter.sources import Source, SourceError, SourceKind, nvml, smi
from gpu_exporter.sources.nvml import NvmlSource
from gpu_exporter.sources.tape import Tape


def _opener(config: Config) -> Callable[[], Source]:
    return _first(config, nvml.KIND.opener(config), smi.KIND.opener(config))


def _recorder(config: Config, tape: Tape) -> Callable[[], Source]:
    return _first(config, nvml.recorder(config, tape), smi.recorder(config, tape))


def _first(config: Config, open_nvml: Callable[[], Source], open_smi: Callable[[], Source]) -> Callable[[], Source]:
    program = smi.program(config)

    def opened() -> Source:
        try:
            return open_nvml()
        except SourceError as error:
            # What only a new process cures must be said, and not be lived with.
            if error.restart_helps or error.restart_may_help or program.path is None:
                raise
            try:
                return open_smi()
            except SourceError as other:
                raise SourceError(f"{error}; {other}") from other

    return opened


def _findings(config: Config, root: Path) -> Iterator[Finding]:
    """Those of NVML; where that cannot be loaded and there is an nvidia-smi, those of both."""
    found = list(nvml.KIND.findings(config, root))
    instead = any(each.state == "fail" for each in found) and smi.program(config).path is not None
    for each in found:
        yield (
            replace(each, state="warn", detail=f"{each.detail}; nvidia-smi is asked instead")
            if (instead and each.state == "fail")
            else each
        )
    if instead:
        yield from smi.KIND.findings(config, root)


KIND: Final = SourceKind(source=NvmlSource, opener=_opener, findings=_findings, recorder=_recorder)
