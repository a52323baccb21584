"""Fixtures that several test files use."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import settings
from tools.lab.nvml_stub import Stub, build
from tools.lab.programs import MissingProgramError, NotBuiltError, Release, found, program

# A shell has what it runs in the background ignore Ctrl-C, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time (make fuzz tries other ones), however long one takes on a busy machine.
settings.register_profile("ours", deadline=None, derandomize=True)
settings.load_profile("ours")

BUILT = Path(tempfile.gettempdir()) / f"gpu-exporter-nvml-stub-{os.getuid()}"


def _named(release: Release) -> str:
    """The release with the versions of its Prometheus and Alertmanager, for the name of a test: shipped-3.16+0.35."""
    versions = []
    for name in ("prometheus", "alertmanager"):
        path = found(name, release)
        said = (
            ""
            if path is None
            else subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        )
        version = re.match(rf"{name}, version (\d+\.\d+)", said)
        versions.append(version[1] if version else "missing")
    return f"{release}-{'+'.join(versions)}"


@pytest.fixture(scope="session", params=get_args(Release), ids=_named)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release of Prometheus and Alertmanager; where one is missing, the test is skipped or fails as it is used."""
    given: Release = request.param
    return given


@contextmanager
def without_programs() -> Iterator[None]:
    """A test that needs a program which is not there is skipped; CI has them all, so there it fails."""
    try:
        yield
    except NotBuiltError as error:  # a newer Go is not asked of every machine
        pytest.skip(str(error))
    except MissingProgramError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with without_programs():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with without_programs():
        return (yield)


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder with the stand-in for libnvidia-ml.so.1, compiled once for all workers."""
    program("gcc")
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


@pytest.fixture(scope="session")
def counted_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stand-in counts the calls of this process; it asks for that once, at the first of them."""
    return tmp_path_factory.mktemp("nvml") / "calls"


@pytest.fixture
def here(library: Path, counted_calls: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stub], Stub]:
    """Let pynvml in this very process talk to the machine; its calls are counted from then on."""
    monkeypatch.setenv("NVML_STUB_CALLS", str(counted_calls))
    # Loaded by path first, it is what dlopen finds when pynvml asks for the name.
    ctypes.CDLL(str(library / "libnvidia-ml.so.1"))

    def use(machine: Stub) -> Stub:
        monkeypatch.setenv("NVML_STUB_STATE", str(machine.state_file))
        machine.calls_file = counted_calls
        machine.reset_calls()
        return machine

    return use
