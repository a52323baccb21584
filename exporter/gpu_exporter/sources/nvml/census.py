"""How many GPUs there are, and whether some have come or gone since NVML was opened.

NVML lists what it found as it was opened, so a change shows in the kernel's own lists as well, where they are visible.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import pynvml

from gpu_exporter.sources import SourceChangedError, SourceError

log = logging.getLogger(__name__)

_EVERY: Final = 20.0  # seconds between two looks
# More than any machine has; each costs memory and calls.
_MOST_GPUS: Final = 256
# The kernel driver's own list, and the devices that it is bound to (sysfs tells those in every container).
_LISTS: Final = ("proc/driver/nvidia/gpus/*", "sys/bus/pci/drivers/nvidia/*:*:*.*")


class Census:
    """Counts the GPUs as NVML is opened, and now and then from there on; times are monotonic seconds.

    The constructor raises NVMLError where they cannot be counted, and SourceError where there cannot be so many.
    """

    def __init__(self, root: Path, *, now: float) -> None:
        self._root = root
        self._due = now + _EVERY
        self._bound = self._listed()
        told = int(pynvml.nvmlDeviceGetCount())
        self._refused: int | None = None
        if not self._possible(told):
            told = _found()
            if told > _MOST_GPUS:
                raise SourceError(f"the driver tells of more than {_MOST_GPUS} GPUs, which cannot be")
        self.count: Final = told

    def take(self, now: float) -> None:
        """Raise SourceChangedError where the GPUs are not those of the opening any more."""
        if now < self._due:
            return
        self._due = now + _EVERY
        bound = self._listed()
        if bound != self._bound:
            raise SourceChangedError(f"the kernel driver has {len(bound)} GPUs, and had {len(self._bound)}")
        try:
            told = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:  # the readings tell what is wrong
            return
        if self._possible(told) and told != self.count:
            raise SourceChangedError(f"the driver lists {told} GPUs, and listed {self.count}")

    def _listed(self) -> frozenset[str]:
        return frozenset(f"{pattern[:4]} {path.name}" for pattern in _LISTS for path in self._root.glob(pattern))

    def _possible(self, told: int) -> bool:
        possible = 0 <= told <= _MOST_GPUS
        if not possible and told != self._refused:
            log.warning("the driver tells an impossible number", extra={"of": "GPUs", "count": told})
        self._refused = None if possible else told
        return possible


def _found() -> int:
    """How many GPUs can be looked up, one by one; one that is sick is there."""
    for index in range(_MOST_GPUS + 1):
        try:
            pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_INVALID_ARGUMENT:
                return index
    return _MOST_GPUS + 1
