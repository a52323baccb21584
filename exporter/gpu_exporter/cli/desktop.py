"""The command line of ``gpu-exporter desktop``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gpu_exporter.cli.options import load_config
from gpu_exporter.cli.origin import beat, missing_libraries, opened, with_origin
from gpu_exporter.config import Config, ConfigError

if TYPE_CHECKING:
    from gpu_exporter.desktop.choice import Choice, Open
    from gpu_exporter.hub.client.origins import Origin

_LIBRARIES: Final = ("PySide6", "pyqtgraph")
_DISPLAYS: Final = ("WAYLAND_DISPLAY", "DISPLAY")
_WITHOUT_DISPLAY: Final = ("win32", "darwin")  # there Qt needs no variable to find one


@click.command(short_help="Show machines in a window, with an icon in the tray.")
@click.option(
    "--interval",
    metavar="DURATION",
    envvar="GPU_EXPORTER_DESKTOP_INTERVAL",
    help="How often it is looked.  [default: 5s, or hub.yml's]",
)
@with_origin
def desktop(
    *,
    interval: str | None,
    targets: tuple[str, ...],
    nodes_file: Path | None,
    hub_url: str | None,
    hub_config_file: Path | None,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Show machines, GPUs and whoever holds them in a window, and the worst of it as a colour in the tray.

    Without a target it shows what it showed last; the first time it asks. It changes nothing on any machine.
    docs/DESKTOP.md tells more.
    """
    missing_libraries("desktop", *_LIBRARIES)
    pace = beat(interval)
    config, overrides = load_config(config_file, given)
    _check_display()
    try:
        from gpu_exporter.desktop import application  # noqa: PLC0415 - other commands start faster without
    except ImportError as error:  # PySide6 is there, and a library of the system that it needs is not
        raise click.ClickException(
            f"the window needs a library that is not there: {error}; on Debian and Ubuntu: apt install libegl1 libgl1 "
            "libxkbcommon-x11-0 libdbus-1-3 libxcb-cursor0"
        ) from None
    from gpu_exporter import logs  # noqa: PLC0415

    logs.configure(config.log, quiet=True)
    own = config_file is not None or any(not key.startswith("log.") for key in overrides)

    open_ = opener(config, own=own, interval=pace)
    asked = _asked(targets=targets, nodes_file=nodes_file, hub_url=hub_url, hub_config_file=hub_config_file)
    origin = None
    if asked is not None or own:
        origin = opened(
            interval=pace, targets=targets, nodes_file=nodes_file, hub_url=hub_url, hub_config_file=hub_config_file,
            config=config, own=own,
        )  # fmt: skip
    application.run(open_, origin=origin, choice=asked)


def opener(config: Config, *, own: bool, interval: float | None) -> Open:
    """How a choice of the window is opened: as the flags of the same meaning are."""
    from gpu_exporter.desktop.choice import ChoiceError  # noqa: PLC0415

    def open_(choice: Choice) -> Origin:
        try:
            return opened(
                interval=interval,
                targets=choice.targets if choice.kind == "targets" else (),
                nodes_file=Path(choice.nodes_file).expanduser() if choice.kind == "nodes" else None,
                hub_url=choice.hub_url if choice.kind == "hub" else None,
                hub_config_file=Path(choice.hub_config_file).expanduser() if choice.hub_config_file else None,
                config=config,
                own=own,
            )
        except click.ClickException as error:
            raise ChoiceError(error.format_message()) from None
        except ConfigError as error:
            raise ChoiceError(str(error)) from None

    return open_


def _asked(
    *, targets: tuple[str, ...], nodes_file: Path | None, hub_url: str | None, hub_config_file: Path | None
) -> Choice | None:
    """What the flags ask for, to be remembered; paths stay true wherever it is started next."""
    from gpu_exporter.desktop.choice import Choice  # noqa: PLC0415

    config = "" if hub_config_file is None else str(hub_config_file.absolute())
    if targets:
        return Choice("targets", targets=targets, hub_config_file=config)
    if nodes_file is not None:
        return Choice("nodes", nodes_file=str(nodes_file.absolute()), hub_config_file=config)
    if hub_url is not None:
        return Choice("hub", hub_url=hub_url, hub_config_file=config)
    return None


def _check_display() -> None:
    """Raise ClickException where there is no display: Qt would abort."""
    if sys.platform.startswith(_WITHOUT_DISPLAY) or os.environ.get("QT_QPA_PLATFORM"):
        return
    if not any(os.environ.get(name) for name in _DISPLAYS):
        raise click.ClickException(
            "there is no display for the window: neither WAYLAND_DISPLAY nor DISPLAY is set; start it on a desktop, or "
            "over ssh -X; gpu-exporter top shows the same in a terminal"
        )
