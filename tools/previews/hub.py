"""Draw the hub's pages to docs/images/hub-*.png: a real hub over simulated machines, in headless Chromium.

python -m tools.previews.hub [--folder docs/images]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools.lab import LOOPBACK, ROOT
from tools.lab.browser import Browser
from tools.lab.exporter import Exporter
from tools.lab.hub import Hub, write_nodes
from tools.lab.ports import free_port

WIDTH, NARROW = 1280, 390
MACHINES = {"gpu-a": ("h200", 8), "gpu-b": ("h100", 8), "gpu-c": ("l40s", 4), "dgx-lab": ("a100", 8)}
# Name: path, width, dark.
PAGES = {
    "machines": ("/", WIDTH, False),
    "free": ("/free", NARROW, True),
}


def main() -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(description="Draw the hub's pages to PNG.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        machines = {}
        for seed, (alias, (model, gpus)) in enumerate(MACHINES.items()):
            (place / alias).mkdir()
            options = ("--source=fake", f"--fake.model={model}", f"--fake.gpus={gpus}", f"--fake.seed={seed}")
            machines[alias] = stack.enter_context(Exporter(place / alias, *options, "--collection.interval=1s")).port
        machines["gpu-z"] = free_port()
        hub = stack.enter_context(Hub(place, write_nodes(place / "nodes.json", machines, rack="R12")))
        hub.wait_states(**dict.fromkeys(MACHINES, "online"), **{"gpu-z": "offline"})
        hub.wait(lambda: all(gpu["state"] != "unknown" for gpu in hub.json("/api/v1/gpus?node=gpu-a")["gpus"]))
        browser = stack.enter_context(Browser(place))
        for page, (path, width, dark) in PAGES.items():
            browser.look(width, 700, dark=dark)
            browser.open(f"http://{LOOPBACK}:{hub.port}{path}")
            browser.until(lambda: browser.evaluate("document.getElementById('live').classList.contains('on')"))
            picture = folder / f"hub-{page}.png"
            browser.picture(picture)
            sys.stdout.write(f"{picture}: {picture.stat().st_size // 1000} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
