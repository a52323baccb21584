"""The driver's library in this process: let go of when nobody uses it, so that the next opening loads today's file.

pynvml loads the library once and keeps it. After an upgrade in place that is a deleted file, which the new kernel
module refuses for ever.
"""

from __future__ import annotations

import ctypes
import logging
import re
from pathlib import Path
from typing import Any, Final

import pynvml

log = logging.getLogger(__name__)

# proc(5): what follows the path of a mapping whose file is gone.
_DELETED: Final = re.compile(r"/(libnvidia-ml\.so\S*) \(deleted\)$", re.MULTILINE)


def shut_down() -> None:
    """End one session, and unload the library with the last one.

    pynvml counts the sessions. One that was left open, because a call hangs in it, keeps the library where it is: what
    is unloaded beneath a call ends the process.
    """
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        log.debug("NVML did not shut down", extra={"error": str(error)})
        with pynvml.libLoadLock:
            pynvml._nvmlLib_refcount = max(0, pynvml._nvmlLib_refcount - 1)  # noqa: SLF001 - pynvml counts successes only
    unload()


def is_last_session() -> bool:
    """Whether there is no session but one: its end would shut the driver down."""
    with pynvml.libLoadLock:
        return bool(pynvml._nvmlLib_refcount <= 1)  # noqa: SLF001 - there is no other way to know


def unload() -> None:
    """Let go of the library, unless a session is open."""
    with pynvml.libLoadLock:
        library = pynvml.nvmlLib
        if library is None or pynvml._nvmlLib_refcount:  # noqa: SLF001 - there is no other way to know
            return
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - these point into the library
    handle = getattr(library, "_handle", None)
    if handle is None:  # a recording
        return
    close = ctypes.CDLL(None).dlclose
    close.argtypes, close.restype = [ctypes.c_void_p], ctypes.c_int
    close(handle)  # ctypes never closes what it opened


def insert(library: Any) -> None:
    """Put this where pynvml keeps the library, for the next opening; where a session is open it keeps its own."""
    with pynvml.libLoadLock:
        if not pynvml._nvmlLib_refcount:  # noqa: SLF001 - there is no other way to know
            pynvml.nvmlLib = library
            pynvml._nvmlGetFunctionPointer_cache.clear()  # noqa: SLF001 - these are of the one before


def outdated(root: Path = Path("/")) -> str | None:
    """The name of the library that this process has in memory, where its file is not there any more.

    To be asked after an opening that failed: what a fresh opening finds deleted cannot be loaded anew, because the
    library refuses to be unloaded (-z nodelete), or because a container still has the old file mounted.
    """
    if pynvml._nvmlLib_refcount:  # noqa: SLF001 - a call of an earlier session may hang in it
        return None
    try:
        maps = (root / "proc/self/maps").read_text("utf-8", "replace")
    except OSError:
        return None
    found = _DELETED.search(maps)
    return found[1] if found else None
