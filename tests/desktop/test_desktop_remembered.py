"""What is remembered, and how little a damaged file loses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PySide6.QtCore import QByteArray
from PySide6.QtWidgets import QApplication

from desk import desktop
from gpu_exporter.desktop.choice import Choice
from gpu_exporter.desktop.remembered import Remembered


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some" / "desktop.ini"


CHOICES = (
    Choice(),
    Choice("targets", targets=("gpu-a:9435", "[fd00::1]:9435")),
    Choice("nodes", nodes_file="/etc/a b, c/nodes.yml", hub_config_file="/etc/hub.yml"),
    Choice("hub", hub_url="https://hub.example.org/gpus"),
)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.kind)
def test_what_was_shown(path: Path, choice: Choice) -> None:
    assert Remembered(path).choice is None
    Remembered(path).choice = choice
    assert Remembered(path).choice == choice


def test_switches_names_and_shapes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "dora")
    first = Remembered(path)
    assert (first.names, first.stays, first.wanted("hot"), first.wanted("lost")) == (
        frozenset({"dora"}),
        False,
        True,
        True,
    )
    first.names = ["alice", "team-x"]
    first.stays = True
    first.want("hot", False)
    first.keep_shape("geometry", QByteArray(b"\0\1\2"))
    first.save()
    again = Remembered(path)
    assert (again.names, again.stays, again.wanted("hot"), again.wanted("lost")) == (
        frozenset({"alice", "team-x"}),
        True,
        False,
        True,
    )
    assert again.shape("geometry") == QByteArray(b"\0\1\2")
    assert again.shape("columns").isEmpty()
    again.names = []
    assert Remembered(path).names == {"dora"}


@pytest.mark.parametrize(
    "lines",
    [
        "kind=martian",
        "kind=targets\ntargets=",
        "kind=hub",
        "kind=@Invalid()",
        "kind=@ByteArray(hub)\nhub_url=x",
        "kind=a, b, c",
        "kind=" + "x" * 200_000,
    ],
)
def test_a_value_that_cannot_be_read_is_as_if_it_was_not_there(path: Path, lines: str) -> None:
    path.parent.mkdir()
    path.write_text(
        f"[notify]\nhot=false\nlost=maybe\nnames=@Variant(xx)\n\n[window]\ngeometry=junk\n\n[show]\n{lines}\n"
    )
    found = Remembered(path)
    assert found.choice is None
    assert (found.wanted("hot"), found.wanted("lost"), found.wanted("free")) == (False, True, True)
    assert found.shape("geometry").isEmpty()
    found.choice = Choice("hub", hub_url="http://h:9436")
    assert Remembered(path).choice == Choice("hub", hub_url="http://h:9436")
    assert not Remembered(path).wanted("hot")


@pytest.mark.parametrize("junk", [b"[show\nkind=hub\n", b"\x00\x01\xff\xfe" * 100, b"no equals sign here\n[[[["])
def test_a_damaged_file_is_put_aside_and_what_is_whole_is_kept(path: Path, junk: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(b"[notify]\nhot=false\n\n" + junk)
    found = Remembered(path)
    assert not found.wanted("hot")
    assert found.choice is None
    found.choice = Choice("hub", hub_url="http://h:9436")
    again = Remembered(path)
    assert (again.choice, again.wanted("hot"), again.trouble) == (Choice("hub", hub_url="http://h:9436"), False, "")
    if found.trouble:
        assert path.with_suffix(".ini.broken").read_bytes().endswith(junk)
        assert "was damaged; it is desktop.ini.broken now" in found.trouble


def test_a_geometry_that_is_junk_opens_a_window_all_the_same(application: QApplication, tmp_path: Path) -> None:
    kept = Remembered(tmp_path / "desktop.ini")
    for name in ("geometry", "columns", "detail"):
        kept.keep_shape(name, QByteArray(b"\xff" * 100))
    kept.save()
    with desktop(application, tmp_path) as desk:
        assert desk.window.width() >= 640
        assert desk.window.detail.isVisible()


def test_where_nothing_can_be_written_it_goes_on_and_says_so(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()  # not even root can write a file there
    found = Remembered(path)
    found.choice = Choice()
    assert found.trouble == f"{path}: cannot be written: nothing is remembered"
    assert os.listdir(path) == []  # noqa: PTH208
