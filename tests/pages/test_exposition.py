from __future__ import annotations

import gzip
import math
import re
import resource
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import Metric as ClientFamily
from prometheus_client import ProcessCollector as ClientProcess
from prometheus_client import generate_latest
from prometheus_client import parser as text_parser
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from tools.lab.programs import program
from tools.lab.wait import patience

from gpu_exporter.catalog import (
    CATALOG,
    DEVICE_METRICS,
    DRIVER_INFO,
    EVENT_LAST,
    EVENTS_TOTAL,
    GPU_UP,
    OWNER_ENERGY,
    OWNER_MEMORY,
    OWNER_SCORE,
    OWNER_SECONDS,
    PROCESS_MEMORY,
    PROCESS_UTILIZATION,
    READ_ERRORS,
    WHOLE,
    XID_ERRORS,
    XID_LAST,
    by_name,
    mig,
)
from gpu_exporter.catalog.interconnect import NVLINK_LINK_ERRORS
from gpu_exporter.catalog.row import Metric, row
from gpu_exporter.model import Build, Device, Driver, Failure, Histogram, Reading, Snapshot
from gpu_exporter.pages.exposition import Page, Renderer
from gpu_exporter.pages.process import ProcessCollector

generate_openmetrics: Callable[[Any], bytes] = openmetrics_exposition.generate_latest
Labelled = dict[tuple[Metric, tuple[str, ...]], float]
WHO = ("4711", "python3", "alice", "c0ffee123456", "", "", "", "")
FAN = by_name("gpu_fan_speed_ratio")
RPM = by_name("gpu_fan_speed_rpm")
PLAIN = [metric for metric in DEVICE_METRICS if metric.kind != "info" and not metric.dynamic]
BOTH = pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])


class Collected(Collector):
    """Stands in for prometheus_client's ProcessCollector, and feeds its ``generate_latest``."""

    def __init__(self, families: Iterable[ClientFamily]) -> None:
        self.families = list(families)
        self.times = 0

    def collect(self) -> Iterable[ClientFamily]:
        self.times += 1
        return self.families


def process() -> Collected:
    return Collected(
        [
            GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size in bytes.", value=31_457_280.0),
            CounterMetricFamily("process_cpu_seconds_total", "Time spent in seconds.", value=0.25),
        ]
    )


def page(catalog: tuple[Metric, ...] = CATALOG) -> Page:
    return Page(Renderer(catalog), process=process())


def device(index: int) -> Device:
    return Device(
        index=index,
        uuid=f"GPU-5f2c9b1e-0000-4000-8000-{index:012d}",
        model="NVIDIA H100 80GB HBM3",
        architecture="hopper",
        brand="nvidia",
        pci_bus_id=f"00000000:{index:02X}:00.0",
        serial="1654922001234",
        vbios_version="96.00.89.00.01",
    )


def healthy(index: int) -> Reading:
    values = {metric: number * 37.21 + index for number, metric in enumerate(PLAIN)}
    values |= {metric: 1e9 * number + index for number, metric in enumerate(PLAIN) if metric.kind == "counter"}
    values |= {metric: 0.0 for metric in PLAIN if metric.name.startswith("gpu_clock_event_active")}
    labelled: Labelled = {(FAN, ("10",)): 0.31, (FAN, ("0",)): 0.3, (FAN, ("2",)): 0.32}
    labelled |= {(RPM, ("0",)): 900.0}
    labelled |= {(row, WHO): 0.5 for row in (PROCESS_MEMORY, PROCESS_UTILIZATION)}
    of_owners = (*OWNER_SECONDS.values(), OWNER_SCORE, OWNER_ENERGY, OWNER_MEMORY)
    labelled |= {(row, ("user", "alice", "")): 7.5 for row in of_owners}
    labelled |= {(row, ("MIG-1",)): 0.25 for row in mig.ROWS[1:]}
    labelled |= {(mig.MIG_INFO, ("MIG-1", "7", "0", "1g.10gb")): 1.0, (mig.MIG_INFO, ("MIG-2", "8", "0", "")): 1.0}
    labelled |= {(row, (part.labels[0][1],)): 2.0 for part, row in WHOLE.items()}
    labelled |= {(EVENTS_TOTAL, ("poison",)): 1.0, (NVLINK_LINK_ERRORS, ("14", "recovery")): 505.0}
    labelled |= {(EVENT_LAST, ("poison",)): 1_760_000_001.5}
    labelled |= {(XID_ERRORS, ("79",)): 1.0, (XID_ERRORS, ("119",)): 3.0, (XID_LAST, ("79",)): 1_760_000_000.25}
    return Reading(device(index), values, labelled=labelled)


def down(index: int) -> Reading:
    values = {GPU_UP: 0.0} | {row: float(reason == "lost") for reason, row in READ_ERRORS.items()}
    return Reading(device(index), values, failure=Failure("lost", "GPU is lost"))


SNAPSHOT = Snapshot(
    build=Build("1.2.3", "3.11.7"),
    source="fake",
    driver=Driver("590.48.01", "13.1", "13.590.48.01"),
    readings=(healthy(0), down(10), healthy(2)),
    ok=True,
    timestamp=1_760_000_123.456789,
    duration=0.0123,
    overruns=2,
    gpus_expected=4,
    implausible={"gpu_power_watts": 3, "gpu_energy_joules_total": 1},
    event_sources={"nvml": 1.0, "kernel_log": 0.0},
    sxids={("20034", "0000:05:00"): 2, ("12028", "0000:05:00"): 1, ("other", ""): 7},
    sxids_latest={("20034", "0000:05:00"): 1_760_000_002.5, ("12028", "0000:05:00"): 1_759_000_000.0},
    reading_seconds={"full": 12.5, "light": 0.25},
    ages=Histogram((0.1, 0.5, 15.0), (3, 0, 4, 1), 33.25),
)
EMPTY = Snapshot(build=Build("1.2.3", "3.11.7"), source="nvml")


# --- the same samples, given to prometheus_client ---------------------------------------------------------------------


def client_families(snapshot: Snapshot, catalog: tuple[Metric, ...] = CATALOG) -> Iterator[ClientFamily]:
    for name, group in groupby(catalog, attrgetter("name")):
        rows = list(group)
        if rows[0].kind == "histogram":
            told = getattr(snapshot, str(rows[0].own))
            if told is not None:
                yield client_histogram(rows[0], told)
            continue
        family = CounterMetricFamily if rows[0].kind == "counter" else GaugeMetricFamily
        made: ClientFamily = family(name, rows[0].help)
        if rows[0].own is None:
            for reading in sorted(snapshot.readings, key=lambda reading: reading.device.index):
                for row in rows:
                    for labels, value in device_samples(reading, row):
                        made.add_sample(name, labels, value)
        else:
            for row in rows:
                for labels, value in own_samples(snapshot, row):
                    made.add_sample(name, labels, value)
        if made.samples:
            yield made


def client_histogram(row: Metric, told: Histogram) -> ClientFamily:
    sums = accumulate(told.counts)
    go_string: Callable[[float], str] = floatToGoString
    bounds = [go_string(bound) for bound in (*told.bounds, math.inf)]
    return HistogramMetricFamily(row.name, row.help, buckets=list(zip(bounds, sums, strict=True)), sum_value=told.total)


def device_samples(reading: Reading, row: Metric) -> Iterator[tuple[dict[str, str], float]]:
    gpu = reading.device
    labels = {"gpu": str(gpu.index), "uuid": sound(gpu.uuid), "model": sound(gpu.model), **dict(row.labels)}
    if row.info:
        yield labels | {name: sound(getattr(gpu, name)) for name in row.info}, 1
    elif row in reading.values:
        yield labels, reading.values[row]
    elif row.dynamic:
        mine = [(texts, value) for (metric, texts), value in reading.labelled.items() if metric is row]
        if len(row.dynamic) == 1:
            mine.sort(key=lambda pair: (len(pair[0][0]), pair[0]))
        for texts, value in mine:
            told = zip(row.dynamic, texts, strict=True)
            yield labels | {name: sound(text) for name, text in told if text}, value


def own_samples(snapshot: Snapshot, row: Metric) -> Iterator[tuple[dict[str, str], float]]:
    value = getattr(snapshot, str(row.own))
    if value is None:
        return
    if row.kind == "info":
        texts = {row.info[0]: value} if isinstance(value, str) else {name: getattr(value, name) for name in row.info}
        yield {name: sound(text) for name, text in texts.items()}, 1
    elif row.dynamic:
        for key in sorted(value):
            told = zip(row.dynamic, key if isinstance(key, tuple) else (key,), strict=True)
            yield {name: text for name, text in told if text}, value[key]
    else:
        yield dict(row.labels), value


def sound(text: str) -> str:
    """Text that UTF-8 can tell: halves of surrogate pairs are U+FFFD, whole pairs are what they mean."""
    joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", lambda pair: decoded(pair[0]), text)
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


def decoded(pair: str) -> str:
    return chr(0x10000 + ((ord(pair[0]) - 0xD800) << 10) + ord(pair[1]) - 0xDC00)


def by_prometheus_client(snapshot: Snapshot, *, openmetrics: bool, catalog: tuple[Metric, ...] = CATALOG) -> bytes:
    registry = Collected([*client_families(snapshot, catalog), *process().collect()])
    return generate_openmetrics(registry) if openmetrics else generate_latest(registry)


@BOTH
@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY], ids=["realistic", "before the first sample"])
def test_bytes_are_those_of_prometheus_client(snapshot: Snapshot, openmetrics: bool) -> None:
    body = page().body(snapshot, openmetrics=openmetrics, gzip=False)
    assert body == by_prometheus_client(snapshot, openmetrics=openmetrics)


hostile = st.text(max_size=8) | st.text(st.sampled_from('"\\\n\r\t\0 {}=,#é\u2028\ufeff\ud83d\ude00\udcff'), max_size=8)
odd_floats = (
    st.floats()
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda value: round(value, 2))
    | st.integers(-(2**70), 2**70).map(float)
    | st.sampled_from([0.0, -0.0, 1e6, 999_999.9999, 1e-7, 5e-324, 1e16, 123456789.125, -1e6, -12345678.5, 1e308])
)
devices = st.builds(
    Device,
    st.integers(0, 999),
    hostile,
    hostile,
    architecture=hostile,
    brand=hostile,
    pci_bus_id=hostile,
    serial=hostile,
)
readings = st.builds(
    Reading,
    devices,
    st.dictionaries(st.sampled_from(PLAIN), odd_floats | st.integers(0, 2**60), max_size=6),
    labelled=st.dictionaries(
        st.sampled_from([FAN, XID_ERRORS, XID_LAST, PROCESS_MEMORY, *OWNER_SECONDS.values()]).flatmap(
            lambda row: st.tuples(st.just(row), st.tuples(*[hostile] * len(row.dynamic)))
        ),
        odd_floats,
        max_size=6,
    ),
)
snapshots = st.builds(
    Snapshot,
    build=st.builds(Build, hostile, hostile),
    source=hostile,
    driver=st.none() | st.builds(Driver, hostile, hostile, hostile),
    readings=st.lists(readings, max_size=4, unique_by=lambda reading: reading.device.index).map(tuple),
    ok=st.booleans(),
    timestamp=st.none() | odd_floats,
    duration=st.none() | odd_floats,
    overruns=st.integers(0, 2**40),
    gpus_expected=st.none() | st.integers(0, 9),
)


@hypothesis_settings(max_examples=300)
@given(snapshots)
def test_bytes_are_those_of_prometheus_client_whatever_is_told(snapshot: Snapshot) -> None:
    served = page()
    for openmetrics in (False, True):
        body = served.body(snapshot, openmetrics=openmetrics, gzip=False)
        assert body == by_prometheus_client(snapshot, openmetrics=openmetrics)
        assert gzip.decompress(served.body(snapshot, openmetrics=openmetrics, gzip=True)) == body


@hypothesis_settings(max_examples=100)
@given(snapshots)
def test_parsers_read_back_every_label(snapshot: Snapshot) -> None:
    text = text_of(snapshot)
    families = text_parser.text_string_to_metric_families(text)
    told = {sample.labels["uuid"] for family in families for sample in family.samples if "uuid" in sample.labels}
    assert told == {sound(reading.device.uuid) for reading in snapshot.readings}


@BOTH
def test_help_is_escaped(openmetrics: bool) -> None:
    rows = (
        row("gauge", "odd", "gpu_odd", 'Says "so" \\ and\nmore.', own="ok"),
        row("counter", "odd", "gpu_odd_total", 'Says "so" \\n.', own="overruns"),
        row("gauge", "odd", "gpu_labelled", "Labels on both sides.", labels={"a": "1", "z": '"'}, dynamic=("k",)),
    )
    reading = Reading(device(0), labelled={(rows[2], ("\\",)): 1.0})
    snapshot = replace(EMPTY, readings=(reading,))
    body = page(rows).body(snapshot, openmetrics=openmetrics, gzip=False)
    assert body == by_prometheus_client(snapshot, openmetrics=openmetrics, catalog=rows)


# --- what is told -----------------------------------------------------------------------------------------------------


def text_of(snapshot: Snapshot) -> str:
    return page().body(snapshot, openmetrics=False, gzip=False).decode()


def test_a_gpu_that_is_down_tells_what_it_has() -> None:
    lines = [line for line in text_of(SNAPSHOT).splitlines() if 'gpu="10"' in line]
    assert {re.split("[{ ]", line)[0] for line in lines} == {"gpu_info", "gpu_up", "gpu_read_errors_total"}
    assert len(lines) == 2 + len(READ_ERRORS)


def test_devices_are_in_the_order_of_their_index() -> None:
    assert re.findall(r'^gpu_up\{gpu="(\d+)"', text_of(SNAPSHOT), re.MULTILINE) == ["0", "2", "10"]


def test_label_values_of_run_time_are_in_natural_order() -> None:
    assert re.findall(r'^gpu_fan_speed_ratio\{fan="(\d+)",gpu="2"', text_of(SNAPSHOT), re.MULTILINE) == ["0", "2", "10"]


def test_families_are_in_the_order_of_the_catalogue() -> None:
    full = replace(SNAPSHOT, readings=(healthy(0),))
    named = re.findall(r"^# TYPE (\S+) (\S+)$", text_of(full), re.MULTILINE)
    expected = dict.fromkeys((row.name, "gauge" if row.kind == "info" else row.kind) for row in CATALOG)
    assert named[:-2] == list(expected)


def test_a_family_without_samples_is_omitted() -> None:
    text = text_of(EMPTY)
    assert "gpu_up" not in text
    assert "gpu_driver_info" not in text
    assert "gpu_exporter_last_sample_timestamp_seconds" not in text
    assert 'gpu_exporter_gpus{state="expected"}' not in text
    assert 'gpu_exporter_gpus{state="found"} 0.0\n' in text
    assert 'gpu_exporter_source_info{source="nvml"} 1.0\n' in text
    assert 'gpu_exporter_build_info{python_version="3.11.7",version="1.2.3"} 1.0\n' in text


def test_zero_is_a_value() -> None:
    utilization = by_name("gpu_utilization_ratio")
    snapshot = replace(EMPTY, readings=(Reading(device(0), {utilization: 0.0}),))
    assert re.search(r"^gpu_utilization_ratio\{.*\} 0\.0$", text_of(snapshot), re.MULTILINE)


@pytest.mark.parametrize(("value", "told"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")])
def test_numbers_that_never_come_do_not_break_a_scrape(value: float, told: str) -> None:
    snapshot = replace(EMPTY, readings=(Reading(device(0), {GPU_UP: value}, labelled={(FAN, ("0",)): value}),))
    assert text_of(snapshot).count(f"}} {told}\n") == 2


def test_lone_surrogates_become_replacement_characters() -> None:
    odd = replace(device(0), model="caf\udce9 \ud83d\ude00 \ud83d")
    snapshot = replace(EMPTY, readings=(Reading(odd, {GPU_UP: 1.0}),))
    assert 'model="caf\ufffd \U0001f600 \ufffd"' in text_of(snapshot)


@BOTH
def test_the_parsers_of_prometheus_client_take_the_page(openmetrics: bool) -> None:
    text = page().body(SNAPSHOT, openmetrics=openmetrics, gzip=False).decode()
    parse = openmetrics_parser if openmetrics else text_parser
    families = list(parse.text_string_to_metric_families(text))
    names = {row.name.removesuffix("_total") for row in CATALOG} | {
        "process_resident_memory_bytes",
        "process_cpu_seconds",
    }
    assert {family.name for family in families} == names
    series = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
    assert len(series) == len(set(series))
    assert text.endswith("# EOF\n") == openmetrics


@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY], ids=["realistic", "before the first sample"])
def test_promtool_finds_nothing_to_lint(snapshot: Snapshot) -> None:
    body = Page().body(snapshot, openmetrics=False, gzip=False)
    lint = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")


# promtool parses only the classic text (2.42 to 3.x); Prometheus itself reads OpenMetrics by content type.
def test_openmetrics_tells_the_samples_of_the_text() -> None:
    served = page()
    samples = [
        [line for line in served.body(SNAPSHOT, openmetrics=form, gzip=False).splitlines() if not line.startswith(b"#")]
        for form in (False, True)
    ]
    assert samples[0] == samples[1]


# --- rendered once ----------------------------------------------------------------------------------------------------


class CountingRenderer(Renderer):
    """Counts how often a snapshot is rendered, which takes until everybody has asked for it."""

    times = 0

    def __init__(self, everybody: threading.Event | None = None) -> None:
        super().__init__()
        self._everybody = everybody

    def samples(self, snapshot: Snapshot) -> Any:
        self.times += 1
        assert self._everybody is None or self._everybody.wait(patience())
        return super().samples(snapshot)


def test_a_snapshot_is_rendered_once_under_concurrent_scrapes() -> None:
    told, everybody = process(), threading.Event()
    counting = CountingRenderer(everybody)
    served = Page(counting, process=told)
    start = threading.Barrier(16)
    asking: list[int] = []

    def scrape(number: int) -> tuple[int, bytes]:
        start.wait()
        asking.append(number)
        if len(asking) == 16:
            everybody.set()
        return number % 4, served.body(SNAPSHOT, openmetrics=bool(number & 1), gzip=bool(number & 2))

    with ThreadPoolExecutor(16) as pool:
        bodies = set(pool.map(scrape, range(16)))
    assert counting.times == told.times == 1
    assert len(bodies) == 4


def test_the_same_bytes_serve_every_scrape() -> None:
    served = page()
    first = served.body(SNAPSHOT, openmetrics=False, gzip=True)
    assert served.body(SNAPSHOT, openmetrics=False, gzip=True) is first
    assert served.body(replace(SNAPSHOT), openmetrics=False, gzip=True) is not first


def test_scrapes_of_different_snapshots_do_not_mix() -> None:
    """A scrape may still be at the snapshot before while the next one asks for the newest."""
    served = page()
    snapshots = [replace(SNAPSHOT, readings=tuple(healthy(index) for index in range(count))) for count in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda each: served.body(each, openmetrics=False, gzip=False), 4 * snapshots))
    assert bodies == 4 * [by_prometheus_client(snapshot, openmetrics=False) for snapshot in snapshots]


def test_nothing_is_compressed_or_rendered_that_nobody_asked_for() -> None:
    counting = CountingRenderer()
    served = Page(counting, process=process())
    assert counting.times == 0
    served.body(SNAPSHOT, openmetrics=False, gzip=False)
    assert set(served._rendered[1]) == {(False, False)}


def test_every_form_that_somebody_comes_for_is_rendered_before() -> None:
    """Of two scrapers of different forms neither waits, and what was wanted once is not rendered for ever."""
    counting = CountingRenderer()
    served = Page(counting, process=process())
    forms = {(False, True), (True, False)}
    for openmetrics, gzip_ in (*forms, (False, False)):
        served.body(SNAPSHOT, openmetrics=openmetrics, gzip=gzip_)
    for _ in range(12):
        snapshot = replace(SNAPSHOT)
        served.prepare(snapshot)
        rendered, times = dict(served._rendered[1]), counting.times
        for openmetrics, gzip_ in forms:
            assert served.body(snapshot, openmetrics=openmetrics, gzip=gzip_) is rendered[openmetrics, gzip_]
        assert counting.times == times
    assert (True, True) not in rendered
    # The text that nobody wanted again is there because the packed one is made of it.
    assert served._asked.keys() - forms == {(False, False)}
    alone = Page(CountingRenderer(), process=process())
    alone.body(SNAPSHOT, openmetrics=True, gzip=False)
    for _ in range(12):
        snapshot = replace(SNAPSHOT)
        alone.prepare(snapshot)
        alone.body(snapshot, openmetrics=False, gzip=False)
    assert set(alone._rendered[1]) == {(False, False)}, "a form that one curl wanted is forgotten"


def test_a_scrape_reads_no_file_of_its_process(tmp_path: Path) -> None:
    """What it tells of the process is what was there at the reading before."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/fd").mkdir()
    (tmp_path / "stat").write_text("btime 1000\n")
    told = ["0"] * 52

    def resident(pages: int) -> None:
        told[23] = str(pages)
        (tmp_path / "self/stat").write_text("7 (gpu exporter) S " + " ".join(told[3:]))

    def line(served: Page, snapshot: Snapshot) -> float:
        text = served.body(snapshot, openmetrics=False, gzip=False).decode()
        return (
            float(re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)[0]) / resource.getpagesize()
        )

    resident(1)
    served = Page(process=ProcessCollector(tmp_path))
    resident(2)
    assert line(served, SNAPSHOT) == 1
    served.note_process()
    assert line(served, SNAPSHOT) == 1, "a snapshot is rendered once"
    assert line(served, replace(SNAPSHOT)) == 2


def test_process_families_are_those_of_this_process_when_rendered() -> None:
    text = Page().body(EMPTY, openmetrics=False, gzip=False).decode()
    if Path("/proc/self/stat").exists():
        assert "\nprocess_resident_memory_bytes " in text
        assert "\nprocess_cpu_seconds_total " in text


def test_the_label_text_of_a_device_that_went_is_dropped() -> None:
    renderer = Renderer()
    for round_ in range(50):
        readings = tuple(healthy(round_ + index) for index in range(3))
        snapshot = replace(SNAPSHOT, readings=readings)
        for label in range(20):
            xids: Labelled = {(XID_ERRORS, (str(1000 * round_ + label),)): 1.0}
            renderer.samples(replace(snapshot, readings=(replace(readings[0], labelled=xids), *readings[1:])))
        assert set(renderer._heads) == {reading.device for reading in readings}
        assert all(len(heads._labelled[XID_ERRORS]) <= 2 for heads in renderer._heads.values())
        assert all(len(heads) <= len(DEVICE_METRICS) for heads in renderer._heads.values())
    renderer.samples(EMPTY)
    assert renderer._heads == {}


def test_the_label_text_of_a_device_is_kept_while_it_stays() -> None:
    renderer = Renderer()
    renderer.samples(SNAPSHOT)
    kept = dict(renderer._heads)
    renderer.samples(replace(SNAPSHOT, readings=SNAPSHOT.readings[:1]))
    assert renderer._heads[device(0)] is kept[device(0)]


def test_a_device_that_changes_its_identity_gets_new_labels() -> None:
    served = page()
    lost = replace(device(0), uuid="", model="")
    for known in (lost, device(0)):
        snapshot = replace(EMPTY, readings=(Reading(known, {GPU_UP: 1.0}),))
        assert f'uuid="{known.uuid}"'.encode() in served.body(snapshot, openmetrics=False, gzip=False)


def test_the_driver_is_told_once_it_is_known() -> None:
    assert DRIVER_INFO.name not in text_of(replace(SNAPSHOT, driver=None))
    told = 'gpu_driver_info{cuda_version="13.1",driver_version="590.48.01",nvml_version="13.590.48.01"} 1.0\n'
    assert told in text_of(SNAPSHOT)


def test_the_process_tells_what_prometheus_client_tells_of_it() -> None:
    theirs = {family.name: family for family in ClientProcess(registry=None).collect()}
    ours = {family.name: family for family in ProcessCollector().collect()}
    assert list(ours) == list(theirs)
    for name, family in ours.items():
        assert (family.documentation, family.type) == (theirs[name].documentation, theirs[name].type)
        assert [sample.name for sample in family.samples] == [sample.name for sample in theirs[name].samples]
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert ours[name].samples[0].value == theirs[name].samples[0].value
    assert (
        0
        < ours["process_resident_memory_bytes"].samples[0].value
        <= ours["process_virtual_memory_bytes"].samples[0].value
    )


def test_where_there_is_no_proc_the_process_tells_nothing(tmp_path: Path) -> None:
    assert ProcessCollector(tmp_path).collect() == []
