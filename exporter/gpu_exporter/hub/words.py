"""Values as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Final

from gpu_exporter.catalog.owner_kinds import BY_KIND
from gpu_exporter.hub.state import GpuState, Holder

STATE_WORDS: Final[Mapping[GpuState, str]] = {
    "free": "free",
    "held": "at work",
    "idle": "held, but idle",
    "down": "down",
    "unknown": "unknown",
}
NOBODY_KNOWN: Final = "somebody unseen"  # memory in use that no process explains
_GIB: Final = 2**30
_STEPS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def called(holder: Holder) -> str:
    """How a person asks for the owner: a user by name, a pod with its namespace, a job by its user and number."""
    row = BY_KIND.get(holder.kind)
    if not holder.name:
        if row is not None and row.nameless and holder.namespace:
            return row.nameless.format(namespace=holder.namespace)
        return NOBODY_KNOWN
    if row is None:
        return f"{holder.namespace}/{holder.name}" if holder.namespace else holder.name
    if row.namespace and not holder.namespace:
        return holder.name
    return row.called.format(name=holder.name, namespace=holder.namespace)


def span(seconds: float) -> str:
    """How long: two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    for number, (size, unit) in enumerate(_STEPS):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            inner = _STEPS[number + 1 : number + 2]
            if whole < 10 and inner and (part := int(rest // inner[0][0])):
                return f"{whole:.0f} {unit} {part} {inner[0][1]}"
            return f"{whole:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(value: float | None) -> str:
    """Bytes in the unit that fits."""
    if value is None:
        return "n/a"
    for factor, unit in ((2**40, "TiB"), (_GIB, "GiB"), (2**20, "MiB")):
        if value >= factor:
            number = value / factor
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{value / 1024:.0f} KiB"


def gib(value: float | None) -> str:
    """Bytes in GiB, without the unit."""
    if value is None:
        return "n/a"
    number = value / _GIB
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}"


def percent(value: float | None) -> str:
    """A share in percent."""
    return "n/a" if value is None else f"{value:.0%}".replace("%", " %")


def moment(timestamp: float) -> str:
    """A time, as a machine reads it."""
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def clock(timestamp: float, now: float) -> str:
    """A time in the hub's zone: with its day where that is not today."""
    when, today = datetime.fromtimestamp(timestamp).astimezone(), datetime.fromtimestamp(now).astimezone()
    return when.strftime("%H:%M" if when.date() == today.date() else "%a %d %b, %H:%M")


def short_model(model: str) -> str:
    """A model without what all of them have."""
    for prefix in ("NVIDIA GeForce ", "NVIDIA "):
        model = model.removeprefix(prefix)
    return model
