"""Puts names to what runs on each GPU: processes, and what workload managers have allocated, joined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from gpu_exporter.catalog.owner_kinds import OWNER_KINDS
from gpu_exporter.model import Identity, Process, Reading
from gpu_exporter.owners import Allocations, ProcessIdentities
from gpu_exporter.owners.pod_logs import PodNames

log = logging.getLogger(__name__)

_UNKNOWN: Final = Identity()
# Of one device, as of the tick before: its processes, what was told of each, and the processes with that.
_Named: TypeAlias = tuple[tuple[Process, ...], tuple[Identity | None, ...], tuple[Process, ...]]


class Resolver:
    """Puts names to readings: who each process is, and to whom each device was allocated. Belongs to one thread.

    ``processes`` tells who a process is, None where nothing can; ``allocations`` come in order of precedence;
    ``user_name`` tells a uid's name, or the uid as text, without waiting.
    """

    def __init__(
        self,
        *,
        processes: ProcessIdentities | None = None,
        allocations: Sequence[Allocations] = (),
        pods: PodNames | None = None,
        user_name: Callable[[int], str] = str,
    ) -> None:
        self._processes = processes
        self._allocations = allocations
        self._pods = pods
        self.user_name: Final = user_name
        self._trouble_told = ""
        self._seen: dict[int, tuple[Identity, str] | None] = {}  # this tick's processes: identity, uid of the pod
        self._jobs: dict[str, Identity] = {}  # this tick's: whose each Slurm job is, as its prolog has told
        self._before: dict[str, _Named] = {}

    def name_owners(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings with who each process is and who was given each device.

        Processes that are known to have ended are dropped; those that cannot be seen have an empty identity.
        """
        given = [source.current() for source in self._allocations]
        self._seen.clear()
        self._jobs = {
            job: identity
            for source in given
            for identities in source.values()
            for identity in identities
            if identity.user and (job := identity.labels.get("slurm_job"))
        }
        named = [self._name(reading, given) for reading in readings]
        present = {reading.device.key for reading in readings}
        self._before = {key: before for key, before in self._before.items() if key in present}
        if self._processes is not None:
            self._processes.forget_but(list(self._seen))
            self._tell_blind(named)
        return named

    def close(self) -> None:
        """Stop asking."""
        for source in self._allocations:
            source.close()
        if self._processes is not None:
            self._processes.close()

    def _name(self, reading: Reading, given: Sequence[Mapping[str, Sequence[Identity]]]) -> Reading:
        device = reading.device
        keys = (device.uuid, str(device.index))
        whole = [identity for source in given for key in keys for identity in source.get(key, ())]
        parts = {
            uuid: [identity for source in given for identity in source.get(uuid, ())] for uuid in reading.mig_uuids
        }
        allocations = _once([*whole, *(identity for part in parts.values() for identity in part)])
        near = {uuid: _once(part or whole) for uuid, part in parts.items()}
        if allocations:
            reading = replace(reading, allocations=allocations, mig_allocations=near)
        if not reading.processes:
            return reading
        identities = tuple(
            self._identity(process, near.get(process.mig_uuid, allocations), reading.listed_at)
            for process in reading.processes
        )
        before = self._before.get(device.key)
        # Between two lists of the driver's, and mostly from one to the next, nothing changes.
        if before is None or before[0] != reading.processes or before[1] != identities:
            named = tuple(
                process if identity is process.identity else replace(process, identity=identity)
                for process, identity in zip(reading.processes, identities, strict=True)
                if identity is not None
            )
            before = self._before[device.key] = (reading.processes, identities, named)
        return replace(reading, processes=before[2])

    def _identity(self, process: Process, allocations: Sequence[Identity], listed_at: float | None) -> Identity | None:
        """Who the process is, joined with the allocation that it must belong to; None where it has ended."""
        if process.identity is not None:
            return process.identity
        if self._processes is None or not self._processes.visible:
            return _UNKNOWN
        if process.pid not in self._seen:
            identity = self._processes.identity(process.pid, listed_at=listed_at)
            if identity is not None and (job := self._jobs.get(identity.labels.get("slurm_job", ""))):
                # A job is its user's, as whomever its processes run (rootless containers: subordinate uids).
                identity = replace(identity, user=job.user, uid=job.uid)
            self._seen[process.pid] = None if identity is None else (identity, self._processes.pod_uid(process.pid))
        seen = self._seen[process.pid]
        if seen is None:
            return None
        return self._in_pod(*seen, allocations) if seen[1] else _in_allocation(seen[0], allocations)

    def _in_pod(self, identity: Identity, uid: str, allocations: Sequence[Identity]) -> Identity:
        """The kubelet tells pods without their uids: where several share the device, only their folders tell which."""
        if self._pods is not None and (named := self._pods.name(uid)) is not None:
            return _labelled(identity, {"namespace": named[0], "pod": named[1]})
        pods = [other for other in allocations if "pod" in other.labels]
        return _labelled(identity, pods[0].labels) if len(pods) == 1 else identity

    def _tell_blind(self, readings: Sequence[Reading]) -> None:
        """Log why processes cannot be seen, once; again where it is another reason."""
        trouble = self._processes.trouble if self._processes is not None else ""
        if not trouble or trouble == self._trouble_told:
            return
        if any(process.identity == _UNKNOWN for reading in readings for process in reading.processes or ()):
            self._trouble_told = trouble
            log.warning("processes have no owner: %s", trouble)


def _once(identities: Iterable[Identity]) -> tuple[Identity, ...]:
    """Each owner once: a pod's containers are one holder, and a device may be named in two ways."""
    found: dict[frozenset[tuple[str, str]], Identity] = {}
    for identity in identities:
        found.setdefault(frozenset(identity.labels.items()), identity)
    return tuple(found.values())


def _in_allocation(identity: Identity, allocations: Sequence[Identity]) -> Identity:
    """A site whose job steps have no cgroup: the one job on the device is the process's where the user is the same."""
    for kind in OWNER_KINDS if allocations else ():
        if kind.name == "user" and kind.labels and kind.labels[0] not in identity.labels:
            given = [other for other in allocations if kind.labels[0] in other.labels]
            if len(given) == 1 and _same_user(given[0], identity):
                return _labelled(identity, given[0].labels)
    return identity


def _same_user(one: Identity, other: Identity) -> bool:
    """By uid where both tell it: the name of one of them may come later."""
    if one.uid is not None and other.uid is not None:
        return one.uid == other.uid
    return one.user == other.user


def _labelled(identity: Identity, labels: Mapping[str, str]) -> Identity:
    return replace(identity, labels={**identity.labels, **labels})
