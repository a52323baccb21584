"""What counts as a change of a file, and when it is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_exporter.config import Watch


def grow(path: Path) -> None:
    path.write_text("longer than it was")


def rewrite_in_place(path: Path) -> None:
    times = path.stat()
    path.write_text("b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def replace_with_its_old_time(path: Path) -> None:
    other, times = path.with_name("other"), path.stat()
    other.write_text("b")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def swap_the_link_as_the_kubelet_does(path: Path) -> None:
    """``file -> ..data/file``, ``..data -> ..2026_1``: only ``..data`` is replaced."""
    fresh = path.parent / "..2026_2"
    fresh.mkdir()
    (fresh / path.name).write_text("b")
    link = path.parent / "..data_tmp"
    link.symlink_to(fresh.name)
    link.replace(path.parent / "..data")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "..2026_1").mkdir()
    (tmp_path / "..2026_1/file").write_text("a")
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "file").symlink_to("..data/file")
    return tmp_path / "file"


@pytest.mark.parametrize(
    "change",
    [
        grow,
        rewrite_in_place,
        replace_with_its_old_time,
        swap_the_link_as_the_kubelet_does,
        Path.unlink,
        lambda path: path.chmod(0o640),
    ],
)
def test_a_change_is_told_once(path: Path, change: Callable[[Path], None]) -> None:
    watch = Watch(path)
    watch.mark()
    assert not watch.changed()
    change(path)
    assert watch.changed()
    assert not watch.changed()


def test_what_was_never_looked_at_has_changed(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "nothing there")
    assert (watch.changed(), watch.changed()) == (True, False)


def test_what_could_not_be_used_is_told_again(path: Path) -> None:
    watch = Watch(path)
    watch.mark()
    watch.forget()
    assert (watch.changed(), watch.changed()) == (True, False)


def test_a_file_that_appears_has_changed(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "file")
    watch.mark()
    (tmp_path / "file").write_text("a")
    assert watch.changed()


def test_a_file_that_is_being_written_is_waited_for(path: Path) -> None:
    watch = Watch(path)
    watch.mark()
    assert not watch.settled()
    grow(path)
    assert not watch.settled(), "somebody may still be writing it"
    path.write_text("and longer still, which is the end of it")
    assert not watch.settled()
    assert watch.settled()
    assert not watch.settled(), "it is told once"


def test_a_file_that_is_gone_is_waited_for(path: Path) -> None:
    watch = Watch(path)
    watch.mark()
    path.unlink()
    assert [watch.settled() for _ in range(3)] == [False, False, False]
    path.write_text("b")
    assert [watch.settled() for _ in range(3)] == [False, True, False]


def test_what_was_read_for_another_reason_is_not_told_again(path: Path) -> None:
    watch = Watch(path)
    watch.mark()
    grow(path)
    assert not watch.settled()
    watch.mark()
    assert [watch.settled() for _ in range(2)] == [False, False]


def test_the_files_to_follow_may_change(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    watch = Watch(path, one)
    watch.mark()
    grow(path)
    watch.follow(path, two)
    assert watch.changed(), "what happened before the other files were named is not forgotten"
    one.write_text("a")
    assert not watch.changed(), "this one is followed no more"
    two.write_text("a")
    assert watch.changed()
