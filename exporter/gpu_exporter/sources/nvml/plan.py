"""How one device's rows are read: the catalogue's NVML columns, grouped into as few driver calls as possible.

A row starts with its best column and moves to the next one where the device does not support it. "Not supported" is
believed for a while only (rows.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import pynvml

from gpu_exporter.catalog import ASKED, WHOLE, by_name
from gpu_exporter.catalog.interconnect import NVLINK_ERRORS_OF_LINKS, NVLINK_LINK_ERRORS
from gpu_exporter.catalog.prices import Pace
from gpu_exporter.catalog.row import Call, Fans, Field, Gpm, Kernel, Limit, Links, Metric, Mig, Processes, Samples
from gpu_exporter.model import Failure
from gpu_exporter.sources.nvml.again import SELDOM, SOON, Again
from gpu_exporter.sources.nvml.asking import Answers, Asker, Work
from gpu_exporter.sources.nvml.errors import DeviceFailedError, described, failure
from gpu_exporter.sources.nvml.fields import FieldBatch
from gpu_exporter.sources.nvml.rows import Column, Row, Trial

_MIG_MODE: Final = by_name("gpu_mig_mode_enabled")
_RARELY: Final[tuple[Pace, ...]] = ("minute", "hour")
_SHARED: Final[dict[tuple[Column, ...], tuple[Column, ...]]] = {}  # one for all devices that have the same


class Plan:
    """One device's plan. Belongs to whichever thread reads the device; times are monotonic seconds."""

    def __init__(self, handle: Any, *, driver_release: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._asker = Asker(handle, monotonic=monotonic)
        self._monotonic = monotonic
        self._release = driver_release
        self._rows: dict[Metric, Row] = {}
        for metric in ASKED:
            possible = (column for column in metric.nvml if not isinstance(column, (Kernel, Mig, Processes)))
            if columns := tuple(column for column in possible if self._known(column)):
                self._rows[metric] = Row(metric, _SHARED.setdefault(columns, columns))
        self._fallen: list[Row] = []  # those that have a better column than the one in use
        self._unproven = list(self._rows.values())  # those that have never answered
        self._counts = Again()
        self._works: dict[Pace, Work] = {}  # empty where they are to be grouped anew
        self._light: frozenset[Metric] = frozenset()
        self._settled: dict[Metric, float] = {}  # limits that are known for good
        self._kept: dict[Metric, float] = {}

    @property
    def handle(self) -> Any:
        """What the driver knows the device by."""
        return self._asker.handle

    @handle.setter
    def handle(self, handle: Any) -> None:
        self._asker.handle = handle

    def doubt(self) -> None:
        """Ask again for everything that was not supported: the device was reset, lost or partitioned since."""
        self._counts.at_once()
        for row in self._fallen:
            row.again.at_once()

    @property
    def light(self) -> frozenset[Metric]:
        """The rows that a light reading asks for."""
        self._group_all()
        return self._light

    def read(self, *, rarely: Collection[Pace] = ()) -> Answers:
        """What every full reading asks for, and what is due that is asked ``rarely``.

        Raises DeviceFailedError, also where not one call gives a value.
        """
        now = self._monotonic()
        answers = Answers(began=now)
        self._count(now)
        self._group_all()
        if "minute" in rarely and "hour" not in rarely and self._lacks_hourly():
            rarely = (*rarely, "hour")
        works = self._works
        for pace in ("light", "full", *rarely):
            self._asker.perform(works[pace], answers)
        changed = self._fall_back(answers, now)
        changed = self._ask_again(answers, now) or changed
        for metric, value in answers.fixed.items():
            self._rows[metric].fixed = value
        if answers.fixed:
            self._regroup()
        self._unproven = [row for row in self._unproven if not row.prove(answers)]
        self._judge(answers)
        if rarely or changed:
            self._keep(answers, anew=rarely)
        answers.values = {**self._settled, **self._kept, **answers.values}
        answers.labelled |= self._links_with_errors(answers.values.keys())
        answers.gather()
        self._group_all()
        return answers

    def _links_with_errors(self, told: Iterable[Metric]) -> dict[tuple[Metric, tuple[str, ...]], float]:
        """By link and kind, of the rows that have a value, be it one of the minute before."""
        labelled: dict[tuple[Metric, tuple[str, ...]], float] = {}
        for metric in NVLINK_ERRORS_OF_LINKS.intersection(told):
            column = self._rows[metric].column
            if isinstance(column, Field):
                for link, count in self._asker.links_with_errors(metric, column):
                    labelled[NVLINK_LINK_ERRORS, (str(link), dict(metric.labels)["kind"])] = count
        return labelled

    def read_light(self) -> Answers | None:
        """What a light reading asks for; None where it tells nothing, and a full one has to say why.

        What is not supported any more is left to the next full reading. Raises DeviceFailedError.
        """
        answers = Answers(began=self._monotonic())
        self._group_all()
        self._asker.perform(self._works["light"], answers)
        if not answers.values:
            return None
        answers.gather()
        return answers

    def close(self) -> None:
        """Free what the driver holds for the device; before NVML is shut down."""
        self._asker.close()

    def read_buffers(self, answers: Answers) -> None:
        """Add what the driver's sample buffers tell: they are shorter than a full reading may be away.

        Raises DeviceFailedError. What is not supported any more is left to the next full reading.
        """
        columns = ((row.metric, row.column) for row in self._rows.values())
        work = Work(samples=[(metric, column) for metric, column in columns if isinstance(column, Samples)])
        self._asker.perform(work, answers)

    # --- what is not supported ----------------------------------------------------------------------------------------

    def _count(self, now: float) -> None:
        """Count links and fans, where that is due."""
        if not self._counts.due(now):
            return
        asker = self._asker
        before = dict(asker.links), asker.fans, asker.has_gpm
        self._counts.most = SELDOM if asker.count() else SOON
        self._counts.later(now)
        if before != (asker.links, asker.fans, asker.has_gpm):
            self._works = {}

    def _fall_back(self, answers: Answers, now: float) -> bool:
        """Move unsupported rows to their next column and read those at once."""
        fell = False
        while answers.unsupported:
            rows = [self._rows[metric] for metric in dict.fromkeys(answers.unsupported)]
            answers.unsupported, fell = [], True
            for row in rows:
                row.fall(now)
            self._asker.perform(self._group(rows), answers)
        if fell:
            self._regroup()
        return fell

    def _ask_again(self, answers: Answers, now: float) -> bool:
        """Ask for the better columns of those rows that are due; the best that answers is in use from now on."""
        trials = [Trial(row, answers) for row in self._fallen if row.again.due(now)]
        if not trials:
            return False
        places = [(row, row.place) for row in (trial.row for trial in trials)]
        try:
            self._try(trials, answers)
            for trial in trials:
                trial.end(now)
        finally:  # also where the device fails in the midst of it
            if changed := any(row.place != place for row, place in places):
                self._regroup()
        return changed

    def _try(self, trials: Collection[Trial], answers: Answers) -> None:
        """Ask by one better column after the other."""
        asked = trials
        while asked := [trial for trial in asked if trial.next()]:
            self._asker.perform(self._group(trial.row for trial in asked), answers)
            refused, answers.unsupported = set(answers.unsupported), []
            asked = [trial for trial in asked if trial.row.metric in refused]

    def _regroup(self) -> None:
        self._works = {}
        self._fallen = [row for row in self._rows.values() if row.place]
        self._settled = {row.metric: row.fixed for row in self._rows.values() if row.fixed is not None and row.settled}

    def _judge(self, answers: Answers) -> None:
        """Tell a device that is silently poor; raise DeviceFailedError where it tells nothing at all."""
        lapsed = sum(row.lapsed for row in self._fallen)
        if answers.values and not answers.errors and not lapsed:
            return
        if answers.silent():
            code, call = next(iter(answers.errors.values()), (0, ""))
            none = Failure("unknown", "not one of its calls gives a value")
            raise DeviceFailedError(failure(code, call) if call else none, code)
        told, missing = len(answers.told()), len(answers.errors) + lapsed
        code, call = next(iter(answers.errors.values()), (pynvml.NVML_ERROR_NOT_SUPPORTED, "all calls"))
        failing = answers.failing - answers.answering
        if missing > told or len(failing) > len(answers.answering):
            answers.partial = f"{missing} of its values are refused and {told} told; {call}: {described(code)}"

    def _lacks_hourly(self) -> bool:
        """Whether something that is asked once an hour was refused then, for a reason that may pass."""
        return any(
            row.pace == "hour" and metric not in self._kept
            for metric, row in self._rows.items()
            if row.column is not None
        )

    def _keep(self, answers: Answers, *, anew: Collection[Pace]) -> None:
        """Keep what is asked rarely, until it is asked ``anew``; a changed MIG mode changes what is supported."""
        mode = self._kept.get(_MIG_MODE)
        stays = {metric: value for metric, value in self._kept.items() if self._rows[metric].pace not in anew}
        told = {metric: value for metric, value in answers.values.items() if self._rows[metric].pace in _RARELY}
        self._kept = stays | told
        if mode is not None and self._kept.get(_MIG_MODE, mode) != mode:
            self.doubt()

    # --- what can be asked --------------------------------------------------------------------------------------------

    def _known(self, column: Column) -> bool:
        """Whether this driver and binding can have the column at all."""
        if isinstance(column, Field):
            return self._field_id(column) is not None
        if isinstance(column, Links):
            return hasattr(pynvml, column.state)
        return hasattr(pynvml, column.name)

    def _field_id(self, column: Field) -> int | None:
        if not column.renumbered:
            return getattr(pynvml, column.name, None)
        return next((number for release, number in column.renumbered if self._release >= release), None)

    def _counted(self, row: Row) -> bool:
        """Whether the device has any of what the row is about."""
        if row.metric.links is not None and row.metric.links not in self._asker.links:
            return False
        if isinstance(row.column, Gpm):
            return self._asker.has_gpm
        return not isinstance(row.column, Fans) or self._asker.fans > 0

    def _group_all(self) -> None:
        if self._works:
            return
        by_pace: dict[Pace, list[Row]] = {"light": [], "full": [], "minute": [], "hour": []}
        for row in self._rows.values():
            by_pace[row.pace].append(row)
        self._works = {pace: self._group(rows) for pace, rows in by_pace.items()}
        self._light = frozenset(WHOLE.get(row.metric, row.metric) for row in by_pace["light"])

    def _group(self, rows: Iterable[Row]) -> Work:
        work = Work()
        for row in rows:
            metric, column = row.metric, row.column
            if column is None or row.settled or not self._counted(row):
                continue
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
        work.batch = FieldBatch(tuple(work.asked)) if work.asked else None
        return work

    def _add_field(self, work: Work, metric: Metric, column: Field | Links | Limit) -> None:
        links = range(self._asker.links.get(metric.links or "", 0))
        if isinstance(column, Links):
            asked = [(getattr(pynvml, column.state), link) for link in links]
        elif isinstance(column, Limit):
            asked = [(getattr(pynvml, column.name), 0)]
        else:
            numbers = (self._field_id(column) or 0, *(getattr(pynvml, name) for name in column.also))
            scopes = links if column.scope == "links" else (column.scope,)
            asked = [(number, scope) for number in numbers for scope in scopes]
        places = tuple(work.asked.setdefault(item, len(work.asked)) for item in asked)
        work.fields.append((metric, column, places))
