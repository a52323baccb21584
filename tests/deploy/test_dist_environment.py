"""tools/dist/environment.py: environments that were moved, broken or outrun are made anew, and sound ones are not."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.dist import environment as module
from tools.dist.environment import environment
from tools.dist.made import LeftOutError

FILES = {
    "thing/__init__.py": "def main():\n    print('it runs')\n",
    "thing-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1\n",
    "thing-1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "thing-1.dist-info/entry_points.txt": "[console_scripts]\nthing = thing:main\n",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a single locked package, which is a wheel beside it: no index is asked."""
    folder = tmp_path_factory.mktemp("environments") / "checkout"
    (folder / "requirements").mkdir(parents=True)
    wheel = folder / "thing-1-py3-none-any.whl"
    record = "".join(f"{name},,\n" for name in (*FILES, "thing-1.dist-info/RECORD"))
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**FILES, "thing-1.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements/thing.txt").write_text(f"./{wheel.name} --hash=sha256:{digest}\n")
    return folder


def run(programs: Path) -> str:
    return subprocess.run([programs / "thing"], capture_output=True, text=True, check=True).stdout


def lose(pattern: str) -> Callable[[Path], None]:
    def lost(folder: Path) -> None:
        found = list(folder.glob(pattern))
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return lost


def unhinge(folder: Path) -> None:
    """The Python that it was made of was taken off the machine."""
    for path in (folder / "bin").glob("python*"):
        path.unlink()
        path.symlink_to("/nowhere/python")


def test_it_is_made_once_and_anew_where_it_was_moved(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", checkout)
    programs = environment("thing")
    assert run(programs) == "it runs\n"
    (programs / "kept").touch()
    assert environment("thing") == programs
    assert (programs / "kept").exists(), "a sound one is taken as it is"

    moved = tmp_path / "moved"
    shutil.copytree(checkout, moved, symlinks=True)
    before = (moved / ".build/thing/bin/thing").read_text()
    assert before.startswith(f"#!{checkout}"), "it would run what lies elsewhere, or nothing"
    monkeypatch.setattr(module, "ROOT", moved)
    programs = environment("thing")
    assert programs.is_relative_to(moved)
    assert (programs / "thing").read_text().startswith(f"#!{moved}")
    assert run(programs) == "it runs\n"
    assert not (programs / "kept").exists()


@pytest.mark.parametrize(
    ("damage", "sound"),
    [
        (lose("bin/thing"), False),
        (lose("bin/python"), False),
        (lose("lib/python3*/site-packages/thing/__init__.py"), False),
        (lose("lib/python3*/site-packages/thing"), False),
        (lose("lib/python3*/site-packages"), False),
        (lose("lib/python3*/site-packages/thing/__pycache__"), True),
        (unhinge, False),
    ],
    ids=["a program", "its Python", "a module", "a package", "all packages", "bytecode", "the Python it was made of"],
)
def test_what_is_broken_is_noticed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], sound: bool
) -> None:
    monkeypatch.setattr(module, "ROOT", checkout)
    folder = tmp_path / "copy"
    shutil.copytree(environment("thing").parent, folder, symlinks=True)
    assert module._sound(folder)
    damage(folder)
    assert module._sound(folder) == sound


def test_what_cannot_be_had_is_told(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", checkout)
    (checkout / "requirements/other.txt").write_text("./other-1-py3-none-any.whl --hash=sha256:00\n")
    with pytest.raises(LeftOutError, match=r"requirements/other\.txt cannot be installed: .*other-1"):
        environment("other")
    assert not (checkout / ".build/other/stamp").exists(), "it is tried again"
