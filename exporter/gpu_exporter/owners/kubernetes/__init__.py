"""Which pod was given which GPU, as the kubelet of this node tells; docs/KUBERNETES_OWNERS.md has what it needs.

Needs the extra ``kubernetes``, which is imported as the first ``KubernetesAllocations`` is made.
"""

from __future__ import annotations

import logging
import re
import socket as socket_module
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gpu_exporter.config import ConfigError, OwnersConfig
from gpu_exporter.config.installed import remedy
from gpu_exporter.model import Identity
from gpu_exporter.owners import Allocations
from gpu_exporter.owners.kubernetes.dra import DRIVER, DynamicDevices, named_devices
from gpu_exporter.owners.kubernetes.messages import Allocation, PodResourcesError, allocations

__all__ = ["KubernetesAllocations", "MissingExtraError", "device_key", "named_devices", "open_allocations"]

log = logging.getLogger(__name__)

STALE_AFTER: Final = 3  # intervals
_RETRY_MOST: Final = 30.0
_MOST_HOLDERS: Final = 16_384  # (device, identity) pairs; 16 GPUs shared 100 ways are a tenth of that
_NOTHING: Final[Mapping[str, Sequence[Identity]]] = MappingProxyType({})

_HEX: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# ``::3`` is the replica of a time-sliced or MPS-shared device (AnnotatedID of NVIDIA's k8s-device-plugin).
_UUID: Final = re.compile(rf"((?:GPU|MIG)-{_HEX}|MIG-GPU-{_HEX}/[0-9]{{1,3}}/[0-9]{{1,3}})(?:::[0-9]+)?")
# GKE's plugin: nvidia0, nvidia0/gi1, nvidia0/vgpu2, nvidia0/gi1/vgpu2. A bare number is an index.
_INDEX: Final = re.compile(r"([0-9]{1,4})(?:::[0-9]+)?|nvidia([0-9]{1,4})(?:/gi[0-9]+)?(?:/vgpu[0-9]+)?")


class MissingExtraError(Exception):
    """A library that this feature needs is not installed; the message tells how to install it."""


def open_allocations(config: OwnersConfig, _user_name: Callable[[int], str]) -> Allocations | None:
    """What the settings ask for. Raises ConfigError where the library for it is missing."""
    if not config.kubernetes:
        return None
    try:
        return KubernetesAllocations(
            socket=config.kubernetes_socket,
            resources=config.kubernetes_resources,
            timeout=config.kubernetes_timeout,
        )
    except MissingExtraError as error:
        raise ConfigError(f"owners.kubernetes: {error}") from None


def device_key(identifier: str) -> str | None:
    """The UUID or the index, as text, of the device that a device plugin's identifier stands for.

    An instance that is told by its GPU's index only (GKE's ``nvidia0/gi1``) comes out as that GPU. None is an
    identifier of unknown form.
    """
    if match := _UUID.fullmatch(identifier):
        return match[1]
    if match := _INDEX.fullmatch(identifier):
        return str(int(match[1] or match[2]))
    return None


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known at one moment. ``asked`` is when the answer was asked for, on the monotonic clock."""

    identities: Mapping[str, Sequence[Identity]] = field(default_factory=lambda: _NOTHING)
    asked: float | None = None
    trouble: str | None = "the kubelet has not answered yet"


class KubernetesAllocations:
    """Asks the kubelet every ``interval`` seconds, on a thread of its own from the first moment on, until ``close``.

    ``resources`` are names of device plugins' resources, ``*`` and ``?`` allowed. Every call to the kubelet may take
    ``timeout`` seconds; after a failure it is asked again soon, then less and less often. What was asked for more than
    three intervals and a timeout ago is withheld. ``own_pod`` is the exporter's own (a pod's host name is its name),
    whose claim on every GPU with adminAccess holds none of them. Raises MissingExtraError.
    """

    def __init__(
        self,
        *,
        socket: Path,
        resources: Sequence[str],
        interval: float = 10.0,
        timeout: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        devices: DynamicDevices | None = None,
        own_pod: str | None = None,
    ) -> None:
        try:
            from gpu_exporter.owners.kubernetes.client import Client  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in {"h2", "hpack", "hyperframe"}:
                raise
            raise MissingExtraError(
                f"asking the kubelet needs the Python library {library}; {remedy([library])}"
            ) from None
        self._client = Client(path=socket, timeout=timeout)
        self._wanted = lru_cache(1024)(partial(_matches, tuple(resources)))
        self._devices = devices or DynamicDevices()
        self._own_pod = socket_module.gethostname() if own_pod is None else own_pod
        self._interval = interval
        self._stale_after = STALE_AFTER * interval + timeout
        self._monotonic = monotonic
        self._known = _Known()
        self._logged: str | None = None
        self._unknown_told = False
        self._closing = threading.Event()
        self._first_round = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    # --- for any thread ----------------------------------------------------------------------------------------------

    def current(self) -> Mapping[str, Sequence[Identity]]:
        """Identities by UUID or index; nobody where the kubelet has not been heard for so long that it may be over."""
        known = self._known
        return known.identities if self._fresh(known) else _NOTHING

    def trouble(self) -> str | None:
        """None where the latest question was answered, else why not; one line."""
        return self._known.trouble

    def wait_first(self, timeout: float) -> bool:
        """Wait until the kubelet was asked once, well or badly."""
        return self._first_round.wait(timeout)

    def close(self) -> None:
        """Stop within a second, whatever the kubelet does: a call in flight is broken off."""
        self._closing.set()
        self._client.close()
        self._thread.join(1.0)

    def _fresh(self, known: _Known) -> bool:
        return known.asked is not None and self._monotonic() - known.asked <= self._stale_after

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                self._ask()
                failures = 0
            except PodResourcesError as error:
                failures += 1
                self._fail(str(error))
            except Exception:  # the thread must outlive a bug
                failures += 1
                log.exception("asking the kubelet failed: this is a bug in gpu-exporter")
                self._known = replace(self._known, trouble="a bug in gpu-exporter, which its log tells")
            self._first_round.set()
            self._closing.wait(self._pause(failures))

    def _pause(self, failures: int) -> float:
        """A kubelet restarts in seconds, so the first retry comes after a tenth of the interval; then it doubles."""
        if not failures:
            return self._interval
        return min(self._interval / 10 * 2.0 ** min(failures - 1, 16), max(self._interval, _RETRY_MOST))

    def _ask(self) -> None:
        asked = self._monotonic()
        message = self._client.call("List")
        identities: dict[str, list[Identity]] = {}
        holders: set[tuple[str, str, str, str]] = set()
        for device, given in self._holders(message):
            holder = (device, given.pod, given.namespace, given.container)
            if holder in holders:
                continue
            holders.add(holder)
            labels = {"pod": given.pod, "namespace": given.namespace}
            identities.setdefault(device, []).append(Identity(container=given.container, labels=labels))
            if len(holders) > _MOST_HOLDERS:
                raise PodResourcesError(f"the answer has more than {_MOST_HOLDERS} holders of devices")
        self._known = _Known(
            identities=MappingProxyType({device: tuple(given) for device, given in identities.items()}),
            asked=asked,
            trouble=None,
        )
        if self._logged is not None or not self._first_round.is_set():
            self._logged = None
            log.info(
                "the kubelet tells which pods hold GPUs", extra={"devices": len(identities), "holders": len(holders)}
            )

    def _holders(self, message: bytes) -> Iterator[tuple[str, Allocation]]:
        """Every allocation that names a GPU, with the GPU."""
        refreshed = False
        for given in allocations(message, wanted=self._wanted):
            if given.dynamic:
                if given.pod == self._own_pod:
                    continue
                if not refreshed:  # nodes without claims have no such files
                    self._devices.refresh()
                    refreshed = True
                keys = self._devices.keys(given.resource, given.device)
            else:
                key = device_key(given.device)
                keys = frozenset() if key is None else frozenset({key})
            if not keys and (not given.dynamic or given.resource == DRIVER):
                self._tell_unknown(given)
            yield from ((key, given) for key in sorted(keys))

    def _tell_unknown(self, given: Allocation) -> None:
        """Log the first device that no GPU can be found for; a node has one device plugin, so others are alike."""
        if not self._unknown_told:
            self._unknown_told = True
            device = given.device[:200].replace("\n", " ")
            log.warning(
                "a pod holds a device whose name does not tell which GPU it is; it is left out",
                extra={"pod": given.pod, "namespace": given.namespace, "resource": given.resource, "device": device},
            )

    def _fail(self, why: str) -> None:
        """Log a trouble once, not once a retry."""
        if why != self._logged and not self._closing.is_set():
            log.warning("not known which pods hold GPUs: %s", why)
        self._logged = why
        self._known = replace(self._known, trouble=why)


def _matches(patterns: Sequence[str], resource: str) -> bool:
    return any(fnmatchcase(resource, pattern) for pattern in patterns)
