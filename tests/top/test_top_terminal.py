"""The installed `top` in real terminals: tmux, whose screen is read as text, and pseudo-terminals that go away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tools.lab.exporter import Exporter, command, environment, run
from tools.lab.hub import write_nodes
from tools.lab.nvml_stub import Stub
from tools.lab.programs import program
from tools.lab.wait import wait_for

from machines import anything, nobody

FAKE = ("--source=fake", "--interval=500ms")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine with a GPU that is lost, one that never answers, one that is not there."""
    folder = tmp_path_factory.mktemp("fleet")
    story = folder / "story.yml"
    story.write_text("events:\n- {at: 0s, gpu: 2, fault: xid, xid: 79}\n- {at: 0s, gpu: 2, fault: lost}\n")
    with ExitStack() as stack:
        options = ("--source=fake", "--fake.seed=1", f"--fake.scenario={story}", "--collection.interval=1s")
        machines = {"gpu-a": stack.enter_context(Exporter(folder, *options)).port}
        machines["hung"] = stack.enter_context(anything(lambda _connection, _head: None))
        machines["nobody"] = nobody()
        yield write_nodes(folder / "nodes.json", machines)


class Tmux:
    """A terminal whose screen can be read; the status of what ran in it stands on the last line."""

    def __init__(self, folder: Path, *arguments: str, size: tuple[int, int] = (80, 24), **extra: str) -> None:
        self._tmux = [program("tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null"]
        words = shlex.join(["env", *(f"{name}={value}" for name, value in extra.items()), *command(), *arguments])
        self.run("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), f"{words}; echo ended $?; exec cat")

    def run(self, *words: str) -> str:
        env = environment({"LC_ALL": "C.UTF-8"})
        return subprocess.run([*self._tmux, *words], env=env, capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def see(self, *words: str) -> str:
        """The screen, as soon as it has all of these."""

        def there() -> str | None:
            screen = self.screen()
            return screen if all(word in screen for word in words) else None

        return wait_for(there, self.screen)

    def __enter__(self) -> Tmux:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.CalledProcessError):
            self.run("kill-server")


def test_eight_gpus_in_eighty_by_twenty_four(tmp_path: Path) -> None:
    with Tmux(tmp_path, "top", *FAKE, LC_ALL="C.UTF-8") as tmux:
        screen = tmux.see("free", "idle", "q Quit", "▁").splitlines()
        assert screen[0].startswith("this machine · simulated · 8 GPUs: 1 free, 6 at work, 1 held but idle")
        assert [line[:19] for line in screen[2:10]] == [f"   {index} H100 80GB HBM3" for index in range(8)]
        assert screen[10].split() == ["GPU", "PID", "USER", "MEM▼", "UTIL", "IDLE", "WHAT"]
        assert len([line for line in screen[11:23] if line]) == 7
        tmux.press("q")
        assert tmux.see("ended 0").splitlines()[0] == "ended 0", "the screen from before is back"


def test_what_is_not_well_is_on_top_and_freezes_nothing(tmp_path: Path, nodes: Path) -> None:
    with Tmux(tmp_path, "top", f"--nodes.file={nodes}", "--interval=500ms", LC_ALL="C.UTF-8") as tmux:
        screen = tmux.see("hung offline", "did not answer within", "down: lost", "XID 79").splitlines()
        lines = [line.split()[0:2] for line in screen[2:6]]
        assert lines == [["hung", "offline"], ["nobody", "offline"], ["▾", "gpu-a"], ["2", "H100"]]
        clock = re.compile(r"offline for (\d+) s")
        before = clock.findall(tmux.screen())
        wait_for(lambda: clock.findall(tmux.screen()) != before)
        tmux.press("C-c")
        tmux.see("ended 130")


def test_resized_it_fits(tmp_path: Path) -> None:
    with Tmux(tmp_path, "top", *FAKE, size=(120, 30), LC_ALL="C.UTF-8") as tmux:
        tmux.see("SM", "MEM GiB")
        tmux.run("resize-window", "-x", "40", "-y", "12")
        tmux.see(" GPU  UTIL     GiB  °C HELD BY")
        tmux.run("resize-window", "-x", "200", "-y", "40")
        tmux.see("POWER W", "SM", "q Quit")
        tmux.press("q")
        tmux.see("ended 0")


@pytest.mark.parametrize(
    "extra",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "en_US.ISO-8859-1"},
        {"LC_ALL": "", "LC_CTYPE": "", "LANG": ""},
    ],
)
def test_without_utf_8(tmp_path: Path, extra: dict[str, Any]) -> None:
    with Tmux(tmp_path, "top", *FAKE, **extra) as tmux:
        screen = tmux.see("this machine - simulated - 8 GPUs", "free", "%%")
        assert screen.isascii()
        tmux.press("u")
        assert tmux.see("everybody").isascii()
        tmux.press("C-c")
        tmux.see("ended 130")


def test_once_fits_watch(tmp_path: Path) -> None:
    del tmp_path
    for columns in (40, 80):
        done = run("top", "--once", "--source=fake", extra={"COLUMNS": str(columns), "LC_ALL": "C.UTF-8"})
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) <= columns
        assert "\x1b" not in done.stdout
    assert run("top", "--once", "--source=fake", extra={"LC_ALL": "C"}).stdout.isascii()


def test_once_of_a_fleet(nodes: Path) -> None:
    done = run("top", "--once", f"--nodes.file={nodes}", extra={"COLUMNS": "120"})
    assert done.returncode == 1
    assert "down: lost: the driver cannot reach it" in done.stdout
    told = json.loads(run("top", "--once", "--json", f"--nodes.file={nodes}").stdout)
    assert [node["state"] for node in told["nodes"]] == ["online", "offline", "offline"]
    assert (told["simulated"], len(told["gpus"]), told["gpus"][2]["state"]) == (True, 8, "down")
    assert {process["node"] for process in told["processes"]} == {"gpu-a"}


def test_once_of_nothing() -> None:
    done = run("top", "--once", f"--target=127.0.0.1:{nobody()}")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-exporter: no GPU can be looked at: 127.0.0.1:")


def test_no_terminal_is_one_sentence() -> None:
    for options in ((), ("--source=fake",)):
        done = run("top", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            r"gpu-exporter: standard \w+ is not a terminal; write --once for text, or --once --json\n", done.stderr
        )
    refused = run("top", "--json")
    assert refused.stderr == "gpu-exporter: --json is of one look; write --once --json\n"


# --- pseudo-terminals -------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal with `top` in it; everything that it was sent is kept."""

    def __init__(self, *arguments: str, extra: Mapping[str, str] | None = None, hears_hangup: bool = True) -> None:
        env = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(extra or {})}
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*command(), "top", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(env),
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if hears_hangup else None,  # noqa: PLW1509
        )
        self.slave = slave
        self.got = b""

    def read(self) -> bytes:
        while self.master >= 0 and select.select([self.master], [], [], 0)[0]:
            try:
                self.got += os.read(self.master, 65536)
            except OSError:
                break
        return self.got

    def see(self, *words: bytes) -> None:
        wait_for(lambda: all(word in self.read() for word in words), lambda: self.got[-2000:])

    def ended(self) -> int:
        wait_for(lambda: (self.read(), self.process.poll())[1] is not None, lambda: self.got[-2000:])
        self.read()
        assert self.process.returncode is not None
        return self.process.returncode

    def hang_up(self) -> None:
        os.close(self.slave)
        os.close(self.master)
        self.slave = self.master = -1

    def __enter__(self) -> Terminal:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.master >= 0:
            self.hang_up()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_the_terminal_as_it_was(number: signal.Signals) -> None:
    with Terminal(*FAKE) as terminal:
        terminal.see(b"HELD BY", b"alice")
        terminal.process.send_signal(number)
        assert terminal.ended() == 128 + number
        assert termios.tcgetattr(terminal.slave) == terminal.before
        tail = terminal.got[terminal.got.rindex(b"alice") :]
        assert b"\x1b[?1049l" in tail
        assert b"\x1b[?25h" in tail
        assert b"Traceback" not in terminal.got


@pytest.mark.parametrize("hears", [True, False], ids=["told by a signal", "not told"])
def test_a_terminal_that_is_closed_leaves_no_process(hears: bool) -> None:
    with Terminal(*FAKE, hears_hangup=hears) as terminal:
        terminal.see(b"HELD BY", b"alice")
        terminal.hang_up()
        wait_for(lambda: terminal.process.poll() is not None)
        assert terminal.process.returncode == 129


def test_no_colour() -> None:
    for extra in ({"NO_COLOR": "1"}, {"TERM": "vt100"}):
        with Terminal(*FAKE, extra=extra) as terminal:
            terminal.see(b"HELD BY", b"alice", b"free")
            terminal.process.terminate()
            terminal.ended()
            colours = [
                code
                for codes in re.findall(rb"\x1b\[([0-9;]+)m", terminal.got)
                for code in map(int, codes.split(b";"))
                if 30 <= code <= 37 or 40 <= code <= 47 or code in {38, 48} or code >= 90
            ]
            assert colours == []


def test_a_terminal_that_cannot_be_drawn_on() -> None:
    with Terminal(*FAKE, extra={"TERM": "dumb"}) as terminal:
        assert terminal.ended() == 2
        words = (
            b"gpu-exporter: the terminal 'dumb' (TERM) cannot move its cursor; write --once for text, or --once --json"
        )
        assert terminal.got == words + b"\r\n"


def test_a_driver_that_hangs_is_left_behind(stub: Callable[..., Stub], library: Path) -> None:
    machine = stub("h100", "h100")
    machine.hang(0)
    options = ("--source=nvml", "--interval=1s", "--collection.timeout=1s")
    with Terminal(*options, extra=machine.env(library)) as terminal:
        terminal.see(b"down:", b"the driver does not answer for it")
        os.write(terminal.master, b"q")
        assert terminal.ended() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before
