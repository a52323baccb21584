"""Answers as they travel: packed where the client takes that, and not sent again where it has them already."""

from __future__ import annotations

import gzip
import hashlib
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gpu_exporter.pages.negotiation import wants_gzip

_SMALLEST = 1024  # bytes that are worth packing
_LEVEL = 3


class Kept:
    """Pages that were asked for a moment ago: all viewers of one page ask at the same beat, and get the same."""

    def __init__(self, *, seconds: float = 1.0, most: int = 64) -> None:
        self._seconds = seconds
        self._most = most
        self._pages: dict[tuple[str, str, bool], tuple[float, Response]] = {}

    def get(self, request: Request) -> Response | None:
        """The page, where it is not older than a moment."""
        kept = self._pages.get(_page_key(request))
        if kept is None or time.monotonic() - kept[0] > self._seconds:
            return None
        etag = kept[1].headers["etag"]
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers={"etag": etag, "cache-control": "no-cache"})
        return kept[1]

    def keep(self, request: Request, response: Response) -> None:
        """Keep a page that was just made, if it is one."""
        if response.status_code != 200:
            return
        key = _page_key(request)
        self._pages.pop(key, None)
        while len(self._pages) >= self._most:
            del self._pages[next(iter(self._pages))]
        self._pages[key] = (time.monotonic(), response)


def _page_key(request: Request) -> tuple[str, str, bool]:
    return request.url.path, request.url.query, wants_gzip(request.headers.get("accept-encoding", ""))


def packed(request: Request, body: bytes, media_type: str, status: int = 200) -> Response:
    """The answer to a request."""
    etag = f'W/"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    headers = {"cache-control": "no-cache", "vary": "Accept-Encoding", "etag": etag}
    if status == 200 and request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if len(body) >= _SMALLEST and wants_gzip(request.headers.get("accept-encoding", "")):
        body = gzip.compress(body, _LEVEL)
        headers["content-encoding"] = "gzip"
    return Response(body, status, headers, media_type=media_type)


def as_json(request: Request, value: Any, status: int = 200) -> Response:
    """The answer of the API to a request."""
    return packed(request, msgspec.json.encode(value), "application/json", status)
