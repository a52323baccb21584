"""The resolver that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Protocol, cast

from gpu_exporter.catalog.owner_kinds import OWNER_KINDS
from gpu_exporter.config import Config, OwnersConfig
from gpu_exporter.owners import Allocations
from gpu_exporter.owners.pod_logs import PodNames
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.owners.user_names import host_names


class AllocationsModule(Protocol):
    """What the module of owners/ has that an owner kind names as its source."""

    @staticmethod
    def open_allocations(config: OwnersConfig, user_name: Callable[[int], str], /) -> Allocations | None:
        """What the settings ask for; ``user_name`` tells a uid's name without waiting. Raises ConfigError."""


def open_resolver(config: Config) -> Resolver:
    """What the settings ask for. Raises ConfigError where a library for it is missing."""
    names = host_names()
    allocations = list(_allocations(config.owners, names.name))
    procfs = ProcfsIdentities(names=names, nested=config.owners.procfs_nested) if config.owners.procfs else None
    return Resolver(processes=procfs, allocations=allocations, pods=PodNames(), user_name=names.name)


def _allocations(config: OwnersConfig, user_name: Callable[[int], str]) -> Iterator[Allocations]:
    for kind in OWNER_KINDS:
        if kind.source:
            module = cast("AllocationsModule", import_module(f"gpu_exporter.owners.{kind.source}"))
            found = module.open_allocations(config, user_name)
            if found is not None:
                yield found
