"""A bare Debian or Ubuntu, made here of its packages, for what needs a machine of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tools.lab.programs import program

RELEASE = "trixie"
UBUNTU = ("jammy", "noble")
CACHE = Path(tempfile.gettempdir()) / f"gpu-exporter-debian-{os.getuid()}"
_LEFT_OUT = ("doc", "man", "locale", "info", "groff", "lintian")
_UBUNTUS = "deb http://archive.ubuntu.com/ubuntu {release} main universe"
_KEYS = "usr/share/keyrings/ubuntu-archive-keyring.gpg"


class NoSuchMachineError(Exception):
    """The packages cannot be had; the text is what mmdebstrap said."""


def archive(*packages: str, release: str = RELEASE, processor: str = "") -> Path:
    """The smallest such system with these packages, as a tar file; kept, because it takes half a minute to make.

    ``processor`` is Debian's name of another one (arm64), whose programs have to run here. Raises NoSuchMachineError.
    """
    wanted = [*packages, *(["apt"] if release in UBUNTU else [])]  # Debian's smallest has it, Ubuntu's does not
    CACHE.mkdir(exist_ok=True)
    CACHE.chmod(0o711)  # apt's own user reads the keys in it
    made = CACHE / f"{'-'.join(filter(None, (release, processor, *packages)))}.tar"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            fresh = made.with_suffix(".new.tar")
            done = subprocess.run(
                [
                    *(program("mmdebstrap"), "--quiet", "--variant=minbase"),
                    *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in _LEFT_OUT),
                    *([f"--include={','.join(wanted)}"] if wanted else []),
                    *([f"--architectures={processor}"] if processor else []),
                    *([f"--keyring={_keys()}"] if release in UBUNTU else []),
                    *(release, str(fresh)),
                    *([_UBUNTUS.format(release=release)] if release in UBUNTU else []),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=1200,
            )
            if done.returncode:
                fresh.unlink(missing_ok=True)
                raise NoSuchMachineError(done.stderr[-4000:])
            fresh.rename(made)
    return made


def _keys() -> Path:
    """With what Ubuntu signs its packages: Debian has these keys in a package; the Ubuntu that is made has its own."""
    keys = CACHE / "ubuntu-archive-keyring.gpg"
    if not keys.exists():
        with tarfile.open(archive("ubuntu-keyring")) as tar:
            (name,) = [name for name in tar.getnames() if name.endswith(_KEYS)]
            body = tar.extractfile(name)
            assert body is not None
            keys.write_bytes(body.read())
    return keys


def impossible() -> str:
    """Why there can be no other machine inside this one; empty where there can."""
    if os.getuid() != 0:
        return "only root can do this: it needs chroot and mount"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        return "this machine lets nobody mount, not even root"
    return ""
