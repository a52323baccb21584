"""The page for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import count

import pytest

from gpu_exporter.catalog import XID_ERRORS
from gpu_exporter.model import Device, Driver, Failure, Identity, Process, Reading, Reason, Snapshot
from gpu_exporter.pages.status_page import render
from gpu_exporter.pages.trail import MINUTES
from snapshots import FULL, NASTY, reading, row, snapshot


class Page(HTMLParser):
    """The page's cells by column, its links, and every tag; refuses what a browser would have to guess."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.rows: list[dict[str, str]] = []
        self.words = ""
        self._cell: str | None = None
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append({})
        if tag == "td":
            self._cell = attributes["data-th"] or ""
            self.rows[-1][self._cell] = ""
        if tag == "a":
            self.links.append(attributes["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "td":
            self._cell = None

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data
        if self._cell is not None:
            self.rows[-1][self._cell] += data


def page(now: Snapshot, *, live: str | None = None, ready: str | None = None) -> Page:
    return Page(render(now, live=live, ready=ready, now=1004.0, telemetry_path="/metrics"))


def test_the_page_shows_what_a_gpu_does() -> None:
    made = page(snapshot(FULL, driver=Driver("590.48.01", "13.1", "")))
    assert made.rows[1:] == [
        {
            "GPU": "3",
            "Model": "NVIDIA H100GPU-3",
            "State": "upXID 8, 79",
            "Utilization": "50%",
            "Memory": "1.5 / 80.0 GiB",
            "Temp.": "41 °C",
            "Power": "123 / 700 W",
            "Held by": "n/a",
            "Throttled by": "power limit",
        }
    ]
    for text in ("1 GPU", "driver 590.48.01", "CUDA 13.1", "4 s ago", "source nvml", "1.2.3"):
        assert text in made.words
    assert "SIMULATED" not in made.words
    assert made.links == ["/metrics", "/livez", "/readyz", "/api/v1/gpus", "/api/v1/openapi.json"]


def test_what_a_gpu_does_not_have_is_not_zero() -> None:
    cells = page(snapshot(reading())).rows[1]
    lacking = ("Utilization", "Memory", "Temp.", "Power", "Held by", "Throttled by")
    assert [cells[name] for name in lacking] == ["n/a"] * len(lacking)
    half = page(snapshot(reading(0, {row("gpu_power_watts"): 0.0, row("gpu_memory_total_bytes"): 2.0**30}))).rows[1]
    assert (half["Power"], half["Memory"]) == ("0 / n/a W", "n/a / 1.0 GiB")
    zero = {row("gpu_utilization_ratio"): 0.0, row("gpu_clock_event_active", ("reason", "hw_slowdown")): 0.0}
    cells = page(snapshot(reading(0, zero))).rows[1]
    assert (cells["Utilization"], cells["Throttled by"]) == ("0%", "none")


@pytest.mark.parametrize("reason", ["lost", "timeout", "reset_required", "permission", "unknown"])
def test_the_page_says_which_gpu_is_down_and_why(reason: Reason) -> None:
    made = page(snapshot(FULL, reading(4, failure=Failure(reason, "")), reading(1)))
    assert [cells["GPU"] for cells in made.rows[1:]] == ["1", "3", "4"]
    assert made.rows[3]["State"].startswith("down")
    assert len(made.rows[3]["State"]) > len("down")
    assert "3 GPUs, 1 down (GPU 4)" in made.words


def test_only_some_of_many_gpus_that_are_down_are_named() -> None:
    readings = (reading(index, failure=Failure("lost", "")) for index in range(12))
    assert "12 GPUs, 12 down (GPU 0, 1, 2, 3, 4, 5, 6, 7, ...)" in page(snapshot(*readings)).words


def test_the_xids_of_a_gpu_stand_beside_its_state() -> None:
    labelled = {(XID_ERRORS, ("79",)): 2.0, (XID_ERRORS, ("8",)): 1.0}
    down = reading(1, failure=Failure("lost", ""), labelled=labelled)
    made = page(snapshot(reading(0, labelled=labelled), down, reading(2)))
    assert [cells["State"].partition("XID")[2] for cells in made.rows[1:]] == [" 8, 79", " 8, 79", ""]


def held_by(*processes: Process, allocations: tuple[Identity, ...] = ()) -> str:
    return page(snapshot(reading(processes=processes, allocations=allocations))).rows[1]["Held by"]


def test_the_page_says_who_holds_a_gpu_most_memory_first() -> None:
    pids = count(1)

    def of(memory: float | None, who: Identity | None) -> Process:
        return Process(next(pids), "compute", memory, identity=who)

    alice, job = Identity(process="python", user="alice"), Identity(user="bob", labels={"slurm_job": "17"})
    pod = Identity(user="root", labels={"pod": "train-0", "namespace": "ml"}, container="0123456789abcdef")
    assert held_by(of(1.0, alice), of(2.0, pod), of(1.5, alice)) == "aliceml/train-0"
    assert held_by(of(None, job)) == "bob, job 17"
    assert held_by(of(5.0, None), of(1.0, Identity(container="0123456789ab"))) == "unknown0123456789ab"
    assert held_by(allocations=(pod,)) == "ml/train-0", "a pod holds what it was given, busy or not"
    assert held_by() == "nobody"
    assert held_by(of(21.5 * 2**30, alice), of(300.0 * 2**20, job)) == "alice 21.5 GiBbob, job 17 0.3 GiB"
    assert held_by(of(7.0 * 2**20, alice)) == "alice 7 MiB"
    many = [of(float(memory), Identity(user=f"user{memory}")) for memory in range(9)]
    assert held_by(*many) == "user8user7user6and 6 more"
    assert "python" not in held_by(of(1.0, Identity(process="python"))), "a program is not somebody"


def test_the_page_says_loudly_that_data_is_simulated() -> None:
    words = page(snapshot(FULL, source="another", simulated=True)).words
    assert "SIMULATED DATA: no real GPU is read (source: another)" in words
    assert "SIMULATED" not in page(snapshot(FULL, source="fake")).words, "the source says it, not its name"


def test_the_page_tells_trouble_once() -> None:
    words = page(snapshot(ok=False, timestamp=None), ready="the driver is gone", live="the driver is gone").words
    assert words.count("the driver is gone") == 1
    for text in ("0 GPUs", "no successful sample yet", "There is no fresh reading of any GPU.", "not ready"):
        assert text in words


@pytest.mark.parametrize(("age", "text"), [(-5, "0 s"), (119, "119 s"), (600, "10 min"), (90000, "25 h")])
def test_the_age_of_a_sample(age: float, text: str) -> None:
    assert f"last successful sample {text} ago" in page(snapshot(timestamp=1004.0 - age)).words


def test_the_page_names_the_machine() -> None:
    html = render(snapshot(FULL), live=None, ready=None, now=1004.0, telemetry_path="/metrics", host=f"gpu-a{NASTY}")
    made = Page(html)
    assert f"gpu-a{NASTY}: 1 GPU" in made.words, "the title, which tells tabs apart"
    assert "script" not in made.tags


def limited(index: int, celsius: float) -> Reading:
    limits = {"slowdown": 89.0, "shutdown": 92.0}
    values = {row("gpu_temperature_limit_celsius", ("limit", name)): value for name, value in limits.items()}
    return reading(index, {row("gpu_temperature_celsius"): celsius, **values})


def test_a_temperature_is_judged_by_the_gpus_own_limits() -> None:
    now = snapshot(limited(0, 83.0), limited(1, 84.0), limited(2, 89.0), limited(3, 93.0))
    html = render(now, live=None, ready=None, now=1004.0, telemetry_path="/metrics")
    classes = re.findall(r'<span class="number ?(\w*)">(\d+) °C', html)
    assert classes == [("", "83"), ("warm", "84"), ("hot", "89"), ("hot", "93")]
    made = Page(html)
    assert "4 GPUs, 2 hot (GPU 2, 3)" in made.words
    assert made.rows[3]["Temp."] == "89 °Cslows down at 89, shuts down at 92"
    unlimited = reading(0, {row("gpu_temperature_celsius"): 150.0})
    assert page(snapshot(unlimited)).rows[1]["Temp."] == "150 °C", "no limit is told, so nothing is judged"


@pytest.mark.parametrize(
    ("active", "words", "alarms"),
    [
        (("sw_power_cap",), "power limit", False),
        (("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown"), "too hot", True),
        (("hw_slowdown", "hw_power_brake_slowdown", "sw_power_cap"), "power brake, power limit", True),
        (("hw_slowdown",), "hardware slowdown", True),
        (("gpu_idle",), "none", False),
    ],
)
def test_several_reasons_are_one_cause(active: tuple[str, ...], words: str, *, alarms: bool) -> None:
    values = {row("gpu_clock_event_active", ("reason", reason)): 1.0 for reason in active}
    html = render(snapshot(reading(0, values)), live=None, ready=None, now=1004.0, telemetry_path="/metrics")
    assert Page(html).rows[1]["Throttled by"] == words
    assert ('<span class="bad">' in html) is alarms
    assert ("1 hot (GPU 0)" in html) is (words == "too hot"), "whatever the core's own temperature is"


def test_the_last_hour_is_a_line() -> None:
    def html_of(minutes: Sequence[float | None]) -> str:
        return render(
            snapshot(reading()), live=None, ready=None, now=1.0, telemetry_path="/metrics", trail=lambda _: minutes
        )

    def drawn(*minutes: float | None) -> str:
        html = html_of(minutes)
        found = re.search(r'aria-label="([^"]*)"><path d="([^"]*)">', html)
        return "" if found is None else f"{found[1]}: {found[2]}"

    assert drawn() == drawn(0.5) == drawn(None, 0.5) == "", "one point is no line"
    assert drawn(0.0, 1.0) == "the last 2 minutes: 50% on average, 100% at most: M58 20.0L59 0.0"
    alone = html_of((0.5, None, 0.25, *(None,) * (MINUTES - 4), 1.0))
    (columns,) = re.findall(r'class="minutes" d="([^"]*)"', alone)
    assert columns == "M0 20V10.0H0.5V20M1.5 20V15.0H2.5V20M58.5 20V0.0H59V20", "minutes between gaps are seen"
    assert drawn(0.5, None, 0.25, 0.25) == "the last 4 minutes: 33% on average, 50% at most: M56 10.0M58 15.0L59 15.0"


def test_nothing_a_driver_says_becomes_markup() -> None:
    plain = page(snapshot(FULL, driver=Driver("1", "2", "3")))
    device = Device(0, NASTY, NASTY)
    failed = Reading(device, failure=Failure("unknown", NASTY))
    made = page(snapshot(Reading(device), failed, source=NASTY, driver=Driver(NASTY, NASTY, NASTY)), ready=NASTY)
    assert "script" not in made.tags
    assert made.tags <= plain.tags | {"p", "small"}
    assert made.rows[1]["Model"] == NASTY * 2
    assert made.words.count(NASTY) >= 7
