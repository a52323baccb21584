"""The resolver that the settings ask for."""

from __future__ import annotations

from gpu_exporter.config import Config, ConfigError
from gpu_exporter.owners import Allocations
from gpu_exporter.owners.kubernetes import KubernetesAllocations, MissingExtraError
from gpu_exporter.owners.pod_logs import PodNames
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.resolver import Resolver
from gpu_exporter.owners.slurm import SlurmFiles
from gpu_exporter.owners.user_names import host_names


def open_resolver(config: Config) -> Resolver:
    """What the settings ask for. Raises ConfigError where a library for it is missing."""
    names = host_names()
    owners = config.owners
    allocations: list[Allocations] = []
    if owners.kubernetes:
        try:
            allocations.append(
                KubernetesAllocations(socket=owners.kubernetes_socket, resources=owners.kubernetes_resources)
            )
        except MissingExtraError as error:
            raise ConfigError(f"owners.kubernetes: {error}") from None
    allocations.append(SlurmFiles(directory=owners.slurm_directory, user_name=names.name))
    procfs = ProcfsIdentities(names=names, nested=owners.procfs_nested) if owners.procfs else None
    return Resolver(processes=procfs, allocations=allocations, pods=PodNames())
