"""The pages in a real Chromium: what people see, with any name, at any width, and without a mouse."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from tools.lab import ROOT
from tools.lab.browser import Browser
from tools.lab.hub import Hub

from gpu_exporter.model import Device, Disk, Failure, Hold, Host, Identity, Owner, Process, Reading
from machines import Told, exporter, nobody
from snapshots import FULL

AXE = ROOT / "tests/hub/axe/node_modules/axe-core/axe.min.js"
WIDTHS = (320, 768, 1400, 3840)
# What would run, or break out of the place where a name stands, if a name were ever taken for markup.
CORPUS = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    "javascript:window.hacked=1",
    "</title><script>window.hacked=1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "--><script>window.hacked=1</script><!--",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "\u2028window.hacked=1//",
    "data:text/html,<script>window.hacked=1</script>",
    "=HYPERLINK(1)",
)
RIGHT_TO_LEFT = "\u05d0\u05dc\u05d9\u05e1"


def gpu(index: int, name: str = "alice", *, model: str = "NVIDIA H100 80GB HBM3", **rest: Any) -> Reading:
    process = Process(
        100 + index, "compute", 5.0e9, 0.5, "", Identity(name, name, name, {"pod": name, "namespace": name})
    )
    told: dict[str, Any] = {
        "state": "active",
        "holds": (Hold(Owner("user", name, ""), 5.0e9),),
        "processes": (process,),
    }
    device = Device(index, f"GPU-{index}", model)
    return replace(FULL, device=device, **{**told, **rest})


def machine(*readings: Reading, name: str = "gpu-a.example.org") -> Told:
    told = Told(*readings, timestamp=None)
    disks = (
        Disk("/", "/dev/sda1", "ext4", 10**12, 9 * 10**11, 10**11),
        Disk(f"/{name}", "x", "xfs", 10**12, 1, 10**12 - 1),
    )
    told.machine = Host(
        name=name, addresses=("10.0.0.1",), os="Debian", kernel="6.1", boot_timestamp=1.7e9, cpus=64,
        cpu_utilization=0.25, memory_total=2**38, memory_used=2**36, load=(1.0, 2.0, 3.0), disks=disks,
    )  # fmt: skip
    return told


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """No page may make the console complain."""
    browser.problems.clear()
    yield
    assert browser.problems == []


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Hub]]:
    with ExitStack() as stack:

        def start(machines: dict[str, Told | None], **labels: str) -> Hub:
            folder = tmp_path_factory.mktemp("hub")
            ports = {
                alias: nobody() if told is None else stack.enter_context(exporter(told)).port
                for alias, told in machines.items()
            }
            nodes = folder / "nodes.json"
            nodes.write_text(
                json.dumps(
                    [
                        {"targets": [f"127.0.0.1:{port}"], "labels": {"alias": alias, **labels}}
                        for alias, port in ports.items()
                    ]
                )
            )
            hub = stack.enter_context(Hub(folder, nodes))
            hub.wait(lambda: "starting" not in hub.states().values())
            return hub

        yield start


@pytest.fixture(scope="module")
def lab(serve: Callable[..., Hub]) -> Hub:
    """A lab with everything in it that a page has to cope with."""
    free: dict[str, Any] = {"state": "idle_free", "holds": (), "processes": ()}
    mixed = machine(
        gpu(0),
        gpu(1, "bob", state="idle_held"),
        gpu(2, **free),
        gpu(3, failure=Failure("lost", ""), state="down", holds=None),
        gpu(4, "", state="active"),
        gpu(5, state="unknown", holds=None),
    )
    many = machine(*(gpu(index, f"user{index % 9}") for index in range(64)))
    long = machine(
        *(gpu(index, "a-very-long-name-without-a-place-to-break-it" * 3, model="M" * 90) for index in range(8))
    )
    return serve(
        {
            "gpu-a": mixed,
            "gpu-b": many,
            "a-machine-whose-name-is-much-longer-than-anybody-would-want-it-to-be.example.org": long,
            RIGHT_TO_LEFT: machine(gpu(0, RIGHT_TO_LEFT)),
            "gpu-z": None,
        },
        rack="R12",
    )


PAGES = ("/", "/free", "/people", "/machines/gpu-a", "/machines/gpu-a/gpus/0", "/machines/gpu-z", "/docs")


def open_page(browser: Browser, hub: Hub, path: str, **rest: Any) -> None:
    browser.open(f"http://127.0.0.1:{hub.port}{path}", **rest)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_the_window(browser: Browser, lab: Hub, path: str, width: int) -> None:
    browser.look(width)
    open_page(browser, lab, path)
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_everybody_can_read_it(browser: Browser, lab: Hub, path: str, *, dark: bool) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: make setup")
    browser.look(1400, dark=dark)
    open_page(browser, lab, path)
    browser.evaluate(AXE.read_text())
    found = browser.evaluate(
        "axe.run(document).then(done => done.violations.map(one => "
        "[one.id, ...one.nodes.slice(0, 3).map(node => node.html.slice(0, 150) + ' ' + node.failureSummary)]))"
    )
    assert found == []


def test_the_questions_that_people_have(browser: Browser, lab: Hub) -> None:
    browser.look(1400)
    open_page(browser, lab, "/")
    page = browser.evaluate("document.getElementById('main').innerText")
    assert "gpu-z is offline and has not answered since this hub began at" in page
    assert "it refused the connection: nothing listens there" in page
    assert "gpu-a GPU 3 is down since" in page
    assert "lost: the driver cannot reach it" in page
    row = browser.evaluate(
        "[...document.querySelectorAll('tr')].find(row => row.innerText.includes('gpu-a')).innerText"
    )
    assert "1 of 6 free" in row
    assert "alice" in row
    assert "bob" in row
    open_page(browser, lab, "/free")
    page = browser.evaluate("document.getElementById('main').innerText")
    assert page.startswith("1 GPU is free")
    assert "bob" in page
    open_page(browser, lab, "/people")
    assert "user0" in browser.evaluate("document.getElementById('main').innerText")


def test_a_gpu_is_told_to_those_who_do_not_see_it(browser: Browser, lab: Hub) -> None:
    open_page(browser, lab, "/")
    told = browser.evaluate(
        "[...document.querySelectorAll('tr')].find(row => row.innerText.includes('gpu-a'))"
        ".querySelectorAll('.tile').values().map(tile => tile.getAttribute('aria-label')).toArray()"
    )
    assert told == [
        "GPU 0: at work, 50 %, held by alice",
        "GPU 1: held, but idle, 50 %, held by bob",
        "GPU 2: free, 50 %",
        "GPU 3: down, lost: the driver cannot reach it",
        "GPU 4: at work, 50 %, held by somebody unseen",
        "GPU 5: unknown, 50 %, it is not known what it does",
    ]


def test_it_works_without_javascript(browser: Browser, lab: Hub) -> None:
    open_page(browser, lab, "/?user=bob", script=False)
    try:
        text = lab.get("/?user=bob").text
        assert text.count('class="online') == 1
        assert '<option value="bob" selected>' in text
        assert "<button" in text
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_filters_are_chosen_without_a_button(browser: Browser, lab: Hub) -> None:
    open_page(browser, lab, "/")
    browser.evaluate(
        "(() => { const field = document.querySelector('select[name=user]'); field.value = 'bob'; "
        "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    browser.until(lambda: browser.evaluate("location.search") == "?user=bob")
    browser.until(lambda: browser.evaluate("document.querySelectorAll('.machines tbody tr').length") == 1)
    assert browser.evaluate("document.querySelectorAll('.tile.dim').length") == 5


def test_the_page_is_live_and_leaves_people_alone(browser: Browser, serve: Callable[..., Hub]) -> None:
    told = machine(gpu(0), gpu(1))
    hub = serve({"live": told})
    open_page(browser, hub, "/")
    tiles = "[...document.querySelectorAll('.tile')].map(tile => tile.className.split(' ')[1]).join()"
    browser.until(lambda: browser.evaluate(tiles) == "held,held")
    browser.until(lambda: browser.evaluate("document.getElementById('live').className") == "live on")
    browser.evaluate(
        "document.querySelectorAll('.tile')[1].focus(); window.kept = document.querySelectorAll('.tile')[1]"
    )
    told.now = replace(told.now, readings=(gpu(0, state="idle_free", holds=()), gpu(1)))
    browser.until(lambda: browser.evaluate(tiles) == "free,held")
    assert browser.evaluate("window.kept === document.activeElement && window.kept.isConnected")


def test_a_machine_that_is_taken_out_is_told_on_its_page(browser: Browser, serve: Callable[..., Hub]) -> None:
    hub = serve({"stays": machine(gpu(0)), "goes": machine(gpu(0))})
    open_page(browser, hub, "/machines/goes")
    browser.until(lambda: browser.evaluate("document.getElementById('live').className") == "live on")
    listed = json.loads(hub.nodes_file.read_text())
    hub.nodes_file.write_text(json.dumps([each for each in listed if each["labels"]["alias"] == "stays"]))
    browser.until(lambda: browser.evaluate("document.title").startswith("Not here"))
    assert browser.evaluate("document.querySelector('main a').textContent") == "All machines"
    browser.open("about:blank")
    browser.problems.clear()  # of the answer, which is 404


def test_a_hub_that_is_gone_is_told(browser: Browser, serve: Callable[..., Hub]) -> None:
    hub = serve({"one": machine(gpu(0))})
    open_page(browser, hub, "/")
    browser.until(lambda: browser.evaluate("document.getElementById('live').className") == "live on")
    hub.stop()
    browser.until(lambda: browser.evaluate("document.getElementById('live').className") == "live lost")
    assert "does not answer" in browser.evaluate("document.getElementById('live').title")
    browser.open("about:blank")
    browser.problems.clear()


@pytest.fixture(scope="module")
def hostile(serve: Callable[..., Hub]) -> Hub:
    """A machine a word of the corpus, with the word wherever a machine can put one."""
    machines: dict[str, Told | None] = {}
    for number, word in enumerate(CORPUS):
        told = machine(gpu(0, word, model=word), gpu(1, word, state="idle_held"), name=word)
        told.why = word
        machines[f"{number} {word}".replace("\u2028", "")] = told
    return serve(machines, **{CORPUS[1]: CORPUS[0]})


def test_no_name_is_markup(browser: Browser, hostile: Hub) -> None:
    browser.look(1400)
    names = list(hostile.nodes())
    links = [
        "/",
        "/free",
        "/people",
        "/?user=" + "%3Cscript%3Ewindow.hacked%3D1%3C%2Fscript%3E",
        "/?q=%22%3E%3Csvg%20onload=window.hacked=1%3E",
    ]
    open_page(browser, hostile, "/")
    for pattern in ("/machines/", "/gpus/"):
        links += browser.evaluate(
            f"[...new Set([...document.querySelectorAll('a[href*=\"{pattern}\"]')]"
            ".map(link => link.getAttribute('href')))]"
        )
    assert len(links) >= 5 + 3 * len(CORPUS)
    for link in links:
        open_page(browser, hostile, link)
        assert browser.evaluate("window.hacked") is None, link
        assert (
            browser.evaluate(
                "document.querySelectorAll('main script, main img, main svg[onload], [onmouseover]').length"
            )
            == 0
        )
        assert browser.evaluate("[...document.links].every(link => link.origin === location.origin)"), link
    shown = browser.evaluate("(location.href, fetch('/').then(answer => answer.text()).then(text => "
        "new DOMParser().parseFromString(text, 'text/html').body.textContent))")  # fmt: skip
    for name in names:
        assert name in shown


def test_no_name_is_a_formula(hostile: Hub) -> None:
    rows = list(csv.reader(io.StringIO(hostile.get("/api/v1/export.csv").text)))
    assert len(rows) == 1 + 2 * len(CORPUS)
    assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))] == []
