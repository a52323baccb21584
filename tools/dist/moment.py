"""The time that stands in everything that is made."""

from __future__ import annotations

import os
import subprocess

from tools.dist.made import RefusedError
from tools.lab import ROOT

_BEGINNING = 315_532_800  # 1980-01-01, the beginning of a zip file's time


def moment() -> int:
    """Unix seconds: SOURCE_DATE_EPOCH, or when the last commit was made, or, without a history, 1980."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdecimal() or int(given) < _BEGINNING:
            raise RefusedError(f"SOURCE_DATE_EPOCH: '{given}' is no time; write seconds since 1970, after 1980")
        return int(given)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else _BEGINNING
