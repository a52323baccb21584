"""The names of this node's pods, from the names of the folders that the kubelet logs into."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gpu_exporter.owners.aside import Aside

# The kubelet keeps a folder NAMESPACE_POD_UID for the logs of each of its pods; neither name can hold an underscore.
POD_LOGS: Final = (Path("/host/var/log/pods"), Path("/var/log/pods"))
_POD_LOG: Final = re.compile(r"([a-z0-9.-]{1,63})_([a-z0-9.-]{1,253})_([0-9a-f-]{32,36})")
_LOOK_AGAIN: Final = 10.0  # seconds
_MOST_PODS: Final = 4096


class PodNames:
    """Namespace and name of this node's pods by uid, from the names of the folders that the kubelet logs into."""

    def __init__(self, *, folders: Sequence[Path] = POD_LOGS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folders = folders
        self._monotonic = monotonic
        self._look_at = float("-inf")
        self._names: Mapping[str, tuple[str, str]] = {}
        self._found: Aside[Mapping[str, tuple[str, str]]] = Aside(self._scan, {}, what="the kubelet's log folders")

    def name(self, uid: str) -> tuple[str, str] | None:
        """(namespace, pod), or None where no folder tells. An unknown uid is looked for again every ten seconds."""
        if uid not in self._names and self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + _LOOK_AGAIN
            self._names = self._found.latest()
        return self._names.get(uid)

    def _scan(self) -> dict[str, tuple[str, str]]:
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    matches = [match for entry in entries if (match := _POD_LOG.fullmatch(entry.name))]
            except OSError:
                continue
            return {match[3]: (match[1], match[2]) for match in matches[:_MOST_PODS]}
        return {}
