"""The kubelet's pod-resources API: a gRPC call over HTTP/2 on its unix socket, and its two answers decoded.

Field numbers are those of Kubernetes' staging/src/k8s.io/kubelet/pkg/apis/podresources/v1/api.proto (1.20 to 1.36); the
bound on an answer is that of the kubelet's own client. Importing this module needs ``h2``, the extra ``kubernetes``.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

LARGEST: Final = 16 * 1024 * 1024  # bytes of one message: defaultPodResourcesMaxSize of Kubernetes
_OVERHEAD: Final = 1024 * 1024  # bytes of frames and headers around it
_CHUNK: Final = 16 * 1024
_PREFIX: Final = 5  # bytes before a gRPC message: one that tells compression, four of length
# 1 000 pods come to some 15 000 fields. An answer of 16 MiB could hold 8 million, which would take seconds to walk.
_MOST_FIELDS: Final = 250_000
_LONGEST_TEXT: Final = 4096  # Kubernetes' own names end at 317
# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_STATUSES: Final = (  # noqa: SIM905 - a line for each word helps nobody
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()


class PodResourcesError(Exception):
    """The kubelet could not be asked or its answer not be read; the message is one line."""


# --- the call ---------------------------------------------------------------------------------------------------------


class Client:
    """Makes one call at a time, each on a connection of its own, so that a restarted kubelet is simply met anew.

    ``call`` belongs to one thread; ``close`` may come from any and breaks the call in flight.
    """

    def __init__(self, *, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._closed = False

    def call(self, method: str) -> bytes:
        """The message that the kubelet answers to an empty request."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._path))
                self._enter(connection)
                try:
                    return exchange(connection, method=method, timeout=self._timeout)
                finally:
                    with self._lock:
                        self._connection = None
        except OSError as error:
            raise PodResourcesError(f"{self._path}: {self._explain(error)}") from None
        except PodResourcesError as error:
            raise PodResourcesError(f"{self._path}: {method}: {error}") from None

    def close(self) -> None:
        """Make no more calls; the one in flight fails at once."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                try:
                    self._connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the kubelet was quicker
                    return

    def _enter(self, connection: socket.socket) -> None:
        with self._lock:
            if self._closed:
                raise PodResourcesError("closed")
            self._connection = connection

    def _explain(self, error: OSError) -> str:
        match error:
            case FileNotFoundError():
                return "no such socket; mount the kubelet's pod-resources folder (the folder, not the socket)"
            case PermissionError():
                return "permission denied; the kubelet's socket opens for uid 0 only (no capability is needed)"
            case ConnectionRefusedError():
                return "nobody listens on it; the kubelet is down or restarting"
            case TimeoutError():
                return f"no answer within {self._timeout:g} s"
        return error.strerror or str(error)


def exchange(connection: socket.socket, *, method: str, timeout: float) -> bytes:
    """One unary call on a fresh connection. Raises PodResourcesError, or OSError (TimeoutError past the deadline)."""
    deadline = time.monotonic() + timeout
    http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    http.initiate_connection()
    http.update_settings({SettingCodes.ENABLE_PUSH: 0})
    stream = http.get_next_available_stream_id()
    request = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/v1.PodResourcesLister/{method}",
        ":authority": "localhost",  # grpc-go refuses a socket's path here
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{max(1, round(timeout * 1000))}m",
    }
    http.send_headers(stream, list(request.items()))
    http.send_data(stream, bytes(_PREFIX), end_stream=True)  # every request of this service is an empty message
    answer = _Answer()
    received = 0
    while not answer.ended:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        connection.sendall(http.data_to_send())
        chunk = connection.recv(_CHUNK)
        received += len(chunk)
        if not chunk:
            raise PodResourcesError("the connection ended before the answer did")
        if received > LARGEST + _OVERHEAD:
            raise PodResourcesError(f"the answer is larger than {LARGEST >> 20} MiB")
        try:
            for event in http.receive_data(chunk):
                answer.take(event)
                if isinstance(event, DataReceived) and event.flow_controlled_length:
                    http.acknowledge_received_data(event.flow_controlled_length, stream)
        except H2Error as error:
            raise PodResourcesError(f"this is no HTTP/2: {_shown(str(error))}") from None
    return answer.message()


class _Answer:
    """What has come of the answer to the one call of a connection."""

    def __init__(self) -> None:
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def take(self, event: Event) -> None:
        """Add one event; those after the end do not matter."""
        if self.ended:
            return
        match event:
            case DataReceived(data=data):
                self._body += data or b""
                if max(len(self._body), self._length()) > LARGEST + _PREFIX:
                    raise PodResourcesError(f"the answer is larger than {LARGEST >> 20} MiB")
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._headers.update((bytes(name), bytes(value)) for name, value in headers or ())
            case StreamEnded():
                self.ended = True
            case StreamReset(error_code=code) | ConnectionTerminated(error_code=code):
                what = "RST_STREAM" if isinstance(event, StreamReset) else "GOAWAY"
                raise PodResourcesError(f"the server broke the call off ({what} {getattr(code, 'name', code)})")

    def message(self) -> bytes:
        """The message of an answer that has ended."""
        if (status := self._header(b":status")) != "200":
            raise PodResourcesError(f"HTTP status {_shown(status)}")
        if (code := self._header(b"grpc-status")) != "0":
            name = _STATUSES[int(code)] if code in map(str, range(len(_STATUSES))) else _shown(code) or "missing"
            raise PodResourcesError(f"status {name}: {_shown(unquote(self._header(b'grpc-message')))}".rstrip(": "))
        if len(self._body) < _PREFIX or self._length() != len(self._body):
            raise PodResourcesError("the answer is not one whole message")
        if self._body[0]:
            raise PodResourcesError("the answer is compressed, which was not asked for")
        return bytes(memoryview(self._body)[_PREFIX:])

    def _length(self) -> int:
        """Bytes of the whole body, as its prefix tells."""
        return _PREFIX + int.from_bytes(self._body[1:_PREFIX], "big") if len(self._body) >= _PREFIX else 0

    def _header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("utf-8", "replace")


def _shown(text: str) -> str:
    """Somebody else's text, fit for one line of a log."""
    return text[:200].encode("unicode_escape").decode()


# --- the answers ------------------------------------------------------------------------------------------------------


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
    """The devices in an answer to List: of resources that are ``wanted``, and everything that DRA handed out."""
    read = _Reader()
    for pod in read.all(memoryview(message), 1):
        parts = read.fields(pod, 3)
        name, namespace = _last(parts[0]), _last(parts[1])
        for container in parts[2]:
            names, plugins, _, _, claims = read.fields(container, 5)
            for resource, device in _devices(read, plugins, wanted):
                yield Allocation(name, namespace, _last(names), resource, device)
            for claim in claims:
                for given in read.all(claim, 4):
                    cdi, drivers, _, devices = read.fields(given, 4)
                    told = [_last(read.fields(device, 1)[0]) for device in cdi] + [_last(devices)]
                    yield Allocation(name, namespace, _last(names), _last(drivers), "\n".join(told), dynamic=True)


def allocatable(message: bytes, *, wanted: Callable[[str], bool]) -> Iterator[str]:
    """The devices in an answer to GetAllocatableResources: all that the kubelet could give, of ``wanted`` resources."""
    read = _Reader()
    for _, device in _devices(read, read.all(memoryview(message), 1), wanted):
        yield device


def _devices(
    read: _Reader, messages: Iterator[memoryview] | list[memoryview], wanted: Callable[[str], bool]
) -> Iterator[tuple[str, str]]:
    """Resource and device of each ContainerDevices."""
    for message in messages:
        resources, identifiers = read.fields(message, 2)
        resource = _last(resources)
        if wanted(resource):
            for identifier in identifiers:
                yield resource, _text(identifier)


class _Reader:
    """Walks protobuf messages, of which this service needs strings and messages only; counts the fields it passes."""

    def __init__(self) -> None:
        self._left = _MOST_FIELDS

    def fields(self, message: memoryview, count: int) -> tuple[list[memoryview], ...]:
        """What the fields 1 to ``count`` hold."""
        found: tuple[list[memoryview], ...] = tuple([] for _ in range(count))
        for number, value in self._walk(message):
            if number <= count:
                found[number - 1].append(value)
        return found

    def all(self, message: memoryview, wanted: int) -> Iterator[memoryview]:
        """What one field holds, one after the other."""
        return (value for number, value in self._walk(message) if number == wanted)

    def _walk(self, message: memoryview) -> Iterator[tuple[int, memoryview]]:
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


def _last(values: list[memoryview]) -> str:
    """A field that occurs once; protobuf lets the last one win. Absent is empty."""
    return _text(values[-1]) if values else ""


def _text(value: memoryview) -> str:
    if len(value) > _LONGEST_TEXT:
        raise PodResourcesError(f"the answer has a name of {len(value)} bytes")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise PodResourcesError("the answer has a name that is not UTF-8") from None
