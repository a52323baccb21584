"""buildah, with a storage of its own: it builds the image in a chroot, without Docker and without a daemon."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.lab import ROOT
from tools.lab.debian import RELEASE, archive
from tools.lab.programs import program

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# Debian's name of this machine's processor.
OWN: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
# Under emulation everything takes some ten times as long.
_LONGEST = 3000  # seconds


class BuildError(Exception):
    """buildah refused; the text is what it said."""


class Buildah:
    """One that needs no kernel modules and leaves nothing behind.

    ``processor`` is Debian's name of another one (arm64), whose programs have to run here (tools.lab.emulation).
    """

    def __init__(self, folder: Path, processor: str = "") -> None:
        self._folder = folder
        self._processor = "" if processor == OWN else processor
        self._storage = folder / "storage"
        self._command = [
            *(program("buildah"), "--storage-driver=vfs"),
            *(f"--root={self._storage}", f"--runroot={folder / 'run'}"),
        ]

    def __enter__(self) -> Buildah:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._storage, ignore_errors=True)

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
        if done.returncode:
            raise BuildError(f"buildah {arguments[0]}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout if arguments[0] != "build" else done.stdout + done.stderr

    @property
    def processors(self) -> tuple[str, ...]:
        """Whose Debian is built on: this machine's ("") and, where the image is for another one, that one's."""
        return ("", self._processor) if self._processor else ("",)

    def bases(self) -> dict[str, str]:
        """The images to build on: a Debian of its packages for each processor, because a registry may be out of reach.

        GPU_EXPORTER_TEST_BASE names another one, such as docker.io/library/debian:trixie-slim.
        """
        if given := os.environ.get("GPU_EXPORTER_TEST_BASE"):
            return dict.fromkeys(self.processors, given)
        made = {}
        for processor in self.processors:
            made[processor] = f"localhost/debian:{RELEASE}{processor and '-'}{processor}"
            container = self("from", *self.where(processor), "scratch").strip()
            self("add", "--quiet", container, str(archive(processor=processor)), "/")
            self("commit", "--quiet", "--rm", container, made[processor])
        return made

    def build(self, tag: str, *, bases: Mapping[str, str] | None = None, **arguments: str) -> str:
        """Build the Dockerfile on these with these build arguments, and answer what was said meanwhile.

        For another processor in two steps, as newer builders do it by themselves: Debian 12's says BUILDPLATFORM to no
        FROM, and what one FROM says of the platform goes for those below it too.
        """
        bases = bases or self.bases()
        if not self._processor:
            return self._build(tag, bases[""], **arguments)
        said = self._build("build", bases[""], "--target=build", TARGETARCH=self._processor)
        container = self("from", "build").strip()
        made = self("mount", container).strip()
        where = self.where(self._processor)
        said += self._build(tag, bases[self._processor], *where, f"--build-context=build={made}", **arguments)
        self("rm", container)
        return said

    def _build(self, tag: str, base: str, *options: str, **arguments: str) -> str:
        return self(
            # buildah would keep only what the OCI's format has, and that has no health checks.
            *("build", "--isolation=chroot", "--format=docker", "--pull=false", "--layers=false", f"--tag={tag}"),
            *options,
            *(f"--volume={source}:{target}:ro" for source, target in ours(self._folder).items()),
            *(f"--build-arg={name}={value}" for name, value in {"BASE": base, **arguments}.items()),
            ".",
        )

    @staticmethod
    def where(processor: str) -> list[str]:
        """The option that names a processor to buildah."""
        return [f"--platform=linux/{processor}"] if processor else []


def ours(folder: Path) -> dict[Path, str]:
    """Certificates and pip's settings of this machine, while something is built: they know its proxies and mirrors."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(re.findall(r"^\S+\.((?:extra-)?index-url|proxy|trusted-host)='(.*)'$", listed, re.MULTILINE))
    mounts = {}
    if CERTIFICATES.exists():
        settings["cert"] = "/run/certificates.pem"
        mounts[CERTIFICATES] = settings["cert"]
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    return {**mounts, file: "/etc/pip.conf"}
