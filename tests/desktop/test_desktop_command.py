"""The installed command: on a real X server with a mouse and a keyboard, and where there is nothing to show it on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, command, environment, run
from tools.lab.hub import write_nodes
from tools.lab.nvml_stub import Stub
from tools.lab.programs import MissingProgramError, Program
from tools.lab.wait import patience, wait_for

from machines import nobody

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


def surroundings(folder: Path, **extra: str) -> dict[str, str]:
    """A home of its own, and no display unless one is given."""
    kept = {name: value for name, value in environment().items() if name not in DISPLAYS}
    return {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "LANG": "C.UTF-8", **extra}


def refused(folder: Path, *arguments: str, **extra: str) -> str:
    done = subprocess.run(
        [*command(), "desktop", *arguments],
        env=surroundings(folder, **extra),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=False,
    )
    assert done.returncode == 2, (done.returncode, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-exporter: ")
    return line.removeprefix("gpu-exporter: ")


# --- where it cannot be shown -----------------------------------------------------------------------------------------


def test_without_a_display(tmp_path: Path) -> None:
    line = refused(tmp_path, "--source=fake")
    assert line.startswith("there is no display for the window: neither WAYLAND_DISPLAY nor DISPLAY is set")
    assert "gpu-exporter top" in line


def test_on_a_display_that_does_not_answer(tmp_path: Path) -> None:
    line = refused(tmp_path, "--source=fake", DISPLAY=":4711")
    assert line == "the window cannot be shown on the display ':4711': could not connect to display :4711"


def test_on_a_platform_that_qt_has_not(tmp_path: Path) -> None:
    line = refused(tmp_path, "--source=fake", QT_QPA_PLATFORM="no-such")
    assert line.startswith("the window cannot be shown")
    assert "no-such" in line


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("", f"desktop needs PySide6; run: {sys.executable} -m pip install "),
        (
            "raise ImportError('libEGL.so.1: cannot open shared object file: No such file or directory')",
            (
                "the window needs a library that is not there: libEGL.so.1: cannot open shared object "
                "file: No such file or directory; on Debian and Ubuntu: apt install libegl1 "
            ),
        ),
    ],
    ids=["no PySide6", "no libEGL"],
)
def test_without_the_libraries(tmp_path: Path, broken: str, message: str) -> None:
    """PySide6 hidden from the command, or one whose import fails as it does without libEGL."""
    if broken:
        package = tmp_path / "path" / "PySide6"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("__version_info__ = (6, 8, 0)\n")
        for module in ("QtCore", "QtGui", "QtWidgets"):
            (package / f"{module}.py").write_text(broken + "\n")
        begin = f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
    else:
        begin = "import sys; sys.modules['PySide6'] = None; "
        begin += (
            "import importlib.util as u; find = u.find_spec; "
            "u.find_spec = lambda name, *rest: None if name == 'PySide6' else find(name, *rest); "
        )
    code = begin + "sys.argv = ['gpu-exporter', 'desktop', '--source=fake']; from gpu_exporter.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings(tmp_path, DISPLAY=":0"),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"gpu-exporter: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hub=ht tp"], "--hub: 'ht tp' is not a hub's address; write one such as http://gpu-a:9436"),
        (["--hub=http://h", "--target=a:1"], "--target and --hub cannot be given together; write one of them"),
        (["--interval=often"], "--interval: 'often' is not a duration"),
        (["--nodes.file=/nowhere.yml"], "/nowhere.yml: cannot be read: No such file or directory"),
        (["--bogus"], "No such option '--bogus'"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert refused(tmp_path, *arguments, QT_QPA_PLATFORM="offscreen").startswith(message)


def test_the_help_needs_no_display() -> None:
    done = run("desktop", "--help")
    assert done.returncode == 0
    for option in ("--target", "--nodes.file", "--hub", "--interval"):
        assert option in done.stdout


# --- where it can -----------------------------------------------------------------------------------------------------


def remembered(folder: Path) -> str:
    path = folder / "config/gpu-exporter/desktop.ini"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    # It is ready as soon as it has written down what it shows.
    arguments = ["--target=127.0.0.1:9", "--interval=1s"]
    program = Program(
        [*command(), "desktop", *arguments], tmp_path / "log", env=surroundings(tmp_path, QT_QPA_PLATFORM="offscreen")
    )
    with program:
        program.wait(lambda: "targets=127.0.0.1:9" in remembered(tmp_path))
        program.process.send_signal(number)
        assert program.process.wait(patience()) == 0, program.log()
    assert "Traceback" not in program.log()
    assert "Error" not in program.log()


def test_a_driver_call_that_hangs_does_not_keep_it(tmp_path: Path, library: Path, stub: Callable[..., Stub]) -> None:
    """This machine, read in the window's own process: the driver's exit handlers would wait for the call that hangs."""
    machine = stub("h100", "h100")
    called = "nvmlDeviceGetTemperatureV"
    extra = {**machine.env(library), "NVML_STUB_EXIT_HANGS": "1", "QT_QPA_PLATFORM": "offscreen"}
    arguments = ["--source=nvml", "--interval=1s", "--collection.timeout=500ms"]
    program = Program([*command(), "desktop", *arguments], tmp_path / "log", env=surroundings(tmp_path, **extra))
    with program:
        program.wait(lambda: machine.calls().get(called, 0) > 2)
        calls = machine.calls()[called]
        machine.slow_function(called, 3600.0)
        program.wait(lambda: machine.calls()[called] > calls)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(patience()) == 0, program.log()
    assert "Traceback" not in program.log()


class Screen:
    """A real X server without a screen, with a mouse and a keyboard."""

    def __init__(self, folder: Path) -> None:
        for name in ("Xvfb", "xdotool"):
            if shutil.which(name) is None:
                raise MissingProgramError(f"{name} is not installed")
        self._log = folder / "xvfb.log"
        self.name = ""

    def __enter__(self) -> Screen:  # noqa: PYI034 - typing has Self from Python 3.11 on
        read, write = os.pipe()
        with os.fdopen(read) as told, self._log.open("wb") as log:
            # It picks a free display by itself, and tells which.
            self._process = subprocess.Popen(
                ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"],
                pass_fds=[write],
                stdout=log,
                stderr=log,
            )
            os.close(write)
            self.name = f":{told.readline().strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(patience())

    def do(self, *arguments: str) -> str:
        """What xdotool says."""
        done = subprocess.run(
            ["xdotool", *arguments],
            env={**os.environ, "DISPLAY": self.name},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    with Screen(tmp_path_factory.mktemp("screen")) as made:
        yield made


@pytest.mark.e2e
def test_the_window_on_a_real_x_server(screen: Screen, tmp_path: Path) -> None:
    """A simulated machine with a sick GPU and one that is off; a mouse, a keyboard, a window that is closed."""
    story = tmp_path / "story.yml"
    story.write_text("events:\n  - {at: 0s, gpu: 1, fault: lost}\n")
    with ExitStack() as stack:
        place = tmp_path / "gpu-a"
        place.mkdir()
        options = ("--source=fake", "--fake.gpus=4", f"--fake.scenario={story}", "--collection.interval=1s")
        machine = stack.enter_context(Exporter(place, *options))
        nodes = write_nodes(tmp_path / "nodes.json", {"gpu-a": machine.port, "gpu-z": nobody()})
        program = stack.enter_context(
            Program(
                [*command(), "desktop", f"--nodes.file={nodes}", "--interval=1s"],
                tmp_path / "desktop.log",
                env=surroundings(tmp_path, DISPLAY=screen.name),
            )
        )
        title = "nodes.json - GPU machines"
        window = program.wait(lambda: screen.do("search", "--onlyvisible", "--name", title).split()[:1])[0]
        geometry = screen.do("getwindowgeometry", window)
        assert re.search(r"Geometry: 1280x860", geometry)
        # The filter by its key, a word, and Esc; then quit by its key.
        screen.do("windowfocus", "--sync", window)
        screen.do("mousemove", "--window", window, "150", "200", "click", "1")
        screen.do("key", "--window", window, "slash")
        screen.do("type", "--window", window, "gpu-z")
        screen.do("key", "--window", window, "Escape")
        program.check()
        screen.do("key", "--window", window, "ctrl+q")
        wait_for(lambda: program.process.poll() is not None or screen.do("key", "--window", window, "ctrl+q") is None)
        assert program.process.returncode == 0, program.log()
        assert "Traceback" not in program.log()
    assert "nodes.json" in remembered(tmp_path)
    assert "geometry=@ByteArray" in remembered(tmp_path)
