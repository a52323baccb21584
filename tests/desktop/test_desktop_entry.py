"""The entry for a desktop's menu, and the icon."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest
from PySide6.QtCore import QSize
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication
from tools.lab import ROOT

from gpu_exporter.cli.group import cli
from gpu_exporter.desktop.icons import FILE, program_icon, tray_icon
from gpu_exporter.desktop.severity import SEVERITIES
from gpu_exporter.desktop.theme import LIGHT

ENTRY = ROOT / "deploy/desktop/gpu-exporter.desktop"
ICON = ROOT / "deploy/desktop/gpu-exporter.svg"
# The main categories that the Desktop Menu Specification has, and the additional ones that it names for System.
MAIN = {"System", "Utility", "Science", "Development", "Network"}
ADDITIONAL = {"Monitor", "Qt"}


def test_the_entry_has_what_a_menu_needs() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ENTRY)
    assert parser.sections() == ["Desktop Entry"]
    entry = dict(parser["Desktop Entry"])
    assert (entry["Type"], entry["Terminal"], entry["Name"]) == ("Application", "false", "GPU machines")
    program, command = entry["Exec"].split()
    assert (program, entry["TryExec"], entry["Icon"]) == ("gpu-exporter", "gpu-exporter", ICON.stem)
    assert command in cli.commands
    for name in ("Categories", "Keywords"):
        assert entry[name].endswith(";")
    categories = entry["Categories"].rstrip(";").split(";")
    assert set(categories) & MAIN
    assert set(categories) <= MAIN | ADDITIONAL


def test_desktop_file_validate_has_nothing_to_say() -> None:
    program = shutil.which("desktop-file-validate")
    if program is None:
        pytest.skip("desktop-file-validate is not installed")
    done = subprocess.run([program, "--warn-kde", ENTRY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_icon_is_the_program_s(application: QApplication) -> None:
    assert ICON.read_bytes() == FILE.read_bytes()
    root = ET.parse(ICON).getroot()  # noqa: S314 - it is our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("viewBox") == "0 0 64 64"
    assert not program_icon().pixmap(QSize(64, 64)).isNull()
    application.processEvents()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_tray_s_icon_has_the_colour_and_more_than_the_colour(application: QApplication, severity: str) -> None:
    wanted = next(one for one in SEVERITIES if one == severity)
    picture = tray_icon(wanted).pixmap(QSize(64, 64)).toImage()
    assert picture.pixelColor(12, 12) == QColor(LIGHT.severities[wanted])
    # Without colour they are told apart by the mark in the corner.
    others = [tray_icon(one).pixmap(QSize(64, 64)).toImage().convertToFormat(picture.Format.Format_Alpha8)
              for one in SEVERITIES]  # fmt: skip
    assert len({bytes(other.constBits()) for other in others}) >= 2
    application.processEvents()
