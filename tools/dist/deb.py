"""The package for Debian 12, Ubuntu 22.04 and newer: the exporter with all that it needs, its unit, rules and mails.

usage: python -m tools.dist.deb FOLDER

It holds no compiled file and goes with every Python from 3.10 on, so that one package fits every release and
processor. It is built by dpkg-deb alone. The same sources give the same bytes.
"""

from __future__ import annotations

import email
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.dist.made import LeftOutError, Made, RefusedError
from tools.dist.moment import moment
from tools.dist.terminal import completions, manual
from tools.lab import ROOT
from tools.pyz import PACKAGE, fetched, trim

from gpu_exporter import __version__

NAME: Final = "gpu-exporter"
UNIT: Final = "gpu-exporter.service"
# Of its own, because Debian's packages of the same names are older than what is tested.
LIBRARY: Final = "usr/lib/gpu-exporter"
SHARE: Final = "usr/share/gpu-exporter"
CONFFILES: Final = ("/etc/gpu-exporter/environment",)
MAINTAINER: Final = "gpu-exporter <gpu-exporter@users.noreply.github.com>"
# -I: neither the environment nor a user's own packages get into a daemon; Debian's (python3-bcrypt) do.
PROGRAM: Final = f"""\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{LIBRARY}")
from gpu_exporter.cli import main  # noqa: E402

main()
"""
CONTROL: Final = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: {maintainer}
Installed-Size: {size}
Depends: python3 (>= 3.10), init-system-helpers (>= 1.54)
Suggests: python3-bcrypt, prometheus, prometheus-alertmanager
Section: admin
Priority: optional
Homepage: https://github.com/gpu-exporter/gpu-exporter
Description: Prometheus exporter for NVIDIA GPUs
 Tells which GPU is sick, which is wasted, and who holds it. Installed, it
 listens on port 9435 as a service without root; /etc/gpu-exporter/environment
 has its settings.
 .
 The rules for Prometheus, the mails for Alertmanager and the dashboards for
 Grafana are in /usr/share/gpu-exporter. Nothing needs to be installed beside
 it; passwords need python3-bcrypt.
"""
COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: gpu-exporter
Source: https://github.com/gpu-exporter/gpu-exporter

Files: *
Copyright: {year} the authors of gpu-exporter
License: Apache-2.0
 On Debian systems, the full text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.

Files: usr/lib/gpu-exporter/*
Copyright: {year} and before, the authors of each package
License: each-its-own
{parts}
 .
 The text of each is in its folder *.dist-info there, and at the head of pynvml.py.
"""
# What debhelper writes for a unit that is enabled and started.
POSTINST: Final = f"""\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if command -v py3compile >/dev/null; then
        py3compile -p {NAME} /{LIBRARY}
    fi
fi
if [ "$1" = configure ] || [ "$1" = abort-upgrade ] || [ "$1" = abort-deconfigure ] || [ "$1" = abort-remove ]; then
    deb-systemd-helper unmask {UNIT} >/dev/null || true
    if deb-systemd-helper --quiet was-enabled {UNIT}; then
        deb-systemd-helper enable {UNIT} >/dev/null || true
    else
        deb-systemd-helper update-state {UNIT} >/dev/null || true
    fi
    if [ -d /run/systemd/system ]; then
        systemctl --system daemon-reload >/dev/null || true
        if [ -n "$2" ]; then action=restart; else action=start; fi
        deb-systemd-invoke $action {UNIT} >/dev/null || true
    fi
fi
"""
PRERM: Final = f"""\
#!/bin/sh
set -e
if [ -d /run/systemd/system ] && [ "$1" = remove ]; then
    deb-systemd-invoke stop {UNIT} >/dev/null || true
fi
if command -v py3clean >/dev/null; then
    py3clean -p {NAME}
fi
find /{LIBRARY} -name __pycache__ -type d -prune -exec rm -rf {{}} +
"""
POSTRM: Final = f"""\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ] && command -v deb-systemd-helper >/dev/null; then
    deb-systemd-helper purge {UNIT} >/dev/null || true
    deb-systemd-helper unmask {UNIT} >/dev/null || true
fi
"""


def package(folder: Path, when: int) -> Made:
    """Build it into the folder; ``when`` is the time of every file in it."""
    builder = shutil.which("dpkg-deb")
    if builder is None:
        raise LeftOutError("dpkg-deb is missing: apt-get install dpkg, or another machine")
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-deb-") as name:
        root = Path(name) / "root"
        _fill(root, when)
        _describe(root)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or _runs(path.relative_to(root), path) else 0o644)
            os.utime(path, (when, when))
        target = folder / f"{NAME}_{__version__}_all.deb"
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            # Not zstd, which Debian 12 understands and older tools do not.
            [builder, "--root-owner-group", "-Zxz", "--build", str(root), str(target)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(when)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RefusedError(f"dpkg-deb: {done.stderr.strip()}")
    return Made("deb", target, "Debian 12, Ubuntu 22.04 and newer, every processor")


def _runs(path: Path, file: Path) -> bool:
    if path.is_relative_to(SHARE):
        return os.access(file, os.X_OK)  # as in the checkout
    return path.parts[:2] == ("usr", "bin") or (
        path.parts[0] == "DEBIAN" and path.name in {"postinst", "prerm", "postrm"}
    )


def _fill(root: Path, when: int) -> None:
    """Everything but what dpkg itself reads."""
    library = root / LIBRARY
    library.mkdir(parents=True)
    if not fetched(library):
        raise RefusedError("pip could not fetch what requirements/pyz.txt locks; its message stands above")
    trim(library)
    shutil.copytree(PACKAGE, library / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    _write(root / "usr/bin/gpu-exporter", PROGRAM)
    for kind in ("alertmanager", "check", "debian", "grafana/dashboards", "grafana/provisioning", "prometheus"):
        shutil.copytree(
            ROOT / "deploy" / kind,
            root / SHARE / kind,
            ignore=shutil.ignore_patterns("__pycache__", "tests", "README.md"),
        )
    _write(root / "etc/gpu-exporter/environment", (ROOT / "deploy/systemd/environment").read_text())
    unit = (ROOT / f"deploy/systemd/{UNIT}").read_text()
    ours = unit.replace("ExecStart=/usr/local/bin/gpu-exporter", "ExecStart=/usr/bin/gpu-exporter")
    if ours == unit:
        raise RefusedError(f"deploy/systemd/{UNIT} starts another program than /usr/local/bin/gpu-exporter")
    _write(root / "usr/lib/systemd/system" / UNIT, ours)
    documents = root / f"usr/share/doc/{NAME}"
    year = time.gmtime(when).tm_year
    _write(documents / "copyright", COPYRIGHT.format(year=year, parts="\n".join(_licences(library))))
    day = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(when))
    history = (
        f"{NAME} ({__version__}) unstable; urgency=medium\n\n"
        "  * NEWS.md.gz tells what is new.\n\n"
        f" -- {MAINTAINER}  {day}\n"
    )
    for path, text in (("changelog.gz", history), ("NEWS.md.gz", (ROOT / "CHANGELOG.md").read_text())):
        _pack(documents / path, text)
    _pack(root / f"usr/share/man/man1/{NAME}.1.gz", manual(when))
    for path, text in completions():
        _write(root / path, text)


def _licences(library: Path) -> Iterator[str]:
    """Of each package of others, as it says itself."""
    for file in sorted(library.glob("*.dist-info/METADATA")):
        told = email.message_from_string(file.read_text())
        licence = told["License-Expression"] or told["License"].splitlines()[0]  # some tell the whole text there
        yield f" {told['Name']} {told['Version']}: {licence}"


def _pack(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _describe(root: Path) -> None:
    """The folder DEBIAN."""
    files = list(_files(root))
    size = sum((path.stat().st_size + 1023) // 1024 for path in files)
    sums = "".join(
        # Debian's own format; it finds damage, not attackers.
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if f"/{path.relative_to(root)}" not in CONFFILES
    )
    control = root / "DEBIAN"
    texts = {
        "control": CONTROL.format(name=NAME, version=_version(), maintainer=MAINTAINER, size=size),
        "conffiles": "".join(f"{path}\n" for path in CONFFILES),
        "md5sums": sums,
        "postinst": POSTINST,
        "prerm": PRERM,
        "postrm": POSTRM,
    }
    for name, text in texts.items():
        _write(control / name, text)


def _version() -> str:
    """As dpkg compares: 1.0~rc1 comes before 1.0."""
    return re.sub(r"(a|b|rc|\.dev)(\d+)", r"~\1\2", __version__)


def _files(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.rglob("*") if path.is_file())


def main() -> int:
    """Build it by itself, without the rest of a release."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(package(Path(sys.argv[1]), moment()).path)
    except (LeftOutError, RefusedError) as error:
        print(f"deb: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
