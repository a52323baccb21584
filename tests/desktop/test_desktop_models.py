"""Lists and tables tell their views of what changed, and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QAbstractItemModel, QModelIndex, QObject, QPoint, QPointF, Qt
from PySide6.QtGui import QColor
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QApplication

from gpu_exporter.desktop.charts import Charts, alone, joined
from gpu_exporter.desktop.fleet_filter import FleetFilter
from gpu_exporter.desktop.fleet_model import ITEM, FleetModel
from gpu_exporter.desktop.merging import steps, told_apart
from gpu_exporter.desktop.rows import Column, Rows
from gpu_exporter.desktop.theme import colours
from gpu_exporter.hub.client.client import Curve
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.nodes import Node
from gpu_exporter.hub.state import Gpu, GpuState, Holder, NodeState

Tree = list[tuple[str, list[str]]]


@pytest.fixture(autouse=True)
def qt(application: QApplication) -> Iterator[None]:
    yield
    application.processEvents()


def a_gpu(node: str, index: int, state: GpuState = "held", name: str = "alice", **rest: Any) -> Gpu:
    holders = () if state == "free" else (Holder("user", name, "", 1e9),)
    return Gpu(node, index, f"GPU-{node}-{index}", "NVIDIA H100", state, holders=holders, **rest)


def a_machine(name: str, *gpus: Gpu, **rest: Any) -> NodeState:
    told: dict[str, Any] = {"status": "online", "gpus": gpus, **rest}
    return NodeState(Node(name, "10.0.0.1", 9435, labels={"rack": "R12"}), **told)


def a_view(*machines: NodeState) -> View:
    return View("lab", 1000.0, machines)


def machine_of(name: str, gpus: int = 2) -> NodeState:
    return a_machine(name, *(a_gpu(name, index) for index in range(gpus)))


def tree(model: QAbstractItemModel) -> Tree:
    found = []
    for row in range(model.rowCount()):
        index = model.index(row, 0)
        below = [str(model.index(number, 0, index).data()) for number in range(model.rowCount(index))]
        found.append((str(index.data()), below))
    return found


class Heard(QObject):
    """What a model has told its views."""

    def __init__(self, model: QAbstractItemModel) -> None:
        super().__init__()
        self.changed: list[str] = []
        self.came = self.went = self.resets = 0
        model.dataChanged.connect(self._changed)
        model.rowsInserted.connect(self._came)
        model.rowsRemoved.connect(self._went)
        model.modelReset.connect(self._reset)

    def _changed(self, first: QModelIndex, _last: QModelIndex) -> None:
        self.changed.append(str(first.data()))

    def _came(self) -> None:
        self.came += 1

    def _went(self) -> None:
        self.went += 1

    def _reset(self) -> None:
        self.resets += 1


def checked(model: QAbstractItemModel) -> QAbstractItemModelTester:
    """Qt's own test of a model: it warns, and so fails, at whatever a view could stumble over."""
    return QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal)


# --- from one list to the next ----------------------------------------------------------------------------------------


def walked(old: list[Any], new: list[Any]) -> list[Any]:
    rows = list(old)
    for what, row in steps(old, new):
        if what == "remove":
            del rows[row]
        else:
            rows.insert(row, new[row])
    return rows


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True))
def test_steps_lead_from_any_list_to_any_other(old: list[int], new: list[int]) -> None:
    assert walked(old, new) == new
    moved = [row for row in new if row in old] != [row for row in old if row in new]
    if not moved:
        assert len(list(steps(old, new))) == len(set(old) ^ set(new))


def test_rows_that_are_told_twice_are_told_apart() -> None:
    assert told_apart(["a", "b", "a"]) == [("a", 0), ("b", 0), ("a", 1)]


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_nothing_is_told_where_nothing_changed() -> None:
    model = FleetModel()
    tester = checked(model)
    view = a_view(machine_of("a"), machine_of("b"))
    model.show(view)
    heard = Heard(model)
    model.show(a_view(*(replace(state) for state in view)))
    assert (heard.changed, heard.came, heard.went, heard.resets) == ([], 0, 0, 0)
    del tester


def test_a_gpu_that_changed_is_told_alone() -> None:
    model = FleetModel()
    tester = checked(model)
    model.show(a_view(machine_of("a"), machine_of("b")))
    heard = Heard(model)
    other = machine_of("b")
    other.gpus = (other.gpus[0], replace(other.gpus[1], utilization=0.5))
    model.show(a_view(machine_of("a"), other))
    assert (heard.changed, heard.came, heard.went) == (["GPU 1  H100"], 0, 0)
    del tester


@pytest.mark.parametrize("order", list(permutations("abc")))
def test_machines_come_go_and_change_places(order: tuple[str, ...]) -> None:
    model = FleetModel()
    tester = checked(model)
    model.show(a_view(*map(machine_of, "abd")))
    model.show(a_view(*map(machine_of, order)))
    assert [name for name, _ in tree(model)] == list(order)
    assert all(len(below) == 2 for _, below in tree(model))
    model.show(a_view())
    assert tree(model) == []
    del tester


def test_gpus_come_and_go_below_their_machine() -> None:
    model = FleetModel()
    tester = checked(model)
    for count in (1, 8, 0, 3):
        model.show(a_view(machine_of("a", count), machine_of("b", 1)))
        assert [len(below) for _, below in tree(model)] == [count, 1]
    del tester


def test_a_machine_that_tells_one_gpu_twice_is_shown_so() -> None:
    model = FleetModel()
    tester = checked(model)
    twice = a_gpu("a", 0)
    for _ in range(2):
        model.show(a_view(a_machine("a", twice, twice)))
    assert tree(model) == [("a", ["GPU 0  H100"] * 2)]
    del tester


def test_a_screen_reader_hears_everything_of_a_gpu() -> None:
    model = FleetModel()
    gpu = a_gpu("a", 1, utilization=0.5, memory_used=2**30, memory_total=2**36, temperature=60.0, power=300.0)
    model.show(a_view(a_machine("a", gpu)))
    index = model.index(0, 0, model.index(0, 0))
    assert index.data(Qt.ItemDataRole.AccessibleTextRole) == (
        "a GPU 1, H100, at work 50 % · alice, memory 1.0 of 64 GiB, 60 °C, 300 W"
    )


# --- filter and order -------------------------------------------------------------------------------------------------


@pytest.fixture
def filtered() -> tuple[FleetModel, FleetFilter]:
    model = FleetModel()
    proxy = FleetFilter()
    proxy.setSourceModel(model)
    model.setParent(proxy)
    model.show(
        a_view(
            machine_of("well"),
            a_machine("free", a_gpu("free", 0, "free"), a_gpu("free", 1, name="bob")),
            a_machine("dull", a_gpu("dull", 0, "down")),
            a_machine("off", status="offline", message="refused"),
            a_machine("new", status="starting"),
            a_machine("hot", a_gpu("hot", 0, temperature=88.0, temperature_limit=89.0)),
        )
    )
    return model, proxy


def test_the_sick_come_first_and_the_rest_in_its_order(filtered: tuple[FleetModel, FleetFilter]) -> None:
    model, proxy = filtered
    assert [name for name, _ in tree(proxy)] == ["dull", "off", "hot", "well", "free", "new"]
    model.show(a_view(machine_of("well"), a_machine("free", a_gpu("free", 0, "down"))))
    assert [name for name, _ in tree(proxy)] == ["free", "well"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", 6),
        ("FREE", [("free", ["GPU 0  H100", "GPU 1  H100"])]),
        ("bob", [("free", ["GPU 1  H100"])]),
        ("r12 bob", [("free", ["GPU 1  H100"])]),
        ("rack bob", []),
        ("offline", [("off", [])]),
        ("hot:", [("hot", ["GPU 0  H100"])]),
        ("GPU-dull-0", [("dull", ["GPU 0  H100"])]),
        ("<b>", []),
    ],
)
def test_words(filtered: tuple[FleetModel, FleetFilter], words: str, found: Tree | int) -> None:
    _, proxy = filtered
    proxy.look_for(words)
    assert (len(tree(proxy)) if isinstance(found, int) else tree(proxy)) == found


def test_states_and_mine(filtered: tuple[FleetModel, FleetFilter]) -> None:
    _, proxy = filtered
    proxy.only("free")
    assert tree(proxy) == [("free", ["GPU 0  H100"])]
    proxy.only(None, lambda gpu: any(holder.name == "bob" for holder in gpu.holders or ()))
    assert tree(proxy) == [("free", ["GPU 1  H100"])]
    proxy.only(None)
    assert len(tree(proxy)) == 6
    assert not proxy.narrows


def test_a_gpu_that_comes_free_appears_in_the_list_of_free_ones(filtered: tuple[FleetModel, FleetFilter]) -> None:
    model, proxy = filtered
    proxy.only("free")
    model.show(a_view(a_machine("well", a_gpu("well", 0, "free"), a_gpu("well", 1))))
    assert tree(proxy) == [("well", ["GPU 0  H100"])]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_tells_what_changed() -> None:
    table: Rows[tuple[str, int]] = Rows(
        [Column("Name", lambda item: item[0]), Column("Size", lambda item: str(item[1]), lambda item: item[1])],
        key=lambda item: item[0],
        sentence=lambda item: f"{item[0]} has {item[1]}",
    )
    tester = checked(table)
    table.show([("a", 1), ("b", 2), ("c", 3)])
    heard = Heard(table)
    table.show([("a", 1), ("b", 5)])
    assert (heard.changed, heard.came, heard.went) == (["b"], 0, 1)
    table.show([("b", 5), ("a", 1), ("d", 4)])
    assert [table.index(row, 0).data() for row in range(3)] == ["b", "a", "d"]
    assert table.index(0, 0).data(ITEM) == ("b", 5)
    assert table.index(2, 1).data(Qt.ItemDataRole.AccessibleTextRole) == "Size: 4"
    del tester


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_line_is_broken_where_nothing_was_known_or_seen() -> None:
    times, values = joined([(0.0, 1.0), (5.0, None), (10.0, 2.0), (15.0, 2.0), (200.0, 3.0)])
    assert times == [0.0, 5.0, 10.0, 15.0, 15.0, 200.0]
    assert [None if math.isnan(value) else value for value in values] == [1.0, None, 2.0, 2.0, None, 3.0]


@pytest.mark.parametrize(
    ("values", "dots"),
    [
        ([], []),
        ([1.0], [1.0]),
        ([1.0, 1.0], []),
        ([None, 1.0, None, 2.0, 3.0, None, 4.0], [1.0, 4.0]),
        ([1.0, None, None], [1.0]),
    ],
)
def test_what_no_line_leads_to_is_a_dot(values: list[float | None], dots: list[float]) -> None:
    line = joined([(5.0 * place, value) for place, value in enumerate(values)])
    assert alone(*line)[1] == dots


def test_a_lone_value_is_seen(application: QApplication) -> None:
    charts = Charts()
    charts.resize(600, 400)
    gpu = a_gpu("gpu-a", 1)
    for means, seen in (((None, None), False), ((None, 0.5), True)):
        charts.draw(gpu, [], {"gpu_utilization_ratio": Curve(0.0, 60.0, means)}, start=0.0, end=120.0)
        chart = charts._charts["gpu_utilization_ratio"]
        picture = chart.grab().toImage()
        place = chart.mapFromScene(chart.getPlotItem().vb.mapViewToScene(QPointF(90.0, 50.0)))
        ink = colours(application.palette()).fill
        around = [picture.pixelColor(place + QPoint(0, down)) for down in (-1, 0, 1)]
        assert (QColor(ink) in around) is seen, means


def test_a_hub_s_minutes_and_our_seconds_make_one_line() -> None:
    times, values = joined([(0.0, 1.0), (60.0, 1.0), (120.0, 1.0)], [(125.0, 2.0), (130.0, 2.0)])
    assert times == [0.0, 60.0, 120.0, 125.0, 130.0]
    assert not any(map(math.isnan, values))
