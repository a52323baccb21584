"""Programs of another processor, by qemu's user emulation."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KERNEL = Path("/proc/sys/fs/binfmt_misc")
_NAME = "qemu-aarch64"
# What an executable of a 64-bit ARM begins with, and which bits of that count, as Debian registers it;
# F: the interpreter is opened now, so that it is found from inside every chroot.
_MAGIC = (
    rf":{_NAME}:M::"
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
)


def cannot_emulate() -> str:
    """Why this machine cannot run programs for arm64; empty where it can."""
    if platform.machine() == "aarch64" or (_KERNEL / _NAME).exists():
        return ""
    if os.getuid() != 0:
        return (
            "arm64 is foreign here, and only root can tell the kernel of qemu: docker run tonistiigi/binfmt, or as root"
        )
    if shutil.which("qemu-aarch64-static") is None:
        return "arm64 is foreign here: apt-get install qemu-user-static"
    with _mounted() as there:
        return "" if there else "arm64 is foreign here, and the kernel has no binfmt_misc to emulate it by"


@contextmanager
def arm64() -> Iterator[None]:
    """Programs for arm64 run meanwhile; what the kernel was told is taken back at the end."""
    if reason := cannot_emulate():
        raise RuntimeError(reason)
    if platform.machine() == "aarch64" or (_KERNEL / _NAME).exists():
        yield
        return
    with _mounted():
        (_KERNEL / "register").write_text(f"{_MAGIC}{shutil.which('qemu-aarch64-static')}:F\n")
        try:
            yield
        finally:
            (_KERNEL / _NAME).write_text("-1")


@contextmanager
def _mounted() -> Iterator[bool]:
    """Whether the kernel's list is in reach, mounted meanwhile where it was not."""
    if (_KERNEL / "register").exists():
        yield True
        return
    mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_KERNEL)]
    done = subprocess.run(mount, capture_output=True, check=False)
    yield done.returncode == 0
    if done.returncode == 0:
        subprocess.run(["umount", str(_KERNEL)], check=False)
