"""A request: cut out of what a client sends, parsed (RFC 9112), and made the environment of an application (PEP 3333).

Strict, because what a lenient parser skips over (a line without a colon, a bare CR, a second Host) may mean something
else to a proxy before us, and could hide a Content-Length. Not h11, which is as strict and as fast: it would be a fifth
package in every image for the 30 lines of ``parse``.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

from gpu_exporter.http.wsgi import Environ

LINE_LIMIT: Final = 8 * 1024
HEAD_LIMIT: Final = 32 * 1024  # all header lines together
BODY_LIMIT: Final = 64 * 1024
FIELDS_LIMIT: Final = 100

_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) (HTTP/([0-9])\.[0-9])\r?")
_FIELDS: Final = re.compile(rb"(?:" + _TOKEN + rb":[^\r\n\0]*\r?\n)*\r?\n")
_ORIGIN: Final = re.compile(r"\A(?i:https?)://[^/?]+")  # written by a client that takes us for a proxy
_LENGTH_DIGITS: Final = 9


class RefusedError(Exception):
    """The client is answered with this status, and the connection ends."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(f"{status.value} {status.phrase}")


class Stream:
    """What a client sends, cut into heads and bodies.

    ``receive`` gives the next bytes, none at the end, and raises TimeoutError when the deadline that it is given has
    passed: bytes that trickle in stretch no deadline.
    """

    def __init__(self, receive: Callable[[float], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    def wait(self, deadline: float) -> None:
        """Wait for the first byte of the next request, unless it has come already."""
        if not self._buffer:
            self._buffer += self._receive(deadline)

    def head(self, deadline: float) -> bytes | None:
        """Request line and headers, with the empty line; None when the client has left. Raises RefusedError."""
        buffer = self._buffer
        searched = 0
        while True:
            if buffer.startswith((b"\r", b"\n")):  # RFC 9112 asks servers to skip empty lines before a request
                del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
            end = _END_OF_HEAD.search(buffer, searched)
            line = buffer.find(b"\n", 0, LINE_LIMIT + 1)
            if line < 0 and len(buffer) > LINE_LIMIT:
                raise RefusedError(HTTPStatus.REQUEST_URI_TOO_LONG)
            if (end.end() if end else len(buffer)) - line > HEAD_LIMIT:
                raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            if end:
                return self._take(end.end())
            searched = max(0, len(buffer) - 2)
            chunk = self._receive(deadline)
            if not chunk:
                return None
            buffer += chunk

    def body(self, length: int, deadline: float) -> bytes:
        """So many bytes. Raises ConnectionResetError where the client leaves before it has sent them."""
        while len(self._buffer) < length:
            chunk = self._receive(deadline)
            if not chunk:
                raise ConnectionResetError
            self._buffer += chunk
        return self._take(length)

    def _take(self, length: int) -> bytes:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


@dataclass(frozen=True, slots=True)
class Request:
    """A head that was understood. Names of ``fields`` are in lower case."""

    method: str
    target: str
    version: str
    fields: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """What every field of this name says."""
        return [value for known, value in self.fields if known == name]

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants to send another request on this connection."""
        wishes = {item.strip().lower() for value in self.values("connection") for item in value.split(",")}
        return "close" not in wishes and (self.version != "HTTP/1.0" or "keep-alive" in wishes)

    def body_length(self) -> int | None:
        """How long the body is; None where nobody will read it, which ends the connection. Raises RefusedError.

        That is one without a length, one too long, and one that the client sends only when asked for: nothing here
        wants a body, so the final answer comes instead of the asking.
        """
        if self.values("transfer-encoding"):
            return None
        lengths = set(self.values("content-length")) or {"0"}
        text = lengths.pop()
        if lengths or not (text.isascii() and text.isdecimal()):
            raise RefusedError(HTTPStatus.BAD_REQUEST)
        if len(text) > _LENGTH_DIGITS or int(text) > BODY_LIMIT:
            return None
        expected = self.version != "HTTP/1.0" and "100-continue" in map(str.lower, self.values("expect"))
        return None if expected else int(text)

    def environ(self, body: bytes, *, server: tuple[str, int], scheme: str, peer: str) -> Environ:
        """PEP 3333's dictionary. Raises RefusedError for a target that no server of ours has."""
        target = _ORIGIN.sub("", self.target)
        if target.startswith("//"):  # a client that joined two parts of a URL with one slash too many
            target = "/" + target.lstrip("/")
        if target[:1] not in {"/", "?", "*", ""}:
            raise RefusedError(HTTPStatus.BAD_REQUEST)
        path, _, query = target.partition("?")
        environ: Environ = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": (unquote_to_bytes(path).decode("latin-1") if "%" in path else path) or "/",
            "QUERY_STRING": query,
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
            "SERVER_PROTOCOL": self.version,
            "REMOTE_ADDR": peer,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.fields:
            if "_" not in name:  # a-b and a_b would otherwise look the same to the application
                key = "HTTP_" + name.upper().replace("-", "_")
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if f"HTTP_{key}" in environ:
                environ[key] = environ.pop(f"HTTP_{key}")
        return environ


def parse(head: bytes) -> Request:
    """The request of a whole head. Raises RefusedError."""
    line, _, rest = head.partition(b"\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None or not _FIELDS.fullmatch(rest) or found[4] == b"0":
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    if found[4] != b"1":
        raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    lines = rest.decode("latin-1").split("\n")[:-2]
    if len(lines) > FIELDS_LIMIT:
        raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    pairs = (field.partition(":") for field in lines)
    fields = tuple((name.lower(), value.strip(" \t\r")) for name, _, value in pairs)
    # Nothing here looks at Host, so a missing one is forgiven; a proxy before us may have read the other of two.
    if sum(name == "host" for name, _ in fields) > 1:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    method, target, version = (part.decode("ascii") for part in found.group(1, 2, 3))
    return Request(method, target, version, fields)
