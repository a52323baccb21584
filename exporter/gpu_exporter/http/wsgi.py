"""What the server and its applications agree on (PEP 3333), and the answers that are a status and no more."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from traceback import extract_tb
from typing import Any, Final, TypeAlias

log = logging.getLogger(__name__)

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
StartResponse: TypeAlias = Callable[..., Any]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
Body: TypeAlias = bytes | tuple[bytes, ...]  # in one piece, or in some of which the large ones are shared
Answer: TypeAlias = tuple[str, Headers, Body]  # status, headers, body

# In the environment: a function that tells whether the client was cut off while it waited.
GONE: Final = "gpu_exporter.gone"
PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")


def status_answer(status: str, *headers: tuple[str, str], path: str = "", why: str = "") -> Answer:
    """The status as a page, of JSON for a ``path`` of the API: it echoes nothing of what the client sent.

    ``why`` says more than the status; only JSON has room for it.
    """
    if path.startswith("/api/"):
        body = json.dumps({"error": why or status[4:].lower()})
        return status, [("Content-Type", "application/json"), *headers], f"{body}\n".encode()
    return status, [PLAIN, *headers], f"{status}\n".encode()


class Guarded:
    """An application that always answers: where it fails, the client gets 500 and the log the first traceback."""

    def __init__(self, application: App) -> None:
        self._application = application
        self._logged: set[str] = set()

    def answer(self, environ: Environ) -> Answer:
        """The application's answer; 500 without details where it fails."""
        status = ""
        headers: Headers = []
        chunks: list[bytes] = []

        def start_response(line: str, fields: Headers, _exc_info: Any = None) -> Callable[[bytes], None]:
            nonlocal status, headers
            status, headers = line, fields
            return chunks.append

        try:
            result = self._application(environ, start_response)
            try:
                chunks.extend(result)
            finally:
                if close := getattr(result, "close", None):
                    close()
            if not status or any("\r" in part or "\n" in part for field in (("", status), *headers) for part in field):
                raise ValueError(f"unusable status or headers: {status!r} {headers!r}")  # noqa: TRY301 - one way out
        except Exception as error:  # whatever the application does, the client gets an answer and the thread lives
            key = f"{type(error).__name__} at {extract_tb(error.__traceback__)[-1].lineno}"
            log.log(
                logging.DEBUG if key in self._logged else logging.ERROR,
                "the answer failed: this is a bug in gpu-exporter",
                extra={"path": environ["PATH_INFO"]},
                exc_info=True,
            )
            self._logged.add(key)  # a scraper would otherwise fill the log with the same traceback
            return status_answer("500 Internal Server Error", path=environ["PATH_INFO"])
        return status, headers, tuple(chunks)


def pieces(body: Body) -> tuple[bytes, ...]:
    """The body's pieces."""
    return (body,) if isinstance(body, bytes) else body
