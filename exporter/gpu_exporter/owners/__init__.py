"""Who holds a GPU: from processes (procfs) and from what workload managers have allocated (kubernetes, slurm)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gpu_exporter.model import Identity


class ProcessIdentities(Protocol):
    """Tells who a process is. Asked by the sampler, never by a scrape."""

    @property
    def visible(self) -> bool:
        """Whether the processes that the driver lists can be seen from here at all."""

    @property
    def trouble(self) -> str:
        """Why processes that the driver lists cannot be seen, and what to do; one line, empty while all can."""

    def identity(self, pid: int, *, listed_at: float | None = None) -> Identity | None:
        """Who it is; None where it is known to have ended, an empty identity where it cannot be seen.

        A process that started after the driver listed that pid, at ``listed_at`` (CLOCK_BOOTTIME), is another one.
        Never blocks on a name service.
        """

    def pod_uid(self, pid: int) -> str:
        """The uid of the process's pod, as of the latest ``identity(pid)``; empty where it has none."""

    def forget_but(self, pids: Sequence[int]) -> None:
        """Drop what is remembered of every process but those that are listed."""

    def close(self) -> None:
        """Stop looking."""


class Allocations(Protocol):
    """Tells who was given which GPU, busy or not."""

    def current(self) -> Mapping[str, Sequence[Identity]]:
        """Identities by device: a GPU's UUID, a MIG device's UUID, or a GPU's index as text. Never blocks."""

    def close(self) -> None:
        """Stop looking."""
