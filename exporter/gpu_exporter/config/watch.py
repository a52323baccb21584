"""Which files have become other ones since somebody looked."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

_Stamp: TypeAlias = tuple[int, int, int, int] | None


class Watch:
    """Files that are looked at now and then; each look costs a ``stat`` a file. Belongs to one thread, or to one lock.

    A change is any of: written, replaced, another file behind the link (as a mounted ConfigMap or Secret is replaced),
    appeared, gone. A look takes place before the reading that follows it, so that a change during the reading is
    noticed by the next one. What was never looked at has changed.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._seen: dict[Path, _Stamp] = {}
        self._latest: dict[Path, _Stamp] = {}

    def follow(self, *paths: Path) -> None:
        """Watch these instead; of those that were watched before, what was seen still counts."""
        if paths != self.paths:
            self.paths = paths
            self._seen = {path: self._seen[path] if path in self._seen else _stamp(path) for path in paths}

    def changed(self) -> bool:
        """Whether a file has changed; a change is told once."""
        before = self._seen
        self.mark()
        return self._seen != before

    def settled(self) -> bool:
        """Like ``changed``, but waits until a look finds all files there and as the look before found them.

        Somebody may be writing them: what would be read half is not told yet.
        """
        before, self._latest = self._latest, self._look()
        if self._latest != before or self._latest == self._seen or None in self._latest.values():
            return False
        self._seen = self._latest
        return True

    def mark(self) -> None:
        """What is there now counts as seen."""
        self._seen = self._latest = self._look()

    def forget(self) -> None:
        """What was seen could not be used: the next look finds a change."""
        self._seen = {}

    def _look(self) -> dict[Path, _Stamp]:
        return {path: _stamp(path) for path in self.paths}


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
