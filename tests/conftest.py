"""Fixtures that several test files use."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.lab.nvml_stub import Stub, build

BUILT = Path(tempfile.gettempdir()) / f"gpu-exporter-nvml-stub-{os.getuid()}"


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder with the stand-in for libnvidia-ml.so.1, compiled once for all workers."""
    if shutil.which("gcc") is None:
        reason = "gcc is not installed and tools/setup could not install it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return build(BUILT)


@pytest.fixture
def stub(tmp_path: Path) -> Callable[..., Stub]:
    """Make a machine of stand-in GPUs: ``stub("h100", "rtx4090", driver_version=…)``."""
    made: list[Stub] = []

    def make(*models: str, **rest: Any) -> Stub:
        folder = tmp_path / f"machine{len(made)}"
        folder.mkdir()
        made.append(Stub(folder, models or ("h100",) * 4, **rest))
        return made[-1]

    return make


@pytest.fixture
def here(library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], Stub]:
    """Let pynvml in this very process talk to the machine."""
    # Loaded by path first, it is what dlopen finds when pynvml asks for the name.
    ctypes.CDLL(str(library / "libnvidia-ml.so.1"))

    def use(machine: Stub) -> Stub:
        monkeypatch.setenv("NVML_STUB_STATE", str(machine.state_file))
        return machine

    return use
