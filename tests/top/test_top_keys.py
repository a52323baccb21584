"""What each key and click does, by Textual's own pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input
from tools.lab.wait import patience

from gpu_exporter.hub.client.client import Client
from gpu_exporter.hub.client.view import View
from gpu_exporter.top.app import Top
from gpu_exporter.top.look import Look
from gpu_exporter.top.panes import Lines, Pane
from gpu_exporter.top.screens import Detail, Help, Users
from views import REFUSED, Played, Story, free, gpu, lost, process

Play = Callable[["Screen"], Awaitable[None]]


class Screen:
    """The live screen in a terminal that only exists in memory."""

    def __init__(self, app: Top, pilot: Pilot[Any], origin: Played) -> None:
        self.app, self.pilot, self.origin = app, pilot, origin

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], bool]) -> None:
        end = asyncio.get_running_loop().time() + patience()
        while not condition():
            assert asyncio.get_running_loop().time() < end, self.text()
            await self.pilot.pause(0.01)

    def lines(self, name: str) -> list[str]:
        widget = self.app.screen_stack[0].query_one(f"#{name}")
        assert isinstance(widget, (Lines, Pane))
        return [widget.render_line(y).text.rstrip() for y in range(widget.size.height)]

    def text(self) -> str:
        names = ("title", "gpu-head", "gpus", "process-head", "processes", "keys")
        return "\n".join(line for name in names for line in self.lines(name))

    def gpus(self) -> list[str]:
        return self.lines("gpus")

    def pids(self) -> list[str]:
        return [line.split()[2] for line in self.lines("processes") if line]


def fleet(*, hot: float = 60.0) -> View:
    told = Story("gpu-a", "gpu-b")
    gpus = [gpu(0, metrics={"gpu_temperature_celsius": hot}), free(1), lost(2)]
    processes = [process(0, 11, memory_used_bytes=2**30), process(0, 5, "bob", utilization_ratio=0.5)]
    return told.look({"gpu-a": (gpus, processes), "gpu-b": ([gpu(0, who="carol")], [process(0, 7, "carol")])})


def play(story: Play, *views: View, size: tuple[int, int] = (100, 24), **look: Any) -> Top:
    async def go() -> Top:
        origin = Played(*(views or (fleet(),)))
        client = Client(origin)
        app = Top(client, Look(**look), ascii_only=False)
        client.follow(app.tell)
        try:
            async with app.run_test(size=size) as pilot:
                screen = Screen(app, pilot, origin)
                await screen.until(lambda: any("gpu-" in line for line in screen.gpus()))
                await story(screen)
        finally:
            client.close()
        return app

    return asyncio.run(go())


def test_it_shows_machines_gpus_and_processes() -> None:
    async def story(screen: Screen) -> None:
        assert screen.gpus()[0].startswith("▾ gpu-a")
        assert "down: lost" in screen.gpus()[1]
        assert screen.pids() == ["5", "7", "11"]
        assert screen.lines("keys")[0].endswith("q Quit")

    play(story)


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("f10", 0), ("ctrl+c", 130)])
def test_the_end(key: str, status: int) -> None:
    async def story(screen: Screen) -> None:
        await screen.pilot.press(key)

    assert play(story).return_value == status


@pytest.mark.parametrize("over", ["question_mark", "u", "slash", "g"])
def test_ctrl_c_ends_it_anywhere(over: str) -> None:
    async def story(screen: Screen) -> None:
        await screen.press(over)
        await screen.pilot.press("ctrl+c")

    assert play(story).return_value == 130


@pytest.mark.parametrize("key", ["question_mark", "h", "f1"])
def test_help_lists_the_keys(key: str) -> None:
    async def story(screen: Screen) -> None:
        await screen.press(key)
        assert isinstance(screen.app.screen, Help)
        await screen.press("q")
        assert not isinstance(screen.app.screen, Help)

    play(story)


@pytest.mark.parametrize("key", ["slash", "f3", "f4", "backslash"])
def test_filter(key: str) -> None:
    async def story(screen: Screen) -> None:
        await screen.press(key, *"carol")
        assert screen.pids() == ["7"]
        assert screen.lines("title")[1].startswith("only 'carol'")
        await screen.press("enter", "j")
        assert not screen.app.query_one("#filter", Input).display
        assert screen.app.look.words == "carol", "j is a key again"
        await screen.press("escape")
        assert len(screen.pids()) == 3

    play(story)


def test_a_filter_may_have_the_characters_of_keys() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("slash", *"q/u?", "backspace", "backspace", "backspace", "backspace")
        assert screen.app.look.words == ""
        await screen.press("x", "escape")
        assert screen.app.look.words == ""

    play(story)


def test_one_user() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("u")
        assert isinstance(screen.app.screen, Users)
        await screen.press("down", "down", "enter")  # everybody, alice, bob
        assert screen.app.look.user == "bob"
        assert screen.pids() == ["5"]
        await screen.press("u", "home", "enter")
        assert len(screen.pids()) == 3

    play(story)


def test_orders() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("N")
        assert screen.pids() == ["5", "7", "11"]
        await screen.press("tab", "I")
        assert screen.pids() == ["11", "7", "5"]
        await screen.press("r", "P")
        assert screen.pids()[0] == "5"
        await screen.press("M")
        assert screen.pids() == ["5", "7", "11"]
        orders: list[str] = []
        for key in ("s", "less_than_sign", "less_than_sign"):
            await screen.press(key)
            orders.append(screen.app.look.process_order)
        assert orders == ["util", "memory", "gpu"]
        await screen.press("tab", "f6")
        assert screen.app.look.gpu_order == "util"

    play(story)


def test_folding() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("t")
        assert [line.split()[0] for line in screen.gpus() if line] == ["▸", "2", "▸"], "what is down stays"
        await screen.press("t")
        assert len([line for line in screen.gpus() if line]) == 6
        await screen.press("home", "space")
        assert [line.split()[0] for line in screen.gpus() if line] == ["▸", "2", "▾", "0"]
        await screen.press("plus")
        assert len([line for line in screen.gpus() if line]) == 6
        await screen.press("minus", "enter")
        assert len([line for line in screen.gpus() if line]) == 6

    play(story)


def test_people() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("g")
        assert [line.split()[:2] for line in screen.lines("processes") if line] == [["alice", "1"], ["carol", "1"]]
        await screen.press("tab", "end", "enter")
        assert screen.app.look.user == "carol"
        assert screen.pids() == ["7"]

    play(story)


def test_all_of_a_gpu_and_it_goes_on() -> None:
    async def story(screen: Screen) -> None:
        await screen.press("down", "down", "down", "enter")
        assert isinstance(screen.app.screen, Detail)
        shown = screen.app.screen.query_one("#detail", Lines)

        def text() -> str:
            return "\n".join(shown.render_line(y).text for y in range(shown.size.height))

        await screen.until(lambda: "GPU 0 of gpu-a" in text() and "60 of 89 °C" in text())
        screen.origin.tell(fleet(hot=77.0))
        await screen.until(lambda: "77 of 89 °C" in text())
        await screen.press("escape")
        assert not isinstance(screen.app.screen, Detail)

    play(story)


def test_the_cursor_stays_on_what_it_is_on() -> None:
    async def story(screen: Screen) -> None:
        pane = screen.app.query_one("#gpus", Pane)
        await screen.press("end")
        assert pane.subject == ("gpu", "gpu-b", "0")
        told = Story("gpu-a", "gpu-b")
        screen.origin.tell(told.look({"gpu-a": [gpu(0)], "gpu-b": [lost(1), gpu(0)]}))
        await screen.until(lambda: any("gpu-b" in line for line in screen.gpus()[:1]))
        assert pane.subject == ("gpu", "gpu-b", "0")
        screen.origin.tell(told.look({"gpu-a": [gpu(0)], "gpu-b": []}))
        await screen.until(lambda: len([line for line in screen.gpus() if line]) == 3)
        assert pane.subject in {("gpu", "gpu-a", "0"), ("machine", "gpu-b")}

    play(story)


def test_many_machines_scroll() -> None:
    names = [f"gpu-{number:02}" for number in range(60)]
    view = Story(*names).look({name: [gpu(0), free(1)] for name in names})

    async def story(screen: Screen) -> None:
        assert screen.gpus()[0].startswith("▸ gpu-00 [▇·] 1 free")
        await screen.press("end")
        assert screen.gpus()[-1].startswith("▸ gpu-59")
        assert "/60" in screen.lines("gpu-head")[0]
        await screen.press("pageup", "home")
        assert screen.gpus()[0].startswith("▸ gpu-00")
        # The wheel has no word of its own in the pilot.
        await screen.pilot._post_mouse_events([events.MouseScrollDown], "#gpus")
        await screen.until(lambda: screen.gpus()[0].startswith("▸ gpu-03"))

    play(story, view)


def test_clicks() -> None:
    async def story(screen: Screen) -> None:
        await screen.pilot.click("#gpus", offset=(3, 0))
        await screen.pilot.pause()
        assert screen.gpus()[0].startswith("▸ gpu-a")
        await screen.pilot.click("#process-head", offset=(13, 0))  # PID
        await screen.pilot.pause()
        assert screen.app.look.process_order == "pid"
        await screen.pilot.click("#gpu-head", offset=(23, 0))  # UTIL
        await screen.pilot.pause()
        assert screen.app.look.gpu_order == "util"
        await screen.pilot.click("#keys", offset=(4, 0))
        await screen.pilot.pause()
        assert isinstance(screen.app.screen, Help)

    play(story)


@pytest.mark.parametrize("size", [(1, 1), (10, 3), (40, 8), (80, 24), (300, 90)])
def test_any_size(size: tuple[int, int]) -> None:
    async def story(screen: Screen) -> None:
        await screen.pilot.resize_terminal(*size)
        await screen.until(lambda: screen.app.size == size)
        for key in ("down", "end", "question_mark", "q", "slash", "x", "escape", "g", "t"):
            await screen.press(key)
        await screen.pilot.resize_terminal(100, 24)
        await screen.until(lambda: any("gpu-a" in line for line in screen.gpus()))

    play(story)


def test_eighty_by_twenty_four_has_eight_gpus_and_processes() -> None:
    view = Story("gpu-a").look(
        {"gpu-a": ([gpu(number) for number in range(8)], [process(n, 10 + n) for n in range(8)])}
    )

    async def go() -> None:
        client = Client(Played(view, name="this machine"))
        app = Top(client, Look(), ascii_only=False)
        client.follow(app.tell)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = Screen(app, pilot, Played())
            await screen.until(lambda: len([line for line in screen.gpus() if line]) == 8)
            assert len([line for line in screen.lines("processes") if line]) == 8
        client.close()

    asyncio.run(go())


def test_a_machine_that_goes_away_goes_to_the_top() -> None:
    told = Story("gpu-a", "gpu-b")
    answers = {"gpu-a": [gpu(0)], "gpu-b": [gpu(0)]}

    async def story(screen: Screen) -> None:
        told.look({"gpu-a": [gpu(0)], "gpu-b": REFUSED})
        screen.origin.tell(told.look({"gpu-a": [gpu(0)], "gpu-b": REFUSED}))
        await screen.until(lambda: screen.gpus()[0].startswith("  gpu-b offline for 10 s, 1 GPU: refused"))

    play(story, told.look(answers))


def test_only_what_has_changed_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    async def story(screen: Screen) -> None:
        pane = screen.app.query_one("#gpus", Pane)
        refresh = pane.refresh

        def note(*regions: Any, **rest: Any) -> Any:
            drawn.extend(regions)
            return refresh(*regions, **rest)

        monkeypatch.setattr(pane, "refresh", note)
        screen.origin.tell(fleet(hot=61.0))
        await screen.until(lambda: any("61/89" in line for line in screen.gpus()))

    play(story)
    assert [(region.y, region.width, region.height) for region in drawn] == [(2, 1, 1)]
