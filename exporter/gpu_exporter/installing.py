"""What brings a missing library to the Python that runs us."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

# As Debian calls those that every release has new enough (pyproject.toml).
_DEBIANS: Final = {"bcrypt": "python3-bcrypt"}


def advice(*packages: str) -> str:
    """What to do about packages of PyPI that are missing, as the end of a sentence.

    The Python of a system refuses pip where its distribution says so (PEP 668), as Debian's does since 12.
    """
    if not _is_the_systems():
        return f"run: pip install {' '.join(packages)}"
    debians = [_DEBIANS.get(package, "") for package in packages]
    if all(debians) and shutil.which("apt-get"):
        return f"run: apt-get install {' '.join(debians)}"
    return (
        "this system's Python takes nothing from pip: install gpu-exporter in a virtual environment (docs/INSTALL.md)"
    )


def _is_the_systems() -> bool:
    return sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
