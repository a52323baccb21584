"""What is to be shown, as it is chosen in a dialog and remembered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from gpu_exporter.hub.client.origins import Origin

ChoiceKind: TypeAlias = Literal["here", "targets", "nodes", "hub"]
CHOICE_KINDS: Final[tuple[ChoiceKind, ...]] = get_args(ChoiceKind)


@dataclass(frozen=True, slots=True)
class Choice:
    """This machine, ``targets`` (HOST:PORT), the machines of a ``nodes_file``, or those of a hub.

    ``hub_config_file`` is a hub.yml with passwords and certificates, or empty.
    """

    kind: ChoiceKind = "here"
    targets: tuple[str, ...] = ()
    nodes_file: str = ""
    hub_url: str = ""
    hub_config_file: str = ""


class ChoiceError(Exception):
    """It cannot be shown; the message is one line that says why, and what would be accepted."""


# Raises ChoiceError. It may take a second, so it is not called on the thread of the window.
Open: TypeAlias = Callable[[Choice], Origin]
