"""The pages of the past in a real Chromium: waste and charts at any width, with any name, for everybody."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import pytest
from tools.lab import ROOT
from tools.lab.browser import Browser
from tools.lab.hub import Hub, write_nodes

from gpu_exporter.model import Device, Hold, Owner
from machines import Told, exporter
from past import Gpu, write
from snapshots import FULL

AXE = ROOT / "tests/hub/axe/node_modules/axe-core/axe.min.js"
WIDTHS = (320, 768, 1400, 3840)
HOSTILE = '"><img src=x onerror=window.hacked=1><script>window.hacked=1</script>'
LONG = "a-very-long-name-without-a-place-to-break-it" * 3
BRIEF = Gpu(3, "active", "alice", busy=0.5, seen=(5400.0, 5460.0))  # one minute, half an hour ago
LAB = {
    "gpu-a": [Gpu(0, "active", "alice", busy=0.9), Gpu(1, "idle_held", "bob"), Gpu(2, "idle_free"), BRIEF],
    "a-machine-whose-name-is-much-longer-than-anybody-would-want.example.org": [Gpu(0, "idle_held", LONG)],
    HOSTILE: [Gpu(0, "idle_held", HOSTILE), Gpu(1, "idle_held", "\u05d0\u05dc\u05d9\u05e1")],
    **{f"gpu-{number:02}": [Gpu(index, "idle_held", f"user{number}") for index in range(8)] for number in range(12)},
}
PAGES = ("/waste", "/waste?window=24h", *(f"/machines/gpu-a/gpus/0?range={name}" for name in ("hour", "month")))


def told(gpus: list[Gpu]) -> Told:
    """What the machine's exporter tells now."""
    readings = [
        replace(
            FULL,
            device=Device(gpu.index, f"GPU-{gpu.index}", "NVIDIA H100"),
            state=cast(Any, gpu.state),
            holds=(Hold(Owner("user", gpu.owner, ""), 2.0**30),) if gpu.owner else (),
        )
        for gpu in gpus
    ]
    return Told(*readings, timestamp=None)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("past")
    history = folder / "history.db"
    write(history, LAB, start=time.time() // 60 * 60 - 7260, hours=2)
    with ExitStack() as stack:
        machines = {alias: stack.enter_context(exporter(told(gpus))).port for alias, gpus in LAB.items()}
        (folder / "hub.yml").write_text(
            "interval: 1s\nprice: 2\ncurrency: EUR\ncontrol: {url: 'http://127.0.0.1:9/low'}\n"
        )
        nodes = write_nodes(folder / "nodes.json", machines, rack="R12")
        made = stack.enter_context(Hub(folder, nodes, f"--history.path={history}"))
        made.wait_states(**dict.fromkeys(LAB, "online"))
        made.get("/api/v1/results")
        yield made


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """No page may make the console complain."""
    chromium.problems.clear()
    yield chromium
    assert chromium.problems == []


def look(browser: Browser, hub: Hub, path: str) -> Any:
    """Open the page, and wait for its curves."""
    browser.open(f"http://127.0.0.1:{hub.port}{path}")
    browser.until(
        lambda: browser.evaluate(
            "[...document.querySelectorAll('figure.chart')].every(chart => chart.querySelector('.u-wrap'))"
        )
    )
    return browser.evaluate("document.getElementById('main').innerText")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_the_window(browser: Browser, hub: Hub, path: str, width: int) -> None:
    browser.look(width)
    look(browser, hub, path)
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_read_it(browser: Browser, hub: Hub, path: str, *, dark: bool) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make setup")
    browser.look(1400, dark=dark)
    look(browser, hub, path)
    browser.evaluate(AXE.read_text())
    found = browser.evaluate(
        "axe.run(document).then(done => done.violations.map(one => "
        "[one.id, ...one.nodes.slice(0, 3).map(node => node.html.slice(0, 150) + ' ' + node.failureSummary)]))"
    )
    assert found == []


def test_who_wasted_most_this_week(browser: Browser, hub: Hub) -> None:
    browser.look(1400)
    page = look(browser, hub, "/waste")
    first = browser.evaluate("document.querySelector('table tbody tr').innerText")
    assert first.startswith("user"), "eight idle GPUs each"
    assert "16.0 h" in first
    assert "EUR" in page


def test_no_name_is_markup(browser: Browser, hub: Hub) -> None:
    for path in PAGES:
        look(browser, hub, path)
        assert browser.evaluate("window.hacked") is None
        assert browser.evaluate("document.querySelectorAll('main img, main script, [onerror]').length") == 0
    assert HOSTILE in look(browser, hub, "/waste")
    assert browser.evaluate("[...document.links].every(link => link.origin === location.origin)")


def test_a_chart_can_be_read_without_javascript(hub: Hub) -> None:
    text = hub.get("/machines/gpu-a/gpus/0?range=day").text
    assert text.count('class="curve"') == 4
    assert "90 %" in text


def test_a_minute_between_gaps_is_a_dot(browser: Browser, hub: Hub) -> None:
    page = "/machines/gpu-a/gpus/3?range=hour"
    utilization, *others = re.findall(r'class="dots" d="([^"]*)"', hub.get(page).text)
    assert re.search(r"M\d+\.\d 50\.0h0", utilization), "half busy is half way up"
    assert len(others) == 3
    browser.look(1400)
    look(browser, hub, page)
    colours = browser.evaluate(
        """[...document.querySelectorAll("figure.chart")].map(({ plot }) => {
            const at = plot.data[1].findIndex((value) => value !== null && value !== undefined);
            const [x, y] = [plot.valToPos(plot.data[0][at], "x", true), plot.valToPos(plot.data[1][at], "y", true)];
            const [red, green, blue] = plot.ctx.getImageData(Math.round(x), Math.round(y), 1, 1).data;
            return `rgb(${red}, ${green}, ${blue})`;
        })"""
    )
    bar = "Object.assign(document.createElement('i'), {style: 'color: var(--bar-fill)'})"
    drawn = browser.evaluate(f"getComputedStyle(document.body.appendChild({bar})).color")
    assert colours == [drawn] * 4
