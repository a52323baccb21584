"""A call of the kubelet's pod-resources API: gRPC over HTTP/2 on its unix socket.

The bound on an answer is that of the kubelet's own client. Importing this needs ``h2``, the extra ``kubernetes``.
"""

from __future__ import annotations

import socket
import threading
import time
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

from gpu_exporter.owners.kubernetes.messages import PodResourcesError

LARGEST: Final = 16 * 1024 * 1024  # bytes of one message: defaultPodResourcesMaxSize of Kubernetes
_OVERHEAD: Final = 1024 * 1024  # bytes of frames and headers around it
_CHUNK: Final = 16 * 1024
_PREFIX: Final = 5  # bytes before a gRPC message: one that tells compression, four of length
# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_STATUSES: Final = (  # noqa: SIM905 - a line for each word helps nobody
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    "RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()


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
