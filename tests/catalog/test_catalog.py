from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import pynvml
import pytest

from gpu_exporter import catalog
from gpu_exporter.catalog import (
    CATALOG,
    DEVICE_METRICS,
    DRIVER_INFO,
    EVENT_LAST,
    EVENTS_TOTAL,
    GPU_INFO,
    GPU_UP,
    MEMORY_UNACCOUNTED,
    OWNER_ENERGY,
    OWNER_MEMORY,
    OWNER_SCORE,
    OWNER_SECONDS,
    READ_ERRORS,
    SCORE_SECONDS,
    STATE_SECONDS,
    XID_ERRORS,
    XID_LAST,
    by_name,
)
from gpu_exporter.catalog.interconnect import NVLINK_LINK_ERRORS
from gpu_exporter.catalog.row import (
    BASE_UNITS,
    Call,
    Fans,
    Field,
    Gpm,
    Kernel,
    Limit,
    Links,
    Metric,
    Mig,
    Processes,
    Samples,
)
from gpu_exporter.model import Build, Device, Driver, Snapshot

PACKAGE = Path(__file__).parents[2] / "exporter/gpu_exporter"
MODULES: dict[str, tuple[Metric, ...]] = {
    name: rows
    for _, name, _ in pkgutil.iter_modules(catalog.__path__)
    if (rows := getattr(importlib.import_module(f"gpu_exporter.catalog.{name}"), "ROWS", None))
}
EVERY = pytest.mark.parametrize("metric", CATALOG, ids=repr)
# What node_exporter and promtool's lint would call a unit that is not a base unit, or an abbreviation.
OTHER_UNITS = re.compile(
    r"_(percent|percentage|ms|us|ns|milliseconds|microseconds|nanoseconds|minutes|hours|mhz|megahertz|mw|milliwatts|"
    r"mj|millijoules|kb|mb|kib|mib|kilobytes|megabytes|bits|fahrenheit|kelvin|c|w|hz|secs?)(_|$)"
)


def file_of(metric: Metric) -> str:
    """Where the row stands, for messages."""
    return next(f"exporter/gpu_exporter/catalog/{name}.py" for name, rows in MODULES.items() if metric in rows)


def label_names(metric: Metric) -> set[str]:
    return {name for name, _ in metric.labels} | set(metric.info) | set(metric.dynamic)


def test_no_series_is_listed_twice() -> None:
    series = Counter((metric.name, frozenset(metric.labels)) for metric in CATALOG)
    assert [row for row, count in series.items() if count > 1] == []


def test_the_rows_of_a_name_stand_together_and_agree() -> None:
    families = [list(rows) for _, rows in groupby(CATALOG, lambda metric: metric.name)]
    assert len(families) == len({metric.name for metric in CATALOG})
    for family in families:
        first, *others = family
        for row in others:
            same = (row.kind, row.help, row.group, row.dynamic, row.info, row.own is None)
            assert same == (first.kind, first.help, first.group, first.dynamic, first.info, first.own is None)
            assert label_names(row) == label_names(first)


def test_every_name_is_written_out_once_for_grep() -> None:
    """Whoever meets a name in Grafana finds its row by looking for it in quotes."""
    text = "".join(path.read_text("utf-8") for path in sorted((PACKAGE / "catalog").glob("*.py")))
    written = Counter(
        re.findall(r'(?:gauge|counter|info|histogram|gauge_by|counter_by)\(\s*"(gpu(?:_[a-z0-9]+)+)",', text)
    )
    assert written == dict.fromkeys((metric.name for metric in CATALOG), 1), (
        "exporter/gpu_exporter/catalog: write each name in full and once; "
        'rows that differ by a label come from one gauge("gpu_…", …) for … in …'
    )


def test_a_row_is_found_by_its_name_and_labels() -> None:
    assert [by_name(metric.name, **dict(metric.labels)) for metric in CATALOG] == list(CATALOG)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("gpu_powr_watts", {}, "gpu_powr_watts: the catalogue has no metric of that name; see docs/METRICS.md"),
        ("gpu_up", {"gpu": "0"}, "gpu_up{gpu='0'}: the catalogue has that name with no labels only"),
        (
            "gpu_processes",
            {},
            "gpu_processes: the catalogue has that name with {type='compute'} or {type='graphics'} only",
        ),
    ],
)
def test_what_is_not_in_the_catalogue_is_told(name: str, labels: dict[str, str], message: str) -> None:
    with pytest.raises(LookupError) as refused:
        by_name(name, **labels)
    assert str(refused.value) == message


def test_rows_are_looked_up_in_one_way_only() -> None:
    """A name that is compared, or kept in a dictionary of one's own, is not refused where the catalogue lacks it."""
    own = re.compile(r"(?:metric|row|gauge|counter|m)\.name(?: [!=]=|\.startswith|: )")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "catalog"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if own.search(line)
    ]
    assert found == [], 'write gpu_exporter.catalog.by_name("gpu_…") instead'


@pytest.mark.parametrize("name", MODULES)
def test_every_group_is_in_the_catalogue(name: str) -> None:
    missing = [row.name for row in MODULES[name] if row not in CATALOG]
    assert missing == [], f"exporter/gpu_exporter/catalog/__init__.py: add {name} to the groups of CATALOG"
    assert len({row.group for row in MODULES[name]}) == 1


def test_the_groups_stand_together() -> None:
    groups = [group for group, _ in groupby(CATALOG, lambda metric: metric.group)]
    assert len(groups) == len(set(groups))


@EVERY
def test_names_and_labels_are_snake_case(metric: Metric) -> None:
    assert re.fullmatch(r"gpu(_[a-z0-9]+)+", metric.name)
    for name in label_names(metric):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    for _, value in metric.labels:
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", value)


@EVERY
def test_labels_do_not_clash(metric: Metric) -> None:
    names = [name for name, _ in metric.labels] + [*metric.info] + [*metric.dynamic]
    own = ["gpu", "uuid", "model"] if metric.own is None else []
    assert len({*names, *own}) == len(names) + len(own)
    assert not {"le", "quantile", "job", "instance"} & set(names)


@EVERY
def test_the_suffix_tells_the_kind(metric: Metric) -> None:
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    assert bool(metric.info or metric.dynamic) >= (metric.kind == "info") >= bool(metric.info)
    # OpenMetrics and prometheus_client keep these for histograms and counters.
    assert not metric.name.removesuffix("_total").endswith(("_total", "_count", "_sum", "_bucket", "_created"))


@EVERY
def test_units_are_base_units(metric: Metric) -> None:
    assert not OTHER_UNITS.search(metric.name), f"{file_of(metric)}: {metric.name}: scale it to {', '.join(BASE_UNITS)}"


@EVERY
def test_a_gauge_ends_with_its_unit_or_says_that_it_has_none(metric: Metric) -> None:
    if metric.kind == "gauge":
        assert (metric.unit is None) == metric.unitless, (
            f"{file_of(metric)}: {metric.name}: end the name with one of {', '.join(BASE_UNITS)}; "
            "or, where it is a state, a count or a switch, add to the row: unitless=True,"
        )
    else:
        assert not metric.unitless, f"{file_of(metric)}: {metric.name}: counters and infos need no unitless=True"


@EVERY
def test_help_is_a_sentence(metric: Metric) -> None:
    assert metric.help.endswith(".")
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.isprintable()
    assert "  " not in metric.help


@EVERY
def test_everything_named_exists_in_pynvml(metric: Metric) -> None:
    for column in metric.nvml:
        if isinstance(column, Call):
            names: list[str] = [column.name, *(argument for argument in column.args if isinstance(argument, str))]
            names += filter(None, [column.struct, column.bit])
            assert callable(getattr(pynvml, column.name))
            if column.struct:
                members = {member[0] for member in getattr(pynvml, column.struct)._fields_}
                assert members >= set(column.part)
        elif isinstance(column, Field):
            names = [column.name]
            assert isinstance(getattr(pynvml, column.name), int)
            newest = [number for _, number in column.renumbered[:1]]
            assert newest in ([], [getattr(pynvml, column.name)])
            assert list(column.renumbered) == sorted(column.renumbered, reverse=True)
        elif isinstance(column, Kernel):
            assert column.name == "power/runtime_status"
            names = []
        elif isinstance(column, (Gpm, Limit, Mig, Processes, Samples)):
            names = [column.name]
        else:
            assert isinstance(column, (Fans, Links))
            names = ["nvmlDeviceGetNumFans", "nvmlDeviceGetFanSpeed_v2"]
            if isinstance(column, Links):
                names = [column.state, "nvmlDeviceGetNvLinkState", metric.links or "links= of the row"]
        assert [name for name in names if not hasattr(pynvml, name)] == []


def test_no_nvidia_smi_field_is_read_twice() -> None:
    names = Counter(metric.smi.name for metric in CATALOG if metric.smi)
    assert [name for name, count in names.items() if count > 1] == []


def test_no_simulated_quantity_is_used_twice() -> None:
    names = Counter(metric.fake for metric in CATALOG if isinstance(metric.fake, str))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("metric", [metric for metric in CATALOG if metric.integral_of], ids=repr)
def test_what_is_integrated_is_a_gauge_with_the_same_labels(metric: Metric) -> None:
    assert metric.kind == "counter"
    rows = [row for row in DEVICE_METRICS if (row.name, row.labels) == (metric.integral_of, metric.labels)]
    assert [row.kind for row in rows] == ["gauge"]


@EVERY
def test_a_device_row_has_a_source_or_is_kept_by_the_sampler(metric: Metric) -> None:
    kept = {GPU_INFO, GPU_UP, *READ_ERRORS.values(), XID_ERRORS, XID_LAST, EVENTS_TOTAL, EVENT_LAST}
    kept.add(NVLINK_LINK_ERRORS)
    kept |= {*STATE_SECONDS.values(), *OWNER_SECONDS.values(), OWNER_MEMORY, MEMORY_UNACCOUNTED}
    kept |= {SCORE_SECONDS, OWNER_SCORE, OWNER_ENERGY}
    has_source = bool(metric.nvml or metric.smi or metric.integral_of)
    assert has_source == (metric.own is None and metric not in kept)
    # Processes come from the simulated work.
    listed = any(isinstance(column, Processes) for column in metric.nvml)
    told = [column for column in (metric.fake, metric.fake_absent) if column]
    if any(part.fake for part in metric.parts):
        told.append(str(metric.parts[0].fake))
    assert len(told) == (has_source and not listed), (
        f"{file_of(metric)}: {metric!r}: say what simulated GPUs have with one of fake=Constant(1.0), "
        'fake=Board("…") (a fact of the board, in sources/fake/models.py), fake="…" (worked out at every reading, in '
        'sources/fake/simulation.py); or why they lack it: fake_absent="no simulated board has …"'
    )


def test_own_rows_name_attributes_of_the_snapshot() -> None:
    snapshot = Snapshot(Build("1", "3"), "fake", Driver())
    for metric in CATALOG:
        if metric.own is not None:
            assert hasattr(snapshot, metric.own)
            assert metric.nvml == ()
    assert {metric.own for metric in CATALOG} >= {"ok", "paused", "stuck", "overruns", "config_ok", "source", "build"}


def test_info_rows_name_attributes() -> None:
    assert set(GPU_INFO.info) == {entry.name for entry in fields(Device)} - {"index", "uuid", "model"}
    assert set(DRIVER_INFO.info) == {entry.name for entry in fields(Driver)}


def test_a_gpu_has_at_most_150_series() -> None:
    """One that has every row there is, and is well: what is told above 0 only is not there then."""
    fans, xids = 4, 0
    told = [metric for metric in DEVICE_METRICS if not metric.above_zero]
    series = sum(fans if metric.dynamic == ("fan",) else xids if metric.dynamic else 1 for metric in told)
    assert series <= 150


def test_device_metrics_are_the_rows_that_are_not_our_own() -> None:
    assert [metric for metric in CATALOG if metric.own is None] == list(DEVICE_METRICS)
    assert {GPU_INFO, GPU_UP, *READ_ERRORS.values(), XID_ERRORS, XID_LAST, EVENTS_TOTAL, EVENT_LAST} <= set(
        DEVICE_METRICS
    )
    assert DRIVER_INFO not in DEVICE_METRICS
