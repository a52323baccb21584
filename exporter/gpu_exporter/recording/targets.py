"""Other machines' exporters as sources of snapshot documents, each asked on a thread of its own."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpu_exporter import __version__
from gpu_exporter.config.parsers import RefusedError, quoted
from gpu_exporter.history import Recorder

log = logging.getLogger(__name__)

_PATH: Final = "/api/v1/snapshot"
_PORT: Final = 9435
_LARGEST: Final = 16 * 1024**2  # bytes of a document, unpacked; 64 GPUs with 64 processes each need 2 MiB
_PIECE: Final = 64 * 1024
_TIMEOUT: Final = 5.0  # seconds for a whole answer
_GZIP: Final = 16 + zlib.MAX_WBITS
_WRITE: Final = "write HOST:PORT, [IPV6]:PORT or https://HOST:PORT"
_WORDS: Final[Mapping[int, str]] = {
    401: "wants a login, which record has not; use the hub",
    403: "does not let us in",
    404: "has no /api/v1/snapshot: it is no gpu-exporter, or an old one",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One machine to ask; ``name`` is what was written, and its alias in the history."""

    name: str
    host: str
    port: int
    tls: bool = False


class _NoAnswerError(Exception):
    """Why there is no document; the message goes on after the machine's name."""


def parse_target(text: str) -> Target:
    """A target as it is written on the command line. Raises RefusedError."""
    pattern = r"(https?://)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?/?"
    match = re.fullmatch(pattern, text)
    if match is None or not 0 < int(match[4] or _PORT) <= 65535 or len(text) > 255:
        raise RefusedError(f"{quoted(text)} is not a target; {_WRITE}")
    name = text.removeprefix(match[1] or "").rstrip("/")
    return Target(name, match[2] or match[3], int(match[4] or _PORT), tls=match[1] == "https://")


class Watchers:
    """A watcher for each target, from ``start`` to ``close``: whoever hangs costs the others nothing."""

    def __init__(self, targets: Iterable[Target], *, interval: float, recorder: Recorder) -> None:
        self._closing = threading.Event()
        watchers = [
            Watcher(target, interval=interval, recorder=recorder, closing=self._closing, clock=time.time)
            for target in targets
        ]
        self._threads = [threading.Thread(target=watcher.run, name="record", daemon=True) for watcher in watchers]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop within a second; machines that hang are left behind."""
        self._closing.set()
        end = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


class Watcher:
    """Asks one machine every ``interval`` seconds until ``closing``, and adds what it tells to a recorder.

    What hangs, refuses or answers nonsense is one log line when it begins and one when it ends. Belongs to one thread.
    """

    def __init__(
        self,
        target: Target,
        *,
        interval: float,
        recorder: Recorder,
        closing: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._target = target
        self._interval = interval
        self._recorder = recorder
        self._clock = clock
        self._closing = closing
        self._connection: http.client.HTTPConnection | None = None
        self._newest: tuple[str, dict[str, Any]] | None = None  # entity tag and document
        self._trouble: str | None = None

    def run(self) -> None:
        """Ask until it is told to stop."""
        due = time.monotonic()
        while not self._closing.is_set():
            try:
                self.ask()
            except Exception:  # the thread must outlive a bug
                log.exception("asking a machine failed: this is a bug in gpu-exporter")
            due = max(due + self._interval, time.monotonic())
            self._closing.wait(due - time.monotonic())
        self._forget()

    def ask(self) -> None:
        """Ask once, and add the answer."""
        try:
            document = self._document()
        except _NoAnswerError as error:
            self._forget()
            self._tell(str(error))
        else:
            is_snapshot = self._recorder.add(self._target.name, document, self._clock())
            log.debug("an answer was recorded", extra={"target": self._target.name})
            self._tell(
                None if is_snapshot else "answers JSON that is no snapshot of schema 1: it is of another version"
            )

    def _tell(self, trouble: str | None) -> None:
        """One log line where it changes."""
        before, self._trouble = self._trouble, trouble
        if trouble is not None and trouble != before:
            log.warning("a machine tells nothing", extra={"target": self._target.name, "why": trouble})
        elif trouble is None and before is not None:
            log.info("a machine tells again", extra={"target": self._target.name})

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._newest = None, None

    def _document(self) -> dict[str, Any]:
        """The newest document; the one before where that has not changed."""
        deadline = time.monotonic() + _TIMEOUT
        reused = self._connection is not None
        try:
            return self._exchange(deadline)
        except (ConnectionError, http.client.BadStatusLine) as error:
            if not reused:
                raise _NoAnswerError(_reason(error)) from None
        except (OSError, http.client.HTTPException, zlib.error) as error:
            raise _NoAnswerError(_reason(error)) from None
        # A connection that was kept may have been closed meanwhile: that is no fault of the machine's.
        newest = self._newest
        self._forget()
        self._newest = newest
        try:
            return self._exchange(deadline)
        except (OSError, http.client.HTTPException, zlib.error) as error:
            raise _NoAnswerError(_reason(error)) from None

    def _exchange(self, deadline: float) -> dict[str, Any]:
        target = self._target
        if self._connection is None:
            kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
            self._connection = kind(target.host, target.port, timeout=_TIMEOUT)
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": f"gpu-exporter/{__version__}"}
        if self._newest is not None:
            headers["If-None-Match"] = self._newest[0]
        self._connection.request("GET", _PATH, headers=headers)
        answer = self._connection.getresponse()
        body = self._body(answer, deadline)
        if answer.status == 304 and self._newest is not None:
            return self._newest[1]
        if answer.status != 200:
            raise _NoAnswerError(_WORDS.get(answer.status, f"answers with status {answer.status}"))
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise _NoAnswerError("answers something that is not JSON: it is no gpu-exporter") from None
        if not isinstance(document, dict):
            raise _NoAnswerError("answers JSON that is no snapshot: it is no gpu-exporter")
        self._newest = (answer.headers.get("ETag", ""), document)
        return document

    def _body(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        """The whole body by the deadline, however slowly it comes."""
        unpacker = zlib.decompressobj(_GZIP) if answer.headers.get("Content-Encoding", "") == "gzip" else None
        pieces: list[bytes] = []
        size = 0
        while True:
            if time.monotonic() > deadline:
                raise _NoAnswerError("does not answer in time: it trickles")
            piece = answer.read1(_PIECE)
            if not piece:
                if answer.length:
                    raise _NoAnswerError("breaks off in the middle of its answer")
                answer.close()  # the connection is free for the next question
                return b"".join(pieces)
            text = unpacker.decompress(piece, _LARGEST - size + 1) if unpacker else piece
            size += len(text)
            if size > _LARGEST:
                raise _NoAnswerError(f"answers more than {_LARGEST // 1024**2} MiB")
            pieces.append(text)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, socket.gaierror):
        return f"has a name that nobody knows ({(error.strerror or 'no such host').lower()})"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that cannot be trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return "does not speak TLS as we do; is it plain http?"
    if isinstance(error, ConnectionRefusedError):
        return "refuses the connection: no exporter listens there"
    if isinstance(error, http.client.HTTPException):
        return "does not speak HTTP as a gpu-exporter does"
    if isinstance(error, OSError):
        return f"cannot be reached: {(error.strerror or str(error)).lower()}"
    return "answers something that cannot be unpacked"
