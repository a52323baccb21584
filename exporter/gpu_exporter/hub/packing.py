"""Answers as they travel: packed where the client takes that, and not sent again where it has them already."""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gpu_exporter.pages.negotiation import wants_gzip

_SMALLEST = 1024  # bytes that are worth packing
_LEVEL = 3


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
