"""How one device's rows are read: the catalogue's NVML columns, grouped into as few driver calls as possible.

A row starts with its best column and moves to the next one where the device does not support it; what is left when no
column remains is never asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import pynvml

from gpu_exporter.catalog import DEVICE_METRICS
from gpu_exporter.catalog.row import Call, Fans, Field, Gpm, Limit, Links, Metric, Processes, Samples
from gpu_exporter.sources.nvml.asking import Answers, Asker, Work
from gpu_exporter.sources.nvml.fields import FieldBatch

# What a device is asked for itself; processes are read by another module.
_Column: TypeAlias = Call | Field | Gpm | Samples | Limit | Links | Fans


class Plan:
    """One device's plan. Belongs to whichever thread reads the device."""

    def __init__(self, handle: Any, *, driver_release: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._asker = Asker(handle, monotonic=monotonic)
        self._release = driver_release
        self._columns: dict[Metric, tuple[_Column, ...]] = {}
        for metric in DEVICE_METRICS:
            possible = (column for column in metric.nvml if not isinstance(column, Processes))
            if columns := tuple(column for column in possible if self._possible(column, metric)):
                self._columns[metric] = columns
        self._every_tick: Work | None = None
        self._now_and_then: Work | None = None
        self._kept: dict[Metric, float] = {}
        self._fixed: dict[Metric, float] = {}

    @property
    def handle(self) -> Any:
        """What the driver knows the device by."""
        return self._asker.handle

    @handle.setter
    def handle(self, handle: Any) -> None:
        self._asker.handle = handle

    def read(self, *, slow: bool) -> Answers:
        """What every reading asks for; with ``slow``, also what changes only by an administrator's hand.

        Raises DeviceFailedError or SourceError.
        """
        answers = Answers()
        if self._every_tick is None or self._now_and_then is None:
            self._every_tick = self._group(metric for metric in self._columns if not self._is_slow(metric))
            self._now_and_then = self._group(metric for metric in self._columns if self._is_slow(metric))
        self._asker.perform(self._every_tick, answers)
        if slow:
            before = len(answers.values)
            self._asker.perform(self._now_and_then, answers)
            self._kept = dict(list(answers.values.items())[before:])
        while answers.unsupported:
            self._fall_back(answers)
        self._keep_for_good(answers.fixed)
        answers.values = {**self._fixed, **self._kept, **answers.values}
        return answers

    def close(self) -> None:
        """Free what the driver holds for the device; before NVML is shut down."""
        self._asker.close()

    def read_buffers(self) -> Answers:
        """What the driver's sample buffers tell, and nothing else: they are shorter than a reading may be away.

        Raises DeviceFailedError or SourceError. What is not supported any more is left to the next reading.
        """
        answers = Answers()
        first = ((metric, columns[0]) for metric, columns in self._columns.items())
        work = Work(samples=[(metric, column) for metric, column in first if isinstance(column, Samples)])
        self._asker.perform(work, answers)
        return answers

    def _fall_back(self, answers: Answers) -> None:
        """Move unsupported rows to their next column and read those at once."""
        rows, answers.unsupported = dict.fromkeys(answers.unsupported), []
        self._every_tick = self._now_and_then = None
        retry = []
        for metric in rows:
            remaining = self._columns.pop(metric, ())[1:]
            if remaining:
                self._columns[metric] = remaining
                retry.append(metric)
        slow = {metric for metric in retry if self._is_slow(metric)}
        self._asker.perform(self._group(retry), answers)
        self._kept.update({metric: value for metric, value in answers.values.items() if metric in slow})

    def _keep_for_good(self, values: dict[Metric, float]) -> None:
        """Do not ask for these again: a limit computed from the moving margin would wander by a few degrees."""
        if values:
            self._fixed |= values
            for metric in values:
                self._columns.pop(metric, None)
            self._every_tick = self._now_and_then = None

    # --- what can be asked --------------------------------------------------------------------------------------------

    def _possible(self, column: _Column, metric: Metric) -> bool:
        """Whether this driver, binding and device can have the column at all."""
        if metric.links is not None and metric.links not in self._asker.links:
            return False
        if isinstance(column, Field):
            return self._field_id(column) is not None
        if isinstance(column, Fans):
            return self._asker.fans > 0
        if isinstance(column, Gpm) and not self._asker.has_gpm:
            return False
        if isinstance(column, Links):
            return hasattr(pynvml, column.state)
        return hasattr(pynvml, column.name)

    def _field_id(self, column: Field) -> int | None:
        if not column.renumbered:
            return getattr(pynvml, column.name, None)
        return next((number for release, number in column.renumbered if self._release >= release), None)

    def _is_slow(self, metric: Metric) -> bool:
        column = self._columns[metric][0]
        return (
            isinstance(column, Limit)
            or (isinstance(column, Call) and column.slow)
            or (isinstance(column, Links) and column.per_link)
        )

    def _group(self, metrics: Iterable[Metric]) -> Work:
        work = Work()
        for metric in metrics:
            column = self._columns[metric][0]
            if isinstance(column, Call):
                work.calls.setdefault((column.name, column.args, column.struct), []).append((metric, column))
            elif isinstance(column, Samples):
                work.samples.append((metric, column))
            elif isinstance(column, Fans):
                work.fans.append((metric, column))
            elif isinstance(column, Gpm):
                work.gpm.append((metric, column))
            elif isinstance(column, Links) and column.per_link:
                work.link_states.append((metric, column))
            else:
                self._add_field(work, metric, column)
        work.batch = FieldBatch(work.asked) if work.asked else None
        return work

    def _add_field(self, work: Work, metric: Metric, column: Field | Links | Limit) -> None:
        links = range(self._asker.links.get(metric.links or "", 0))
        if isinstance(column, Links):
            asked = [(getattr(pynvml, column.state), link) for link in links]
        elif isinstance(column, Limit):
            asked = [(getattr(pynvml, column.name), 0)]
        else:
            number = self._field_id(column) or 0
            scopes = links if column.scope == "links" else (column.scope,)
            asked = [(number, scope) for scope in scopes]
        places = []
        for item in asked:
            if item not in work.asked:
                work.asked.append(item)
            places.append(work.asked.index(item))
        work.fields.append((metric, column, tuple(places)))
