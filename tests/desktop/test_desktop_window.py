"""The window with real clicks and keys, over machines of which one is sick, one is off and one hangs."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyqtgraph import PlotWidget
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAction, QColor, QPalette
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QDialogButtonBox, QInputDialog, QLabel, QMessageBox, QTableView, QWidget
from tools.lab.hub import Hub

from desk import FREE, LOST, Lab, become, desktop, gpu, lab, machine, until
from gpu_exporter.desktop.application import Desktop
from gpu_exporter.desktop.choice import Choice, ChoiceError
from gpu_exporter.desktop.fleet_model import ITEM
from gpu_exporter.desktop.theme import DARK, LIGHT, dark_palette
from gpu_exporter.hub.client.client import Curve
from gpu_exporter.hub.client.origins import Origin
from gpu_exporter.hub.state import NodeState
from machines import Told, exporter

CORPUS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><b>bold</b>',
    "<table><tr><td>x</td></tr></table>",
    "<a href='http://evil.example/'>click</a>",
    "&lt;b&gt;",
    "&amp;&copy;",
    "%1 %n [*]",
    "a\u2028b\u202ec",
    "=HYPERLINK(1)",
)


@pytest.fixture
def a() -> Told:
    return machine(gpu(0), gpu(1, "bob", state="idle_held"), gpu(2, **FREE), gpu(3, **LOST), gpu(4, celsius=86.0))


@pytest.fixture
def fleet(tmp_path: Path, a: Told) -> Iterator[Lab]:
    """A machine that is well, one with sick GPUs, one that is off, and one that hangs."""
    b = machine(*(gpu(index, "carol") for index in range(2)))
    with lab(tmp_path, {"gpu-b": b, "gpu-a": a, "gpu-z": None}, hangs="gpu-h", rack="R12") as made:
        yield made


@pytest.fixture
def desk(application: QApplication, tmp_path: Path, fleet: Lab) -> Iterator[Desktop]:
    with desktop(application, tmp_path, fleet.choice()) as made:
        until(lambda: settled(made), lambda: lines(made))
        yield made


def states(made: Desktop) -> dict[str, NodeState]:
    rows = range(made.window.fleet.fleet.rowCount())
    items = [made.window.fleet.fleet.index(row, 0).data(ITEM) for row in rows]
    return {item.node.name: item for item in items}


def settled(made: Desktop) -> bool:
    found = states(made)
    return bool(found) and all(state.status != "starting" for state in found.values())


def lines(made: Desktop) -> list[tuple[str, list[str]]]:
    """What the list shows."""
    proxy = made.window.fleet.filter
    found = []
    for row in range(proxy.rowCount()):
        index = proxy.index(row, 0)
        below = [str(proxy.index(number, 0, index).data()) for number in range(proxy.rowCount(index))]
        found.append((str(index.data()), below))
    return found


def click(made: Desktop, name: str, number: int | None = None) -> None:
    """Click on a machine in the list, or on one of its GPUs."""
    tree = made.window.fleet
    proxy = tree.filter
    machine_row = next(proxy.index(row, 0) for row in range(proxy.rowCount()) if proxy.index(row, 0).data() == name)
    index = machine_row
    if number is not None:
        tree.expand(machine_row)
        index = proxy.index(number, 0, machine_row)
    tree.scrollTo(index)
    QTest.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=tree.visualRect(index).center())


def cell_texts(table: QTableView) -> list[list[str]]:
    model = table.model()
    return [
        [str(model.index(row, column).data()) for column in range(model.columnCount())]
        for row in range(model.rowCount())
    ]


def processes(made: Desktop) -> list[list[str]]:
    table = made.window.detail.tabs.widget(0)
    assert isinstance(table, QTableView)
    return cell_texts(table)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_sick_come_first_and_what_is_not_known_is_not_shown_as_now(desk: Desktop) -> None:
    assert [name for name, _ in lines(desk)] == ["gpu-a", "gpu-z", "gpu-h", "gpu-b"]
    assert states(desk)["gpu-z"].message.startswith("refused the connection")
    assert states(desk)["gpu-h"].message == "did not answer within 1 s"
    assert desk.tray.severity == "critical"
    assert "gpu-z, gpu-h offline, gpu-a GPU 3 down, gpu-a GPU 4 hot" in desk.tray.words
    assert desk.window.status.text().startswith(
        "4 machines, 2 offline · 1 free · 4 at work · 1 held, but idle · 1 down"
    )


def test_a_click_shows_a_machine_and_a_gpu(desk: Desktop) -> None:
    detail = desk.window.detail
    click(desk, "gpu-b")
    assert detail.name.text() == "gpu-b"
    assert "CPU 25 %" in detail.facts.text()
    assert [shown.index for shown in detail.cards.gpus.items] == [0, 1]
    assert [row[1] for row in processes(desk)] == ["4000", "4001"]
    click(desk, "gpu-b", 1)
    assert detail.about.text() == "GPU 1 · H100 80GB HBM3 · at work 50 % · carol"
    assert [row[1:4] for row in processes(desk)] == [["4001", "carol", "4.7 GiB"]]
    click(desk, "gpu-a", 3)
    assert detail.about.text() == "GPU 3 · H100 80GB HBM3 · down · lost: the driver cannot reach it"
    click(desk, "gpu-z")
    assert detail.trouble.text.startswith("offline: refused the connection")
    assert (detail.about.text(), processes(desk)) == ("", [])


def test_a_click_on_a_card_goes_to_its_gpu(desk: Desktop) -> None:
    detail, cards = desk.window.detail, desk.window.detail.cards
    click(desk, "gpu-a")
    for number in (1, 0):
        at = cards.visualRect(cards.gpus.index(number, 0)).center()
        QTest.mouseClick(cards.viewport(), Qt.MouseButton.LeftButton, pos=at)
        assert detail.about.text().startswith(f"GPU {number} ")
        assert desk.window.fleet.currentIndex().data() == f"GPU {number}  H100 80GB HBM3"
        assert [row[1] for row in processes(desk)] == [f"400{number}"]


def test_curves_are_of_what_was_seen(desk: Desktop) -> None:
    click(desk, "gpu-a", 4)
    chart = desk.window.detail.charts._charts["gpu_temperature_celsius"]
    assert chart.accessibleDescription() == "Temperature: 86 °C, highest 86 °C, limit 89 °C"
    times, values = chart._line.getData()
    assert len(times) >= 1
    assert set(values) == {86.0}
    click(desk, "gpu-z")
    assert chart.accessibleDescription() == "Temperature: n/a"


def test_people(desk: Desktop) -> None:
    table = desk.window.detail.tabs.widget(1)
    assert isinstance(table, QTableView)
    assert [row[:3] for row in cell_texts(table)] == [["alice", "2", "0"], ["carol", "2", "0"], ["bob", "1", "1"]]
    head = table.horizontalHeader()
    desk.window.detail.tabs.setCurrentIndex(1)
    at = QPoint(head.sectionViewportPosition(0) + 5, head.height() // 2)
    QTest.mouseClick(head.viewport(), Qt.MouseButton.LeftButton, pos=at)
    QTest.mouseClick(head.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert [row[0] for row in cell_texts(table)] in (["alice", "bob", "carol"], ["carol", "bob", "alice"])


def test_only_what_changed_is_drawn_anew(desk: Desktop, a: Told) -> None:
    changed: list[str] = []
    desk.window.fleet.fleet.dataChanged.connect(lambda first, _last: changed.append(first.data()))
    become(a, *a.now.readings[:4], gpu(4, "dora", celsius=50.0))
    until(lambda: "GPU 4  H100 80GB HBM3" in changed)
    assert set(changed) == {"GPU 4  H100 80GB HBM3"}


# --- news -------------------------------------------------------------------------------------------------------------


def test_it_follows_what_happens_and_comes_back_by_itself(application: QApplication, tmp_path: Path, a: Told) -> None:
    with lab(tmp_path, {"gpu-a": a}) as made, desktop(application, tmp_path, made.choice()) as desk:
        until(lambda: settled(desk))
        port = made.ports["gpu-a"]
    with lab(tmp_path, {}) as made:
        made.ports = {"gpu-a": port}
        made.write()
        with desktop(application, tmp_path, made.choice()) as desk:
            until(lambda: settled(desk))
            assert states(desk)["gpu-a"].status == "offline"
            assert desk.window.detail.trouble.text.startswith("offline: refused")
            with exporter(a, port=port):
                until(lambda: states(desk)["gpu-a"].status == "online")
                assert desk.window.detail.trouble.text == ""
                assert len(desk.window.detail.cards.gpus.items) == 5
            until(lambda: states(desk)["gpu-a"].status == "offline")
            # Its GPUs stay, with nothing that would look like now.
            assert [(one.state, one.utilization) for one in desk.window.detail.cards.gpus.items] == [
                ("unknown", None)
            ] * 5


def test_a_list_that_changes_is_followed(desk: Desktop, fleet: Lab) -> None:
    click(desk, "gpu-b")
    del fleet.ports["gpu-b"]
    fleet.write()
    until(lambda: "gpu-b" not in states(desk))
    until(lambda: desk.window.detail.name.text() != "gpu-b")
    fleet.nodes.write_text("{")
    until(lambda: "nodes.json" in desk.window.notes.text)
    assert "gpu-a" in states(desk)


def test_notices_of_gpus_of_mine(desk: Desktop, a: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = notify_send(tmp_path, monkeypatch)
    desk.remembered.names = ["alice"]
    desk.window.watcher.rename(["alice"])
    click(desk, "gpu-a")
    until(lambda: desk.window.watcher.mine(states(desk)["gpu-a"].gpus[0]))
    become(a, gpu(0, celsius=88.0), *a.now.readings[1:])
    until(lambda: "is hot" in desk.window.last_notice.text())
    until(told.exists)
    assert until(lambda: [text for text in told.read_text().splitlines() if text == "gpu-a: GPU 0 is hot"])
    become(a, gpu(0, **FREE), *a.now.readings[1:])
    until(lambda: "free again" in desk.window.last_notice.text())
    until(lambda: "gpu-a: GPU 0 is free again" in told.read_text())


def test_notices_that_are_switched_off_are_not_told(desk: Desktop, a: Told) -> None:
    desk.window.watcher.rename(["alice"])
    heard: list[Any] = []
    desk.window.noticed.connect(heard.append)
    until(lambda: desk.window.watcher.mine(states(desk)["gpu-a"].gpus[0]))
    switch = desk.menus.kinds["hot"]
    assert switch.isChecked()
    switch.trigger()
    assert not desk.remembered.wanted("hot")
    become(a, gpu(0, celsius=88.0), *a.now.readings[1:])
    until(lambda: states(desk)["gpu-a"].gpus[0].temperature == 88.0)
    assert heard == []
    switch.trigger()
    become(a, gpu(0, celsius=50.0), *a.now.readings[1:])
    until(lambda: states(desk)["gpu-a"].gpus[0].temperature == 50.0)
    become(a, gpu(0, celsius=88.0), *a.now.readings[1:])
    until(lambda: heard)


def notify_send(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notify-send that writes down what it is told; where there is no tray, it is what is run."""
    told, program = folder / "told", folder / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{told}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return told


# --- keys -------------------------------------------------------------------------------------------------------------


def press(made: Desktop, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    focused = made.window.focusWidget() or made.window
    QTest.keyClick(focused, key, modifier)


@pytest.fixture
def active(desk: Desktop) -> Desktop:
    desk.window.activateWindow()
    until(desk.window.isActiveWindow)
    return desk


def test_keys_walk_the_list(active: Desktop) -> None:
    active.window.fleet.setFocus()
    press(active, Qt.Key.Key_Home)
    assert active.window.detail.name.text() == "gpu-a"
    press(active, Qt.Key.Key_Right)
    press(active, Qt.Key.Key_Down)
    assert active.window.detail.about.text().startswith("GPU 0 ")
    press(active, Qt.Key.Key_End)
    assert active.window.detail.name.text() == "gpu-b"


def test_the_filter_is_a_key_away(active: Desktop) -> None:
    active.window.fleet.setFocus()
    press(active, Qt.Key.Key_Slash)
    assert active.window.focusWidget() is active.window.search
    QTest.keyClicks(active.window.search, "bob")
    assert lines(active) == [("gpu-a", ["GPU 1  H100 80GB HBM3"])]
    press(active, Qt.Key.Key_Escape)
    assert (active.window.search.text(), len(lines(active))) == ("", 4)
    assert active.window.focusWidget() is active.window.fleet


def test_states_can_be_picked(active: Desktop) -> None:
    active.window.states.setFocus()
    QTest.keyClicks(active.window.states, "Free")
    assert lines(active) == [("gpu-a", ["GPU 2  H100 80GB HBM3"])]
    active.window.watcher.rename(["carol"])
    until(lambda: active.window.watcher.mine(states(active)["gpu-b"].gpus[0]))
    active.window.states.setCurrentIndex(active.window.states.findText("Mine"))
    assert [name for name, _ in lines(active)] == ["gpu-b"]


def test_the_focus_goes_round_in_order(active: Desktop) -> None:
    window = active.window
    window.search.setFocus()
    seen = []
    for _ in range(5):
        seen.append(window.focusWidget())
        press(active, Qt.Key.Key_Tab)
    expected: list[QWidget] = [window.search, window.states, window.fleet, window.detail.cards]
    assert seen[:4] == expected


def test_everything_that_takes_the_focus_has_a_name(desk: Desktop) -> None:
    nameless = [
        widget
        for widget in desk.window.findChildren(QWidget)
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        and widget.isVisible()
        and not (widget.accessibleName() or getattr(widget, "text", lambda: "")())
        and type(widget).__name__ not in {"QTabBar", "QTabWidget", "QHeaderView", "GraphicsView"}
    ]
    assert nameless == []


def test_full_screen(active: Desktop) -> None:
    press(active, Qt.Key.Key_F11)
    until(active.window.isFullScreen)
    press(active, Qt.Key.Key_F11)
    until(lambda: not active.window.isFullScreen())


# --- nothing is markup ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORPUS)
def test_names_are_text_wherever_they_come_from(application: QApplication, tmp_path: Path, name: str) -> None:
    told = machine(gpu(0, name, model=name, failure=None), gpu(1, name, celsius=88.0))
    alias = name if name.isprintable() else "plain"  # nodes.yml takes no other
    with (
        lab(tmp_path, {f"m {alias}": told, f"off {alias}": None}, label=alias) as made,
        desktop(application, tmp_path, made.choice()) as desk,
    ):
        until(lambda: settled(desk))
        for node in states(desk):
            click(desk, node)
        click(desk, next(node for node in states(desk) if node.startswith("m ")), 0)
        for label in desk.window.findChildren(QLabel):
            assert label.textFormat() == Qt.TextFormat.PlainText or not set(label.text()) & set("<&")
        assert not set(desk.tray.words) & set("<>&")
        model = desk.window.fleet.fleet
        tip = model.index(0, 0).data(Qt.ItemDataRole.ToolTipRole)
        assert "<script" not in tip
        assert "<img" not in tip
        assert "<b>" not in tip
        assert desk.window.grab().width() > 0


# --- what to show -----------------------------------------------------------------------------------------------------


def test_it_asks_what_to_show_where_nothing_is_remembered(
    application: QApplication, tmp_path: Path, fleet: Lab
) -> None:
    with desktop(application, tmp_path) as desk:
        desk.begin(None)
        dialog = desk.dialog
        assert dialog is not None
        assert dialog.isVisible()
        assert dialog.button("here").isChecked()
        QTest.mouseClick(dialog.button("nodes"), Qt.MouseButton.LeftButton)
        ok = dialog.box.button(QDialogButtonBox.StandardButton.Ok)
        QTest.mouseClick(ok, Qt.MouseButton.LeftButton)
        assert dialog.trouble.text == "write the path of a list of machines, such as nodes.yml"
        QTest.keyClicks(dialog.nodes_file, str(tmp_path / "none.yml"))
        QTest.mouseClick(ok, Qt.MouseButton.LeftButton)
        until(lambda: "none.yml" in dialog.trouble.text)
        assert "cannot be read" in dialog.trouble.text
        dialog.nodes_file.clear()
        QTest.keyClicks(dialog.nodes_file, str(fleet.nodes))
        QTest.keyClicks(dialog.hub_config_file, str(fleet.config))
        QTest.mouseClick(ok, Qt.MouseButton.LeftButton)
        until(lambda: settled(desk))
        assert desk.dialog is None
    with desktop(application, tmp_path) as desk:  # the next day
        desk.begin(None)
        until(lambda: settled(desk))
        assert set(states(desk)) == {"gpu-a", "gpu-b", "gpu-h", "gpu-z"}


def test_what_is_remembered_and_gone_is_asked_for_again(application: QApplication, tmp_path: Path) -> None:
    with desktop(application, tmp_path) as desk:
        desk.remembered.choice = Choice("nodes", nodes_file=str(tmp_path / "gone.yml"))
        desk.begin(None)
        until(lambda: desk.dialog is not None and desk.dialog.isVisible())
        assert desk.dialog is not None
        assert "gone.yml" in desk.dialog.trouble.text
        assert desk.dialog.nodes_file.text().endswith("gone.yml")


def test_other_machines_can_be_chosen_at_any_time(desk: Desktop, a: Told) -> None:
    with exporter(a) as other:
        desk.menus._window.activateWindow()
        action = next(action for action in desk.window.findChildren(QAction) if action.text().startswith("&Choose"))
        action.trigger()
        dialog = desk.dialog
        assert dialog is not None
        dialog.targets.clear()
        QTest.keyClicks(dialog.targets, f"127.0.0.1:{other.port}")
        assert dialog.button("targets").isChecked()
        QTest.mouseClick(dialog.box.button(QDialogButtonBox.StandardButton.Ok), Qt.MouseButton.LeftButton)
        until(lambda: set(states(desk)) == {f"127.0.0.1:{other.port}"})
        until(lambda: settled(desk))
        assert desk.remembered.choice == dialog_choice(other.port, desk)


def dialog_choice(port: int, desk: Desktop) -> Choice:
    remembered = desk.remembered.choice
    assert remembered is not None
    return replace(remembered, kind="targets", targets=(f"127.0.0.1:{port}",))


def test_choosing_may_be_given_up(desk: Desktop) -> None:
    desk.choose()
    assert desk.dialog is not None
    QTest.keyClick(desk.dialog, Qt.Key.Key_Escape)
    assert desk.dialog is None
    assert "gpu-a" in states(desk)


def test_the_window_lives_while_it_is_looked_up(application: QApplication, tmp_path: Path) -> None:
    release = threading.Event()

    def slowly(_choice: Choice) -> Origin:
        release.wait()
        raise ChoiceError("it took its time")

    with desktop(application, tmp_path, opens=slowly) as desk:
        desk.begin(None)
        assert desk.dialog is not None
        ok = desk.dialog.box.button(QDialogButtonBox.StandardButton.Ok)
        QTest.mouseClick(ok, Qt.MouseButton.LeftButton)
        assert not ok.isEnabled()
        QTest.keyClicks(desk.dialog.hub_url, "http://h")
        assert desk.dialog.hub_url.text() == "http://h"
        release.set()
        until(lambda: desk.dialog is not None and desk.dialog.trouble.text == "it took its time")
        assert ok.isEnabled()


def test_a_hub_s_machines_and_its_history(application: QApplication, tmp_path: Path, a: Told) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(lab(tmp_path, {"gpu-a": a, "gpu-z": None}))
        hub = stack.enter_context(Hub(tmp_path, made.nodes, f"--history.path={tmp_path / 'history.db'}"))
        hub.wait_states(**{"gpu-a": "online", "gpu-z": "offline"})
        choice = Choice("hub", hub_url=f"http://127.0.0.1:{hub.port}", hub_config_file=str(made.config))
        desk = stack.enter_context(desktop(application, tmp_path, choice))
        until(lambda: settled(desk))
        assert {name: state.status for name, state in states(desk).items()} == {
            "gpu-a": "online",
            "gpu-z": "offline",
        }
        answers: list[Any] = []
        desk.feed.answered.connect(lambda _gpu, metric, curve: answers.append((metric, curve)))
        click(desk, "gpu-a", 1)
        ranges = desk.window.detail.range
        assert [ranges.itemText(place) for place in range(ranges.count())][0::3] == ["Last hour", "Last month"]
        until(lambda: len(answers) >= 4)
        # The hub has just begun: it has nothing yet, and that is no trouble.
        assert {curve for _, curve in answers} == {None}
        seen = desk.feed.trail(desk.window.detail.gpu or states(desk)["gpu-a"].gpus[1])
        start = time.time() - 3600
        kept = Curve(start, 60.0, (None, 0.25, 0.25))
        desk.feed.answered.emit(states(desk)["gpu-a"].gpus[1], "gpu_utilization_ratio", kept)
        times, values = desk.window.detail.charts._charts["gpu_utilization_ratio"]._line.getData()
        assert list(values[1:3]) == [25.0, 25.0]
        assert seen
        assert values[-1] == 50.0
        assert times[1] == pytest.approx(start + 90)
        hub.stop()
        until(lambda: desk.window.trouble.text != "")
        assert desk.tray.severity == "unknown"
        assert {one.state for state in states(desk).values() for one in state.gpus} == {"unknown"}


# --- remembered, themed, closed ---------------------------------------------------------------------------------------


def test_a_list_without_machines_says_so(application: QApplication, tmp_path: Path, a: Told) -> None:
    with lab(tmp_path, {}) as made, desktop(application, tmp_path, made.choice()) as desk:
        detail = desk.window.detail
        until(lambda: detail.name.text() == "There is no machine to show")
        assert "Choose what to show" in detail.facts.text()
        assert not detail.parts.isVisible(), "no empty curves of nothing"
        made.ports["gpu-a"] = made.stack.enter_context(exporter(a)).port
        made.write()
        until(lambda: detail.name.text() == "gpu-a")
        assert detail.parts.isVisible()
        assert detail.facts.text().startswith("127.0.0.1:")


@pytest.mark.parametrize(("size", "shown"), [((760, 600), 1), ((1280, 860), 4), ((1280, 600), 2)])
def test_curves_that_are_shown_are_whole(desk: Desktop, size: tuple[int, int], shown: int) -> None:
    desk.window.resize(*size)
    click(desk, "gpu-b")
    QTest.qWait(50)
    charts = desk.window.detail.charts
    visible = [chart for chart in charts.findChildren(PlotWidget) if chart.isVisible()]
    assert len(visible) >= shown
    for chart in visible:
        assert chart.height() >= 100
        assert charts.rect().contains(chart.geometry()), "no part of it is cut off"
        assert not any(chart.geometry().intersects(other.geometry()) for other in visible if other is not chart)


def test_geometry_is_remembered(application: QApplication, tmp_path: Path) -> None:
    with desktop(application, tmp_path) as desk:
        desk.window.resize(777, 666)
        desk.window.columns.setSizes([300, 400])
        desk.window.close()
        sizes = desk.window.columns.sizes()
    with desktop(application, tmp_path) as desk:
        assert (desk.window.width(), desk.window.height()) == (777, 666)
        assert desk.window.columns.sizes() == sizes


def test_dark_and_light_by_the_system_at_any_time(desk: Desktop, application: QApplication) -> None:
    click(desk, "gpu-b")
    before = application.palette()
    try:
        grounds = []
        for palette, colours in ((dark_palette(), DARK), (QPalette(QColor("#efefef")), LIGHT)):
            application.setPalette(palette)
            QTest.qWait(0)
            picture = desk.window.detail.charts.grab().toImage()
            assert picture.pixelColor(3, 3) == QColor(colours.panel)
            grounds.append(desk.window.grab().toImage().pixelColor(2, desk.window.height() - 3).lightness())
        assert grounds[0] < 64
        assert grounds[1] > 192
    finally:
        application.setPalette(before)


def test_simulated_data_says_so(application: QApplication, tmp_path: Path) -> None:
    with (
        lab(tmp_path, {"gpu-a": machine(gpu(0), simulated=True)}) as made,
        desktop(application, tmp_path, made.choice()) as desk,
    ):
        until(lambda: settled(desk))
        assert desk.window.simulated.isVisible()
        assert desk.window.simulated.text == "Simulated data: no real GPU is read"


def test_silence_is_not_now(desk: Desktop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that tells nothing any more: what it told last is not shown as now."""
    desk.feed._client._publish = lambda _view: None  # type: ignore[method-assign, union-attr]
    ahead = 3600.0
    monkeypatch.setattr("gpu_exporter.desktop.feed._now", lambda: time.monotonic() + ahead)
    desk.feed._heard = time.monotonic()
    desk.feed._arrived.disconnect()
    until(lambda: "nothing has been heard" in desk.window.trouble.text)
    assert {one.state for state in states(desk).values() for one in state.gpus} == {"unknown"}


def test_help_and_names(desk: Desktop) -> None:
    desk.menus._show_keys()
    (box,) = desk.window.findChildren(QMessageBox)
    assert "Ctrl+O: choose what to show" in box.text()
    QTest.keyClick(box, Qt.Key.Key_Escape)

    def answer() -> None:
        (asked,) = until(lambda: desk.window.findChildren(QInputDialog))
        asked.setTextValue("carol, dora")
        asked.accept()

    from PySide6.QtCore import QTimer  # noqa: PLC0415

    QTimer.singleShot(0, answer)
    desk.menus.names.trigger()
    assert desk.remembered.names == {"carol", "dora"}


def test_sixty_machines_stay_fluid(application: QApplication, tmp_path: Path) -> None:
    """Each with eight GPUs: one that changes is drawn alone, and choosing another makes no widgets."""
    told = machine(*(gpu(index) for index in range(8)))
    names = [f"gpu-{number:02}" for number in range(60)]
    with lab(tmp_path, dict.fromkeys(names, told)) as made, desktop(application, tmp_path, made.choice()) as desk:
        until(lambda: desk.window.status.text().startswith("60 machines · 480 at work"), desk.window.status.text)
        desk.window.fleet.expandAll()
        before = len(desk.window.findChildren(QWidget))
        for name in names[:20]:
            click(desk, name, 3)
            assert desk.window.detail.name.text() == name
        assert len(desk.window.findChildren(QWidget)) == before
