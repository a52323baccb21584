"""The image, for each processor, as one file that docker load, podman load and skopeo take."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from tools.dist.made import LeftOutError, Made, RefusedError
from tools.lab import ROOT
from tools.lab.debian import NoSuchMachineError, impossible
from tools.lab.emulation import arm64, cannot_emulate
from tools.lab.image import OWN, Buildah, BuildError
from tools.lab.programs import MissingProgramError

from gpu_exporter import __version__

PROCESSORS: Final = ("amd64", "arm64")
NAME: Final = f"ghcr.io/gpu-exporter/gpu-exporter:{__version__}"


def pinned() -> str:
    """What the Dockerfile builds on."""
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(base)


def image(folder: Path, processor: str) -> Iterator[Made]:
    """Build it, run it once, and keep it. Out of the registry's reach, its base is made of Debian's packages."""
    if reason := impossible():
        raise LeftOutError(reason)
    foreign = processor != OWN
    if foreign and (reason := cannot_emulate() if processor == "arm64" else f"{processor} is foreign here"):
        raise LeftOutError(reason)
    target = folder / f"gpu-exporter-{__version__}.{processor}.oci.tar"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-image-") as name, arm64() if foreign else nullcontext():
        try:
            with Buildah(Path(name), processor) as buildah:
                bases, note = _bases(buildah)
                buildah.build("image", bases=bases, VERSION=__version__, REVISION=_revision())
                buildah("tag", "image", NAME)
                container = buildah("from", *buildah.where(processor), "image").strip()
                said = buildah("run", "--isolation=chroot", container, "gpu-exporter", "--version").strip()
                if said != f"gpu-exporter {__version__}":
                    raise RefusedError(f"the image for {processor} says {said}")
                buildah("push", "--quiet", "image", f"docker-archive:{target}:{NAME}")
        except (BuildError, NoSuchMachineError) as error:
            raise RefusedError(str(error)) from None
        except MissingProgramError as error:
            raise LeftOutError(f"{error}: apt-get install buildah mmdebstrap") from None
    yield Made(f"image, {processor}", target, note)


def _bases(buildah: Buildah) -> tuple[dict[str, str], str]:
    """The pinned base for each processor, or one that is made here; and what is said of it."""
    base = pinned()
    try:
        pulled = {one: buildah("pull", "--quiet", *buildah.where(one), base).strip() for one in buildah.processors}
    except BuildError:
        return buildah.bases(), "on a Debian made here: the pinned base's registry is out of reach"
    return pulled, f"on {base.rpartition('/')[2].partition('@')[0]}, by digest"


def _revision() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def images(folder: Path) -> Iterable[tuple[str, Iterator[Made]]]:
    """Each processor's, by name, built when it is asked for."""
    for processor in PROCESSORS:
        yield f"image, {processor}", image(folder, processor)
