"""Snapshot -> the bytes of /metrics: Prometheus text 0.0.4 and OpenMetrics 1.0, plain and gzip.

One snapshot is rendered once, whatever the number of scrapes; the label text of a device is made once in its life. The
bytes are what prometheus_client's ``generate_latest`` gives for the same samples, which takes ten times as long.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

from gpu_exporter.catalog import CATALOG
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Device, Histogram, Reading, Snapshot
from gpu_exporter.pages.compat import Compat, Family
from gpu_exporter.pages.lines import go_number, sample_head
from gpu_exporter.pages.process import Collector, ProcessCollector, render
from gpu_exporter.pages.process import Family as ProcessFamily

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Below a million, prometheus_client writes numbers as Python does.
_PLAIN: Final = 1e6
# Level 9 takes nine times as long for a page that is a sixth smaller.
_GZIP_LEVEL: Final = 1
_GZIP_FORMAT: Final = 31  # zlib.h, deflateInit2: the largest window, and the header of gzip
# Pages after which a form that nobody wanted again is forgotten: one curl is not rendered for ever, and who scrapes
# every two minutes beside somebody who does every 15 s is remembered.
_REMEMBERED: Final = 10


class Page:
    """The bytes of /metrics for the newest snapshot asked for, each form rendered when it is first wanted.

    It lives as long as the daemon and is the one place that keeps what was rendered. Any thread may call. ``process``
    collects the ``process_*`` families, by default those of this process, when told to by ``note_process``. ``compat``
    adds other exporters' names.
    """

    def __init__(
        self, renderer: Renderer | None = None, *, process: Collector | None = None, compat: Compat | None = None
    ) -> None:
        self._renderer = renderer or Renderer()
        self._compat = compat
        self._process = ProcessCollector() if process is None else process
        self._lock = threading.Lock()
        self._samples: list[tuple[_Family | Family, str]] = []
        self._collected: list[ProcessFamily] = []
        self.note_process()
        # Whoever asks does so again in the same form; how many pages were prepared when one was last wanted.
        self._asked: dict[tuple[bool, bool], int] = {}
        self._prepared = 0
        # Replaced as a pair, so that a scrape which finds its body needs no lock.
        self._rendered: tuple[Snapshot | None, dict[tuple[bool, bool], bytes]] = (None, {})

    def body(self, snapshot: Snapshot, *, openmetrics: bool, gzip: bool) -> bytes:
        """The snapshot in OpenMetrics 1.0 or text 0.0.4, compressed or not."""
        self._asked[openmetrics, gzip] = self._prepared
        rendered, bodies = self._rendered
        body = bodies.get((openmetrics, gzip)) if rendered is snapshot else None
        if body is None:
            with self._lock:
                body = self._body(snapshot, openmetrics=openmetrics, gzip=gzip)
        return body

    def prepare(self, snapshot: Snapshot) -> None:
        """Render it, before it is asked for, in every form that somebody wanted of one of the last pages."""
        self._prepared += 1
        with self._lock:
            for (openmetrics, gzip), last in list(self._asked.items()):
                if self._prepared - last <= _REMEMBERED:
                    self._body(snapshot, openmetrics=openmetrics, gzip=gzip)

    def note_process(self) -> None:
        """Look at this process now, for the pages that follow: a scrape that nobody expected reads no file."""
        self._collected = list(self._process.collect())

    def _body(self, snapshot: Snapshot, *, openmetrics: bool, gzip: bool) -> bytes:
        if self._rendered[0] is not snapshot:
            self._samples, self._rendered = [], (None, {})  # never two pages in memory at once
            self._samples = [
                *self._renderer.samples(snapshot),
                *(self._compat.samples(snapshot) if self._compat else ()),
            ]
            self._rendered = (snapshot, {})
        bodies = self._rendered[1]
        body = bodies.get((openmetrics, gzip))
        if body is None:
            if gzip:
                plain = self._body(snapshot, openmetrics=openmetrics, gzip=False)
                compress = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FORMAT)
                body = compress.compress(plain) + compress.flush()
            else:
                body = self._text(openmetrics=openmetrics)
            bodies[openmetrics, gzip] = body
        return body

    def _text(self, *, openmetrics: bool) -> bytes:
        if openmetrics:
            text = "".join([part for family, lines in self._samples for part in (family.openmetrics, lines)])
            return f"{text}{render(self._collected, go_number, openmetrics=True)}# EOF\n".encode()
        text = "".join([part for family, lines in self._samples for part in (family.text, lines)])
        return f"{text}{render(self._collected, go_number, openmetrics=False)}".encode()


class Renderer:
    """Writes sample lines, and keeps the label text of the devices of the snapshot before. For one thread at a time."""

    def __init__(self, catalog: Sequence[Metric] = CATALOG) -> None:
        self._families = [_Family(name, tuple(rows)) for name, rows in groupby(catalog, attrgetter("name"))]
        self._heads: dict[Device, _Heads] = {}

    def samples(self, snapshot: Snapshot) -> list[tuple[_Family, str]]:
        """The families that have samples, with their sample lines: the same text in both formats."""
        devices = self._devices(snapshot.readings)
        pieces = []
        for family in self._families:
            lines: list[str] = []
            if family.own:
                _write_own(lines, snapshot, family.rows)
            else:
                for device in devices:
                    device.write(lines, family)
            if lines:
                pieces.append((family, "".join(lines)))
        return pieces

    def _devices(self, readings: Iterable[Reading]) -> list[_DeviceSamples]:
        """Readings in the order of device indices. Devices that are no longer there lose their label text."""
        known = self._heads
        heads = {reading.device: known.get(reading.device) or _Heads(reading.device) for reading in readings}
        self._heads = heads
        return [
            _DeviceSamples(heads[reading.device], reading)
            for reading in sorted(readings, key=lambda reading: reading.device.index)
        ]


class _Family:
    """The rows of one name, with what stands above their samples in either format."""

    def __init__(self, name: str, rows: tuple[Metric, ...]) -> None:
        self.rows = rows
        self.own = rows[0].own is not None
        self.special = tuple(row for row in rows if row.kind == "info" or row.dynamic)
        self.plain = tuple(row for row in rows if row not in self.special)
        kind = "gauge" if rows[0].kind == "info" else rows[0].kind
        # OpenMetrics names a counter's family without the suffix of its samples, and escapes quotes in HELP as well.
        bare = name.removesuffix("_total") if kind == "counter" else name
        text = rows[0].help.replace("\\", r"\\").replace("\n", r"\n")
        quoted = text.replace('"', r"\"")
        self.text = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        self.openmetrics = f"# HELP {bare} {quoted}\n# TYPE {bare} {kind}\n"


class _Heads(dict[Metric, str]):
    """The text before the value of each row's sample line, for one device.

    Of a row with labels valued at run time, the lines of the latest snapshot that had any are kept: thousands of
    processes change neither their labels nor, for the most part, their memory from one sample to the next.
    """

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._labels = {"gpu": str(device.index), "uuid": device.uuid, "model": device.model}
        # Label values -> length of the text before the value, the value, the line.
        self._labelled: dict[Metric, dict[tuple[str, ...], tuple[int, float, str]]] = {}

    def __missing__(self, row: Metric) -> str:
        labels = {**self._labels, **dict(row.labels)}
        labels.update({name: getattr(self._device, name) for name in row.info})
        head = self[row] = sample_head(row.name, labels)
        return head

    def labelled(self, row: Metric, pairs: Iterable[tuple[tuple[str, ...], float]]) -> list[str]:
        """The row's lines for all label values that it has now; a label without a value is left out."""
        known, fixed = self._labelled.get(row, {}), {**self._labels, **dict(row.labels)}
        lines = {}
        for labels, value in pairs:
            line = known.get(labels)
            if line is None:
                named = {name: text for name, text in zip(row.dynamic, labels, strict=True) if text}
                head = sample_head(row.name, fixed | named)
                line = (len(head), value, f"{head}{go_number(value)}\n")
            elif line[1] != value or not value:  # 0 equals -0, which is written differently
                line = (line[0], value, f"{line[2][: line[0]]}{go_number(value)}\n")
            lines[labels] = line
        self._labelled[row] = lines
        return [line for _, _, line in lines.values()]


class _DeviceSamples:
    """One device's reading, ready to be written family by family."""

    def __init__(self, heads: _Heads, reading: Reading) -> None:
        self._heads = heads
        self._values = reading.values
        self._labelled: dict[Metric, list[tuple[tuple[str, ...], float]]] = {}
        for (row, labels), value in reading.labelled.items():
            self._labelled.setdefault(row, []).append((labels, value))
        for row, pairs in self._labelled.items():
            if len(row.dynamic) == 1:
                pairs.sort(key=_natural)

    def write(self, lines: list[str], family: _Family) -> None:
        """Append one sample line for each value that the device has."""
        heads, values = self._heads, self._values
        for row in family.plain:
            value = values.get(row)
            if value is not None:
                number = float(value)
                text = repr(number) if -_PLAIN < number < _PLAIN else go_number(number)
                lines.append(f"{heads[row]}{text}\n")
        for row in family.special:
            if row.info:
                lines.append(f"{heads[row]}1.0\n")
            elif pairs := self._labelled.get(row):
                lines += heads.labelled(row, pairs)


def _write_own(lines: list[str], snapshot: Snapshot, rows: tuple[Metric, ...]) -> None:
    """The exporter's own rows: what the attribute ``own`` of the snapshot holds; None is absent."""
    for row in rows:
        value = getattr(snapshot, row.own or "")
        if value is None:
            continue
        labels = dict(row.labels)
        if row.kind == "histogram":
            _write_histogram(lines, row.name, labels, value)
            continue
        if row.dynamic:
            for key in sorted(value):
                told = zip(row.dynamic, key if isinstance(key, tuple) else (key,), strict=True)
                named = labels | {name: text for name, text in told if text}
                lines.append(f"{sample_head(row.name, named)}{go_number(value[key])}\n")
            continue
        if row.kind == "info":
            if isinstance(value, str):
                labels[row.info[0]] = value
            else:
                labels.update({name: getattr(value, name) for name in row.info})
            value = 1.0
        lines.append(f"{sample_head(row.name, labels)}{go_number(value)}\n")


def _write_histogram(lines: list[str], name: str, labels: dict[str, str], told: Histogram) -> None:
    """Cumulative, as both formats have them."""
    total = 0
    for bound, count in zip((*told.bounds, math.inf), told.counts, strict=True):
        total += count
        lines.append(f"{sample_head(f'{name}_bucket', labels | {'le': go_number(bound)})}{go_number(total)}\n")
    lines.append(f"{sample_head(f'{name}_count', labels)}{go_number(total)}\n")
    lines.append(f"{sample_head(f'{name}_sum', labels)}{go_number(told.total)}\n")


def _natural(pair: tuple[tuple[str, ...], float]) -> tuple[int, tuple[str, ...]]:
    """Order of the values of a single label: numbers by size. Rows with more come in an order already."""
    return len(pair[0][0]), pair[0]
