"""One row of nvidia-smi's table as a device's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gpu_exporter.catalog import told_together
from gpu_exporter.catalog.row import Metric, Smi
from gpu_exporter.config.parsers import shown
from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sources.smi.failures import bus, of_cell, of_error
from gpu_exporter.sources.smi.fields import COLUMNS

# Groups whose silence must not look like health.
_HEALTH: Final = frozenset({"health", "memory errors"})
_PERMISSION: Final = "Insufficient Permissions"
# NVIDIA's CUDA GPU compute capability table.
_ARCHITECTURES: Final[tuple[tuple[float, str], ...]] = (
    (10.0, "Blackwell"),
    (9.0, "Hopper"),
    (8.9, "Ada"),
    (8.0, "Ampere"),
    (7.5, "Turing"),
    (7.0, "Volta"),
    (6.0, "Pascal"),
    (5.0, "Maxwell"),
    (3.0, "Kepler"),
)


def told(row: Mapping[str, str], name: str) -> str:
    """A cell's text; empty where there is none."""
    text = row.get(name, "")
    return text if of_cell(text) is None else ""


def index_of(row: Mapping[str, str]) -> int | None:
    """Which GPU the row is of."""
    text = row.get("index", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None


def device(row: Mapping[str, str], index: int) -> Device:
    """Who the row is of."""
    return Device(
        index=index,
        uuid=told(row, "uuid"),
        model=told(row, "name"),
        architecture=_architecture(told(row, "compute_cap")),
        pci_bus_id=told(row, "pci.bus_id"),
        serial=told(row, "serial"),
        vbios_version=told(row, "vbios_version"),
    )


def same(row: Mapping[str, str], known: Device) -> bool:
    """Whether the row is of this device, as far as both say who they are."""
    uuid, address = told(row, "uuid"), told(row, "pci.bus_id")
    if uuid and known.uuid:
        return uuid.lower() == known.uuid.lower()
    return not (address and known.pci_bus_id) or bus(address) == bus(known.pci_bus_id)


def reading(row: Mapping[str, str], known: Device) -> Reading:
    """What the row tells of the device: its values, or its failure."""
    values: dict[Metric, float] = {}
    errors: dict[Metric, str] = {}
    for metric, column in COLUMNS.items():
        value, wrong = _cell(row, column)
        if wrong and (reason := of_error(wrong)) is not None:
            return Reading(known, failure=Failure(reason, f"nvidia-smi: {column.name}: [{wrong}]"))
        if value is not None:
            values[metric] = value
        elif wrong:
            errors[metric] = f"{column.name}: {wrong}"
    if not values:
        first = next(iter(errors.values()), "not one of its cells holds a value")
        refused = bool(errors) and all(wrong.endswith(_PERMISSION) for wrong in errors.values())
        return Reading(known, failure=Failure("permission" if refused else "unknown", f"nvidia-smi: {first}"))
    partial = _partial(values, errors)
    labelled = told_together(values)
    return Reading(
        known,
        {metric: value for metric, value in values.items() if not metric.dynamic},
        # nvidia-smi tells one fan.
        labelled=labelled | {(metric, ("0",)): value for metric, value in values.items() if metric.dynamic},
        partial=partial,
    )


def _cell(row: Mapping[str, str], column: Smi) -> tuple[float | None, str]:
    """The value of the best field that tells one; what is wrong, where one does not tell it for a wrong reason."""
    wrong = ""
    for name in column.names:
        text = row.get(name)
        if text is None:
            continue
        why = of_cell(text)
        if why is None:
            value = column.value(text)
            if value is not None:
                return value, ""
            why = f"'{shown(text, 40)}' is neither a number in its unit nor a known word"
        wrong = wrong or why
    return None, wrong


def _partial(values: Mapping[Metric, float], errors: Mapping[Metric, str]) -> str:
    """Why the row is not whole: most of it is errors, or some is on which health is judged."""
    sick = [wrong for metric, wrong in errors.items() if metric.group in _HEALTH]
    if not sick and len(errors) <= len(values):
        return ""
    return f"{len(errors)} of its values are refused and {len(values)} told; {(sick or list(errors.values()))[0]}"


def _architecture(capability: str) -> str:
    try:
        number = float(capability)
    except ValueError:
        return ""
    return next((name for least, name in _ARCHITECTURES if number >= least), "")
