"""Compiles the stand-in."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent
LIBRARY: Final = "libnvidia-ml.so.1"
# The soname lets a process that has loaded the stand-in by its path find it again by its name, as pynvml asks for it.
_FLAGS: Final = (
    *("-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-pthread"),
    f"-Wl,-soname,{LIBRARY}",
)


def table(header: str, macro: str) -> tuple[str, ...]:
    """Return the names that an X-macro of one of the headers lists."""
    text = (SOURCES / header).read_text()
    match = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*)", text)
    if match is None:
        raise LookupError(f"{header} has no table {macro}")
    return tuple(re.findall(r"X\((\w+)\)", match[1]))


FUNCTIONS: Final = frozenset(table("functions.h", "FUNCTIONS"))


def build(directory: Path, *, without: Collection[str] = (), version: str = "", removable: bool = True) -> Path:
    """Compile into a folder under ``directory`` and return it, for LD_LIBRARY_PATH.

    Functions named in ``without`` are missing from the library, as in a driver that does not know them yet. A library
    with a ``version`` works with the kernel module of that version only; one that is not ``removable`` stays in a
    process that has unloaded it. A folder is used again while sources and arguments are the same; any number of
    processes may build at once.
    """
    extra = [f'-DSTUB_VERSION="{version}"', *(() if removable else ("-Wl,-z,nodelete",))]
    if unknown := set(without) - FUNCTIONS:
        raise ValueError(f"not in functions.h: {', '.join(sorted(unknown))}")
    sources = sorted(SOURCES.glob("*.c"))
    digest = hashlib.sha256(" ".join((*_FLAGS, *extra, *sorted(without))).encode())
    for path in (*sources, *sorted(SOURCES.glob("*.h"))):
        digest.update(path.read_bytes())
    folder = directory / digest.hexdigest()[:16]
    if not (folder / LIBRARY).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _compile(sources, without, extra, Path(scratch))
            (Path(scratch) / LIBRARY).replace(folder / LIBRARY)
    return folder


def _compile(sources: Collection[Path], without: Collection[str], extra: Collection[str], scratch: Path) -> None:
    command = [os.environ.get("CC", "gcc"), *_FLAGS, *extra, *map(str, sources), "-o", str(scratch / LIBRARY)]
    if without:
        script = scratch / "missing.map"
        script.write_text("{ local: " + " ".join(f"{name};" for name in sorted(without)) + " };\n")
        command.append(f"-Wl,--version-script={script}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the stand-in does not compile:\n{done.stderr}")
