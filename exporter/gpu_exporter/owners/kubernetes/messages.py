"""What the kubelet's pod-resources API answers to List, decoded.

Field numbers are those of Kubernetes' staging/src/k8s.io/kubelet/pkg/apis/podresources/v1/api.proto (1.20 to 1.36).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

# Against answers made to keep us busy: 16 MiB could be 8 million fields, which take seconds. What a kubelet tells is
# less by far, as the identifiers of a resource that is not wanted are passed over in one step.
_MOST_FIELDS: Final = 2_000_000
_LONGEST_TEXT: Final = 4096  # Kubernetes' own names end at 317


class PodResourcesError(Exception):
    """The kubelet could not be asked or its answer not be read; the message is one line."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """One device that a container was given.

    ``resource`` is the device plugin's resource and ``device`` its identifier; with ``dynamic``, ``resource`` is the
    DRA driver and ``device`` every name that the claim has for the device, one a line.
    """

    pod: str
    namespace: str
    container: str
    resource: str
    device: str
    dynamic: bool = False


def allocations(message: bytes, *, wanted: Callable[[str], bool]) -> Iterator[Allocation]:
    """The devices in an answer to List: of resources that are ``wanted``, and everything that DRA handed out.

    Nothing is kept but the answer: a message is walked for its names first, then for what it is made of.
    """
    read = _Reader()
    for pod in read.all(memoryview(message), 1):
        name, namespace = read.text(pod, 1), read.text(pod, 2)
        for container in read.all(pod, 3):
            container_name = read.text(container, 1)
            for given in read.all(container, 2):
                for resource, device in _devices(read, given, wanted):
                    yield Allocation(name, namespace, container_name, resource, device)
            for claim in read.all(container, 5):
                for given in read.all(claim, 4):
                    told = [read.text(device, 1) for device in read.all(given, 1)] + [read.text(given, 4)]
                    driver = read.text(given, 2)
                    yield Allocation(name, namespace, container_name, driver, "\n".join(told), dynamic=True)


def _devices(read: _Reader, message: memoryview, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Resource and device of a ContainerDevices. Some plugins give a pod hundreds, with names of ten bytes."""
    number, value = next(read.fields(message), (0, None))
    if number == 1 and value is not None and not wanted(_text(value)):
        return  # a name comes first and once, as everybody writes it
    resource = read.text(message, 1)
    if wanted(resource):
        for identifier in read.all(message, 2):
            yield resource, _text(identifier)


class _Reader:
    """Walks protobuf messages, of which this service needs strings and messages only; counts the fields it passes."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def text(self, message: memoryview, wanted: int) -> str:
        """A field that occurs once; protobuf lets the last one win. Absent is empty."""
        last = None
        for last in self.all(message, wanted):  # noqa: B007 - the last one
            pass
        return "" if last is None else _text(last)

    def all(self, message: memoryview, wanted: int) -> Iterator[memoryview]:
        """What one field holds, one after the other."""
        return (value for number, value in self.fields(message) if number == wanted)

    def fields(self, message: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The length-delimited fields (https://protobuf.dev/programming-guides/encoding); others are passed over."""
        at, end = 0, len(message)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise PodResourcesError(f"the answer has more than {_MOST_FIELDS} fields")
            tag, at = _varint(message, at)
            number, kind = tag >> 3, tag & 7
            if number == 0:
                raise PodResourcesError("the answer is no protobuf message: field number 0")
            if kind == 2:
                size, start = _varint(message, at)
                at = start + size
                if at <= end:
                    yield number, message[start:at]
            elif kind == 0:
                _, at = _varint(message, at)
            elif kind in {1, 5}:
                at += 8 if kind == 1 else 4
            else:
                raise PodResourcesError(f"the answer is no protobuf message: wire type {kind}")
        if at > end:
            raise PodResourcesError("the answer is no protobuf message: it is cut off")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    if at < len(message) and message[at] < 0x80:  # nearly always
        return message[at], at + 1
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise PodResourcesError("the answer is no protobuf message: it is cut off, or a number has no end")


def _text(value: memoryview) -> str:
    if len(value) > _LONGEST_TEXT:
        raise PodResourcesError(f"the answer has a name of {len(value)} bytes")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise PodResourcesError("the answer has a name that is not UTF-8") from None
