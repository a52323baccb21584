"""/api/v1/snapshot: the machine in one document, rendered once a snapshot and shared by all who ask.

The sample's age is another one at every request. It stands last in the document, so that only those few bytes are
written anew: in the gzip form too, where what comes before them was compressed once and ends on a whole byte (RFC 1951
and 1952).
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gpu_exporter.model import Host, Snapshot
from gpu_exporter.pages.documents import snapshot_document

_GZIP_HEADER: Final = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 3])  # deflate, no time, fastest, Unix
_FASTEST: Final = 1
_AGE: Final = ', "sample_age_seconds": %.3f}}'
_NO_AGE: Final = b"}}"


@dataclass(frozen=True, slots=True)
class State:
    """What one document is made of, besides the settings."""

    snapshot: Snapshot
    host: Host
    interval: float
    ready: str | None
    live: str | None

    def same(self, other: State) -> bool:
        """Whether the document would be the same. Snapshots are one object a reading, hosts one a look."""
        mine = (self.interval, self.ready, self.live)
        theirs = (other.interval, other.ready, other.live)
        return self.snapshot is other.snapshot and self.host is other.host and mine == theirs


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document without its last bytes. ``etag`` is of the content without the age."""

    state: State
    plain: bytes
    etag: str
    packed: bytes
    checksum: int

    def body(self, age: float | None, *, gzip: bool) -> bytes:
        """The whole document; ``age`` is the sample's, in seconds."""
        return b"".join(self.pieces(age, gzip=gzip))

    def pieces(self, age: float | None, *, gzip: bool) -> tuple[bytes, ...]:
        """The same in pieces, of which the large one is shared by all who ask."""
        tail = _NO_AGE if age is None else (_AGE % age).encode()
        if not gzip:
            return self.plain, tail
        stored = struct.pack("<BHH", 1, len(tail), len(tail) ^ 0xFFFF)  # the last block, as it is
        size = (len(self.plain) + len(tail)) & 0xFFFFFFFF
        ending = struct.pack("<II", zlib.crc32(tail, self.checksum), size)
        return _GZIP_HEADER, self.packed, stored + tail + ending


class SnapshotPage:
    """Keeps the newest document. Any thread may call."""

    def __init__(self, labels: Sequence[str], *, public: Callable[[str | None], str | None]) -> None:
        self._labels = labels
        self._public = public
        self._lock = threading.Lock()
        self._newest: Rendered | None = None

    def rendered(self, state: State) -> Rendered:
        """The document, rendered where it is not yet."""
        newest = self._newest
        if newest is None or not newest.state.same(state):
            with self._lock:
                newest = self._newest
                if newest is None or not newest.state.same(state):
                    newest = self._newest = self._render(state)
        return newest

    def _render(self, state: State) -> Rendered:
        document = snapshot_document(
            state.snapshot,
            host=state.host,
            labels=self._labels,
            interval=state.interval,
            ready=self._public(state.ready),
            live=self._public(state.live),
        )
        plain = json.dumps(document, allow_nan=False).encode().removesuffix(_NO_AGE)
        packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH)
        from hashlib import blake2b  # noqa: PLC0415 - a MiB, for machines that a hub asks

        etag = blake2b(plain, digest_size=16).hexdigest()
        return Rendered(state=state, plain=plain, etag=etag, packed=packed, checksum=zlib.crc32(plain))
