"""The machine that is chosen: the host, its GPUs as cards, curves of one of them, and who is on it."""

from __future__ import annotations

import time
from typing import Final

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSplitter, QTabWidget, QVBoxLayout, QWidget

from gpu_exporter.desktop.banner import Banner, plain_label
from gpu_exporter.desktop.charts import HOUR, MEASURES, Charts
from gpu_exporter.desktop.feed import Feed
from gpu_exporter.desktop.gpu_cards import GpuCards
from gpu_exporter.desktop.sentences import gpu_line, host_facts, machine_line
from gpu_exporter.desktop.tables import Table, people_model, processes_model, processes_of
from gpu_exporter.desktop.theme import Colours
from gpu_exporter.hub.client.client import Curve
from gpu_exporter.hub.client.trails import GpuKey, key
from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.state import Gpu, NodeState
from gpu_exporter.hub.words import clock, short_model

_RANGES: Final = (("Last hour", HOUR), ("Last day", 86400.0), ("Last week", 7 * 86400.0), ("Last month", 30 * 86400.0))
_HOW: Final = "Write one into the list that is shown, or choose another: File, Choose what to show."
_ASK_AGAIN: Final = 60_000  # ms between questions for history: what a hub keeps is of minutes


class Detail(QWidget):
    """``chosen`` tells that another GPU was chosen by its card."""

    chosen = Signal(str, object)

    def __init__(self, feed: Feed, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._feed = feed
        self._view: View | None = None
        self._node = ""
        self._gpu: GpuKey | None = None
        self._whole = True  # whether the machine was chosen, and none of its GPUs
        self._history: dict[str, Curve] = {}
        self._asked: tuple[str, GpuKey | None] = ("", None)
        self.name = plain_label(parent=self)
        font = self.name.font()
        font.setPointSizeF(font.pointSizeF() * 1.35)
        font.setBold(True)
        self.name.setFont(font)
        self.facts = plain_label(parent=self)
        self.trouble = Banner("trouble", self)
        self.cards = GpuCards(self)
        self.charts = Charts(self)
        self.about = plain_label(parent=self)
        self.range = QComboBox(self)
        self.range.setAccessibleName("How far back the curves go")
        self.processes = processes_model(self)
        self.people = people_model(self)
        self.tabs = QTabWidget(self)
        self.tabs.addTab(Table(self.processes, "Processes", self), "&Processes")
        self.tabs.addTab(Table(self.people, "People", self), "P&eople")
        self.parts = self._laid_out()
        self.cards.chosen.connect(self._card_chosen)
        self.range.currentIndexChanged.connect(self._ask)
        feed.answered.connect(self._take)
        self._again = QTimer(self)
        self._again.setInterval(_ASK_AGAIN)
        self._again.timeout.connect(self._ask)
        self._again.start()

    def show_view(self, view: View) -> None:
        """Show the newest view of what is chosen."""
        self._view = view
        self.people.show(view.people())
        self._offer_ranges()
        self._show()

    def choose(self, node: str, gpu: GpuKey | None) -> None:
        """Show another machine, and of it the GPU, or else the one that it was, or the first."""
        if node != self._node:
            self._node, self._gpu = node, None
        self._whole = gpu is None
        self._gpu = gpu or self._gpu
        self._show()

    def retheme(self, theme: Colours) -> None:
        """Be drawn in these colours from now on."""
        self.charts.retheme(theme)
        self.trouble.retheme(theme)

    # --- what is shown ------------------------------------------------------------------------------------------------

    @property
    def machine(self) -> NodeState | None:
        """The machine that is chosen, if it is still there."""
        return next((state for state in self._view or () if state.node.name == self._node), None)

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that is chosen, or the machine's first."""
        machine = self.machine
        gpus = () if machine is None else machine.gpus
        return next((gpu for gpu in gpus if key(gpu) == self._gpu), next(iter(gpus), None))

    def _show(self) -> None:
        machine, gpu = self.machine, self.gpu
        view = self._view
        nobody = view is not None and view.taken > 0 and not view.machines and not view.trouble
        self.parts.setVisible(not nobody)
        if machine is None:
            gone = self._node and f"{self._node} is not in the list any more"
            self.name.setText("There is no machine to show" if nobody else gone)
            self.facts.setText(_HOW if nobody else "")
            self.trouble.tell("")
        else:
            since = f", since {clock(machine.since, time.time())}" if machine.status == "offline" else ""
            self.name.setText(machine.node.name)
            self.facts.setText(host_facts(machine))
            wrong = machine_line(machine) + since if machine.status == "offline" else machine.trouble
            self.trouble.tell(wrong)
        self.cards.gpus.show(() if machine is None else machine.gpus)
        if gpu is not None:
            self._gpu = key(gpu)
            self.cards.choose(self._gpu)
            self.about.setText(f"GPU {gpu.index} · {short_model(gpu.model)} · {gpu_line(gpu)}")
        else:
            self.about.setText("")
        index = None if self._whole or gpu is None else gpu.index
        self.processes.show([] if machine is None else processes_of(machine, index))
        if self._asked != (self._node, self._gpu):
            self._ask()
        else:
            self._draw()

    def _draw(self) -> None:
        gpu, end = self.gpu, time.time()
        trail = () if gpu is None else self._feed.trail(gpu)
        self.charts.draw(gpu, trail, self._history, start=end - self._span, end=end)

    def _card_chosen(self, gpu: GpuKey) -> None:
        if gpu != self._gpu or self._whole:
            self.choose(self._node, gpu)
            self.chosen.emit(self._node, gpu)

    # --- history ------------------------------------------------------------------------------------------------------

    @property
    def _span(self) -> float:
        return float(self.range.currentData() or HOUR)

    def _offer_ranges(self) -> None:
        """A hub may keep more than an hour; nobody else does."""
        wanted = _RANGES if self._feed.has_history else _RANGES[:1]
        if self.range.count() == len(wanted):
            return
        self.range.clear()
        for text, span in wanted:
            self.range.addItem(text, span)
        self.range.setVisible(len(wanted) > 1)

    def _ask(self) -> None:
        self._history, self._asked = {}, (self._node, self._gpu)
        gpu, end = self.gpu, time.time()
        if gpu is not None:
            for measure in MEASURES:
                self._feed.ask(gpu, measure.metric, start=end - self._span, end=end)
        self._draw()

    def _take(self, gpu: Gpu, metric: str, curve: Curve | None) -> None:
        if curve is not None and key(gpu) == self._gpu:
            self._history[metric] = curve
            self._draw()

    def _laid_out(self) -> QSplitter:
        head = QHBoxLayout()
        head.addWidget(self.about, 1)
        head.addWidget(self.range)
        curves = QWidget(self)
        inner = QVBoxLayout(curves)
        inner.setContentsMargins(0, 4, 0, 0)
        inner.addLayout(head)
        inner.addWidget(self.charts, 1)
        parts = QSplitter(Qt.Orientation.Vertical, self)
        for part, stretch in ((self.cards, 3), (curves, 3), (self.tabs, 2)):
            parts.addWidget(part)
            parts.setStretchFactor(parts.count() - 1, stretch)
            parts.setCollapsible(parts.count() - 1, part is not self.cards)
        two_rows = 2 * self.cards.card().height() + 8
        parts.setSizes([two_rows, two_rows, two_rows // 2])
        layout = QVBoxLayout(self)
        for widget in (self.name, self.facts, self.trouble):
            layout.addWidget(widget)
        layout.addWidget(parts, 1)
        layout.addStretch(0)  # what stands above stays there where the parts are hidden
        return parts
