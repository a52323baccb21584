"""A bare Debian, made here of its packages, for tests that need a machine of their own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from tools.lab.programs import program

RELEASE = "trixie"
CACHE = Path(tempfile.gettempdir()) / f"gpu-exporter-debian-{os.getuid()}"
_LEFT_OUT = ("doc", "man", "locale", "info", "groff", "lintian")


def archive(*packages: str) -> Path:
    """The smallest Debian with these packages, as a tar file; kept, because it takes half a minute to make."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    made = CACHE / f"{'-'.join((RELEASE, *packages))}.tar"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            fresh = made.with_suffix(".new.tar")
            done = subprocess.run(
                [
                    *(program("mmdebstrap"), "--quiet", "--variant=minbase"),
                    *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in _LEFT_OUT),
                    *([f"--include={','.join(packages)}"] if packages else []),
                    *(RELEASE, str(fresh)),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            fresh.rename(made)
    return made


def impossible() -> str:
    """Why there can be no other machine inside this one; empty where there can."""
    if os.getuid() != 0:
        return "only root can do this: it needs chroot and mount"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return "this machine lets nobody mount, not even root"
    return ""
