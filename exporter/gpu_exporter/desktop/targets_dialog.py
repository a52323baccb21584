"""What to show: this machine, some machines, a list of them, or a hub."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from gpu_exporter.desktop.banner import Banner
from gpu_exporter.desktop.choice import CHOICE_KINDS, Choice, ChoiceError, ChoiceKind, Open
from gpu_exporter.hub.client.origins import Origin

_TEXTS: Final[dict[ChoiceKind, str]] = {
    "here": "&This machine",
    "targets": "These &machines:",
    "nodes": "A &list of machines:",
    "hub": "A &hub:",
}


class TargetsDialog(QDialog):
    """``choice`` and ``origin`` are what was chosen, once it is accepted: the origin was opened, so it can be shown."""

    _opened = Signal(object, object)  # Choice; Origin or ChoiceError

    def __init__(self, open_: Open, choice: Choice, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("What to show")
        self.choice = choice
        self.origin: Origin | None = None
        self._open = open_
        self._buttons = {kind: QRadioButton(_TEXTS[kind], self) for kind in CHOICE_KINDS}
        self._group = QButtonGroup(self)
        self.targets = QPlainTextEdit("\n".join(choice.targets), self)
        self.targets.setPlaceholderText("gpu-a:9435\ngpu-b.example.org:9435")
        self.targets.setTabChangesFocus(True)
        self.targets.setMaximumHeight(self.fontMetrics().height() * 6)
        self.nodes_file = QLineEdit(choice.nodes_file, self)
        self.nodes_file.setPlaceholderText("nodes.yml, as Prometheus reads it")
        self.hub_url = QLineEdit(choice.hub_url, self)
        self.hub_url.setPlaceholderText("http://gpu-a:9436")
        self.hub_config_file = QLineEdit(choice.hub_config_file, self)
        self.hub_config_file.setPlaceholderText("a hub.yml; empty where none are needed")
        self.trouble = Banner("trouble", self)
        self.box = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel, parent=self
        )
        self._lay_out()
        self._buttons[choice.kind].setChecked(True)
        self.box.accepted.connect(self._try)
        self.box.rejected.connect(self.reject)
        self._opened.connect(self._take)

    def button(self, kind: ChoiceKind) -> QRadioButton:
        """What chooses that kind."""
        return self._buttons[kind]

    def try_at_once(self) -> None:
        """As if it was accepted; the dialog is seen only where that is not possible."""
        self._try()

    def _chosen(self) -> Choice:
        kind = next(kind for kind, button in self._buttons.items() if button.isChecked())
        targets = tuple(self.targets.toPlainText().replace(",", " ").split())
        return Choice(
            kind,
            targets,
            self.nodes_file.text().strip(),
            self.hub_url.text().strip(),
            self.hub_config_file.text().strip(),
        )

    def _try(self) -> None:
        choice = self._chosen()
        missing = {
            "targets": "" if choice.targets else "write the machines, one a line, such as gpu-a:9435",
            "nodes": "" if choice.nodes_file else "write the path of a list of machines, such as nodes.yml",
            "hub": "" if choice.hub_url else "write a hub's address, such as http://gpu-a:9436",
        }
        if problem := missing.get(choice.kind, ""):
            self._refuse(problem)
            return
        self._wait(True)
        threading.Thread(target=self._look, args=(choice,), name="opening", daemon=True).start()

    def _look(self, choice: Choice) -> None:
        """On a thread of its own: an exporter of this machine may take a second to answer."""
        found: Origin | ChoiceError
        try:
            found = self._open(choice)
        except ChoiceError as error:
            found = error
        with suppress(RuntimeError):  # the dialog was closed meanwhile
            self._opened.emit(choice, found)

    def _take(self, choice: Choice, found: Origin | ChoiceError) -> None:
        self._wait(False)
        if isinstance(found, ChoiceError):
            self._refuse(str(found))
            return
        self.choice, self.origin = choice, found
        self.accept()

    def _refuse(self, why: str) -> None:
        self.trouble.tell(why)
        if not self.isVisible():
            self.open()

    def _wait(self, waiting: bool) -> None:
        self.box.button(QDialogButtonBox.StandardButton.Ok).setEnabled(not waiting)
        if waiting:
            self.trouble.tell("")

    def _lay_out(self) -> None:
        grid = QGridLayout()
        fields: dict[ChoiceKind, QWidget] = {
            "targets": self.targets,
            "nodes": self._with_browser(self.nodes_file, "List of machines"),
            "hub": self.hub_url,
        }
        for row, (kind, button) in enumerate(self._buttons.items()):
            self._group.addButton(button)
            grid.addWidget(button, row, 0, Qt.AlignmentFlag.AlignTop)
            if (field := fields.get(kind)) is not None:
                grid.addWidget(field, row, 1)
        passwords = QLabel("&Passwords and certificates:", self)
        passwords.setBuddy(self.hub_config_file)
        grid.addWidget(passwords, len(self._buttons), 0)
        grid.addWidget(self._with_browser(self.hub_config_file, "hub.yml"), len(self._buttons), 1)
        grid.setColumnStretch(1, 1)
        for name, field in (
            ("Machines", self.targets),
            ("Path of the list", self.nodes_file),
            ("Address of the hub", self.hub_url),
        ):
            field.setAccessibleName(name)
        # Whoever writes into a field means it.
        self.targets.textChanged.connect(lambda: self._buttons["targets"].setChecked(True))
        self.nodes_file.textChanged.connect(lambda: self._buttons["nodes"].setChecked(True))
        self.hub_url.textChanged.connect(lambda: self._buttons["hub"].setChecked(True))
        layout = QVBoxLayout(self)
        layout.addLayout(grid)
        layout.addWidget(self.trouble)
        layout.addWidget(self.box)
        self.setMinimumWidth(self.fontMetrics().averageCharWidth() * 80)

    def _with_browser(self, field: QLineEdit, title: str) -> QWidget:
        both = QWidget(self)
        row = QHBoxLayout(both)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(field, 1)
        browse = QPushButton("Browse…", both)
        browse.setAutoDefault(False)
        browse.setAccessibleName(f"Browse for the {title}")
        row.addWidget(browse)

        def ask() -> None:
            path, _ = QFileDialog.getOpenFileName(
                self, title, field.text(), "YAML or JSON (*.yml *.yaml *.json);;All files (*)"
            )
            if path:
                field.setText(path)

        browse.clicked.connect(ask)
        return both
