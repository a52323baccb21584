"""What is remembered from one start to the next: a file of QSettings in the user's configuration."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from PySide6.QtCore import QByteArray, QSettings, QStandardPaths

from gpu_exporter.desktop.choice import CHOICE_KINDS, Choice
from gpu_exporter.desktop.notices import KINDS, Kind, parse_names

_LONGEST: Final = 100_000  # characters of a value; more is no value of ours
_STATES: Final = ("geometry", "columns", "detail")


def usual_path() -> Path:
    """The file of this user: ~/.config/gpu-exporter/desktop.ini on Linux."""
    folder = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericConfigLocation)
    return Path(folder) / "gpu-exporter" / "desktop.ini"


class Remembered:
    """Every value by itself: one that cannot be read is as if it was not there, and the others stay.

    ``trouble`` is why nothing can be kept, or what had to be put aside, or empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or usual_path()
        self.trouble = ""
        self._settings = self._opened()

    @property
    def choice(self) -> Choice | None:
        """What was shown last; None where nothing is remembered that can be shown."""
        kind = self._text("show/kind")
        if kind not in CHOICE_KINDS:
            return None
        choice = Choice(
            kind,
            tuple(self._text("show/targets").split()),
            self._text("show/nodes_file"),
            self._text("show/hub_url"),
            self._text("show/hub_config_file"),
        )
        needed = {"here": True, "targets": choice.targets, "nodes": choice.nodes_file, "hub": choice.hub_url}
        return choice if needed[kind] else None

    @choice.setter
    def choice(self, choice: Choice) -> None:
        values = {
            "kind": choice.kind,
            "targets": " ".join(choice.targets),
            "nodes_file": choice.nodes_file,
            "hub_url": choice.hub_url,
            "hub_config_file": choice.hub_config_file,
        }
        for name, value in values.items():
            self._settings.setValue(f"show/{name}", value)
        self.save()

    def wanted(self, kind: Kind) -> bool:
        """Whether notices of that kind are wanted: all are, until they are switched off."""
        return self._text(f"notify/{kind}", "true") != "false"

    def want(self, kind: Kind, wanted: bool) -> None:
        """Switch notices of that kind on or off."""
        self._settings.setValue(f"notify/{kind}", "true" if wanted else "false")
        self.save()

    @property
    def names(self) -> frozenset[str]:
        """Whose GPUs are mine: the user's own name unless others were given."""
        return parse_names(self._text("notify/names")) or _own_name()

    @names.setter
    def names(self, names: Iterable[str]) -> None:
        self._settings.setValue("notify/names", ",".join(sorted(names)))
        self.save()

    @property
    def stays(self) -> bool:
        """Whether it goes on in the tray when the window is closed."""
        return self._text("window/stays") == "true"

    @stays.setter
    def stays(self, stays: bool) -> None:
        self._settings.setValue("window/stays", "true" if stays else "false")
        self.save()

    def shape(self, name: str) -> QByteArray:
        """The window's geometry, or how it is divided; empty where that is not remembered."""
        value = self._value(f"window/{name}")
        return value if isinstance(value, QByteArray) else QByteArray()

    def keep_shape(self, name: str, shape: QByteArray) -> None:
        """Remember it."""
        self._settings.setValue(f"window/{name}", shape)

    def save(self) -> None:
        """Write it all down now; where that fails, ``trouble`` tells."""
        self._settings.sync()
        if self._settings.status() == QSettings.Status.AccessError:
            self.trouble = f"{self._path}: cannot be written: nothing is remembered"

    def _opened(self) -> QSettings:
        settings = QSettings(str(self._path), QSettings.Format.IniFormat)
        if settings.status() != QSettings.Status.FormatError:
            return settings
        # What could be read of it goes on, in a file that is whole again; the broken one is kept for its owner.
        kept = {key: settings.value(key) for key in settings.allKeys() if _ours(key)}
        aside = self._path.with_suffix(".ini.broken")
        try:
            self._path.replace(aside)
        except OSError as error:
            self.trouble = f"{self._path}: is damaged and cannot be put aside: {error.strerror}"
            return settings
        self.trouble = f"{self._path}: was damaged; it is {aside.name} now, and what could be read of it was kept"
        whole = QSettings(str(self._path), QSettings.Format.IniFormat)
        for key, value in kept.items():
            whole.setValue(key, value)
        whole.sync()
        return whole

    def _value(self, key: str) -> Any:
        try:
            return self._settings.value(key)
        except (TypeError, ValueError, RuntimeError):  # a type that Python does not know
            return None

    def _text(self, key: str, default: str = "") -> str:
        value = self._value(key)
        if isinstance(value, list):  # what has a comma is a list to QSettings
            value = ",".join(map(str, value))
        return value if isinstance(value, str) and len(value) <= _LONGEST else default


def _ours(key: str) -> bool:
    group, _, name = key.partition("/")
    known = {
        "show": {"kind", "targets", "nodes_file", "hub_url", "hub_config_file"},
        "notify": {*KINDS, "names"},
        "window": {*_STATES, "stays"},
    }
    return name in known.get(group, set())


def _own_name() -> frozenset[str]:
    try:
        return frozenset({getpass.getuser()})
    except (OSError, KeyError):  # a user without a name, in a container
        return frozenset()
