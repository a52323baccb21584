"""A real Chromium without a window, steered by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from tools.lab.programs import MissingProgramError, Program
from tools.lab.wait import patience, wait_for

_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser(Program):
    """One page of a Chromium of its own; a context manager that stops it. ``problems`` has what its console says."""

    def __init__(self, folder: Path) -> None:
        binary = next(filter(None, map(shutil.which, _NAMES)), None)
        if binary is None:
            raise MissingProgramError("chromium is not installed: apt-get install chromium")
        profile = folder / "chromium"
        self.problems: list[str] = []
        super().__init__(
            [
                binary,
                "--headless=new",
                "--no-sandbox",  # tests may run as root
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            folder / "chromium.log",
            own_session=True,
        )
        self._loop = asyncio.new_event_loop()
        self._number = 0
        port = self.wait(lambda: _first_line(profile / "DevToolsActivePort"))
        self._session, self._socket = self._loop.run_until_complete(_connect(int(port)))
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def stop(self) -> None:
        """Close the page and end the program."""
        self._loop.run_until_complete(self._session.close())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        super().stop()

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the protocol, and its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), patience()))

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") == self._number:
                if "error" in message:
                    raise ValueError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(given["exceptionDetails"].get("exception", {}).get("description", "exception"))
        if message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def evaluate(self, script: str) -> Any:
        """The value of a script; a promise is waited for. Raises ValueError where it throws."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise ValueError(answer["exceptionDetails"].get("exception", {}).get("description", script))
        return answer["result"].get("value")

    def open(self, url: str, *, script: bool = True) -> None:
        """Go to a page and wait until it is there; ``script`` tells whether it may run its own."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=url)
        self.until(lambda: self.evaluate("document.readyState === 'complete'"))

    def until(self, ready: Callable[[], Any]) -> Any:
        """What the condition answers as soon as it is true."""
        return wait_for(ready, lambda: self.evaluate("document.body.innerText"))

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """How large the window is, and which colours its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(answer["data"]))


def _first_line(file: Path) -> str:
    return file.read_text().splitlines()[0] if file.exists() and file.stat().st_size else ""


async def _connect(port: int) -> tuple[aiohttp.ClientSession, Any]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        pages = await answer.json()
    address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
    return session, await session.ws_connect(address, max_msg_size=0)
