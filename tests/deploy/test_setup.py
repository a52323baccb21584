"""tools/setup: what it says before it touches the machine, and that it writes nothing outside of the checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tools.lab import ROOT

LACKING = "no-such-program|its-package another|does something; without it, something is left out"
SAID = "setup: missing: no-such-program, which does something; without it, something is left out\n"


def call(folder: Path, function: str, *, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """One function of the script, in the folder, on a machine whose apt-get only tells that it was run."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, does in {"apt-get": 'echo "apt-get $*" >&2', "id": f"echo {user}"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    script = f"source '{ROOT / 'tools/setup'}' .venv dev; cd '{folder}'; {function} 2>&1"
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{programs}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_root_is_told_before_anything_is_installed(tmp_path: Path) -> None:
    done = call(tmp_path, f"apt_install() {{ echo installing \"$@\"; }}; install_missing '{LACKING}'")
    assert done.returncode == 0
    told, planned, updated, installed = done.stdout.splitlines(keepends=True)
    assert told == SAID
    assert "outside of this checkout" in planned
    assert planned.endswith("apt-get install its-package another\n")
    assert updated == "apt-get update -qq\n"
    assert installed == "installing its-package another\n"


@pytest.mark.parametrize(
    ("user", "environment", "words"),
    [
        (0, {"APT": "no"}, "setup: not installed, because APT=no: apt-get install its-package another\n"),
        (1000, {}, "setup: only root can install them: sudo apt-get install its-package another\n"),
    ],
    ids=["APT=no", "a user"],
)
def test_nothing_is_installed_unasked(tmp_path: Path, user: int, environment: dict[str, str], words: str) -> None:
    done = call(tmp_path, f"install_missing '{LACKING}'", user=user, **environment)
    assert (done.returncode, done.stdout) == (1, SAID + words)


def test_a_machine_that_lacks_nothing_is_left_alone(tmp_path: Path) -> None:
    done = call(tmp_path, "install_missing 'sh bash|packages|does something'")
    assert (done.returncode, done.stdout) == (0, "")


def test_without_a_python_one_line_names_what_brings_it(tmp_path: Path) -> None:
    done = call(tmp_path, "make_environment", PYTHON="no-such-python")
    said = "setup: no-such-python not found: install Python 3.10 or newer (Debian: apt-get install python3-venv)\n"
    assert (done.returncode, done.stdout) == (1, said)


def test_an_unpacked_program_finds_its_files_wherever_it_runs(tmp_path: Path) -> None:
    """The path that Debian builds in is read from the checkout, whether or not the machine has it."""
    unpacked = tmp_path / ".build/debian/usr"
    (unpacked / "share/prometheus").mkdir(parents=True)
    (unpacked / "share/prometheus/default.tmpl").write_text("a template\n")
    program = unpacked / "bin/prometheus-alertmanager"
    program.parent.mkdir()
    # As in a compiled program: bytes that are no text, and a length that must not change.
    program.write_bytes(b'cat /usr/share/prometheus/default.tmpl; echo "$1"; exit 3\n\0\xff\xfe')
    program.chmod(0o755)
    size = program.stat().st_size
    for _ in range(2):  # what is done already is not done again
        assert call(tmp_path, "relocate").stdout == ""
        assert program.with_name("prometheus-alertmanager.unpacked").stat().st_size == size
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = program.read_text().replace('exec "$0.unpacked"', '. "$0.unpacked"')  # a shell stands in for the kernel
    program.write_text(script)
    done = subprocess.run([program, "word"], cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "a template\nword\n"), done.stderr


def test_what_draws_the_pages_of_an_unpacked_prometheus_is_fetched_as_well(tmp_path: Path) -> None:
    """Debian has those scripts in packages of their own, some of them needed by others; the pages link to them."""
    static = tmp_path / ".build/debian/usr/share/prometheus/web/static"
    static.mkdir(parents=True)
    program = tmp_path / ".build/debian/usr/bin/prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    fetching = 'PATH=$PWD/programs:/bin; fetch() { echo fetch "$@"; }; have() { [ $1 = prometheus ]; }; fetch_programs'

    def fetched() -> bool:
        return any(line.startswith("fetch prometheus ") for line in call(tmp_path, fetching).stdout.splitlines())

    assert not fetched(), "another one, which draws by itself"
    (static / "jquery").symlink_to("../../../javascript/jquery")
    assert fetched()
    scripts = tmp_path / ".build/debian/usr/share/javascript/jquery"
    scripts.mkdir(parents=True)
    assert not fetched()
    cache = tmp_path / "programs/apt-cache"
    cache.write_text(
        "#!/bin/sh\nprintf '%s\\n' prometheus '  Depends: libjs-rickshaw' libjs-rickshaw '  Depends: libjs-d3' "
        "libjs-d3 adduser fonts-glyphicons-halflings libjs-popper.js libjs-d3\n"
    )
    cache.chmod(0o755)
    assert call(tmp_path, "drawing").stdout.split() == [
        "fonts-glyphicons-halflings", "libjs-d3", "libjs-popper.js", "libjs-rickshaw",
    ]  # fmt: skip


LONG = """#!/bin/sh
'''exec' "{}/.venv/bin/python3" "$0" "$@"
"""


@pytest.mark.parametrize(
    ("begin", "where", "moved"),
    [
        ("#!{}/.venv/bin/python3.11\n", "here", False),
        ("#!{}/.venv/bin/python3.11\n", "link", False),
        ("#!{}/.venv/bin/python3.11\n", "elsewhere", True),
        (LONG, "here", False),
        (LONG, "else where", True),
        ("", "here", False),
    ],
    ids=["here", "the same by a link", "elsewhere", "here, a long path", "elsewhere, a long path", "nothing yet"],
)
def test_an_environment_that_was_made_elsewhere_is_known(tmp_path: Path, begin: str, where: str, moved: bool) -> None:
    """And make forgets that it was made, so that it is made anew: nothing in it would run, or run another checkout."""
    for name in ("here", "elsewhere", "else where"):
        (tmp_path / name / ".venv/bin").mkdir(parents=True)
    (tmp_path / "link").symlink_to("here")
    here = tmp_path / "here"
    if begin:
        (here / ".venv/bin/pip").write_text(begin.format(tmp_path / where))
    assert call(here, "moved && echo moved").stdout == ("moved\n" if moved else "")

    (here / "tools").mkdir()
    for file in ("tools/setup", "Makefile"):
        (here / file).write_text((ROOT / file).read_text())
    (here / ".venv/dev.stamp").touch()
    subprocess.run(["make", "--silent", "help"], cwd=here, capture_output=True, check=True)
    assert (here / ".venv/dev.stamp").exists() != moved


def test_setup_writes_nowhere_else() -> None:
    script = (ROOT / "tools/setup").read_text()
    assert "/usr/share/prometheus" in script
    assert not [line for line in script.splitlines() if line.lstrip().startswith(("cp ", "mkdir -p /", "sudo "))]
