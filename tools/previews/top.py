"""Draw the terminal's screens to docs/images/top-*.png: `gpu-exporter top` over simulated machines, in a Chromium.

python -m tools.previews.top [--folder docs/images]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tools.lab import ROOT
from tools.lab.browser import Browser
from tools.lab.exporter import Exporter
from tools.lab.hub import write_nodes
from tools.lab.ports import free_port

from gpu_exporter.cli.origin import origin
from gpu_exporter.config import settings
from gpu_exporter.hub.client.client import Client
from gpu_exporter.hub.client.origins import Origin
from gpu_exporter.top.app import Top
from gpu_exporter.top.look import Look

STORY = "events:\n- {at: 0s, gpu: 2, fault: xid, xid: 79}\n- {at: 0s, gpu: 2, fault: lost}\n"
LOOKED = 40.0  # seconds, for the trends
# Name: which machines, columns, rows.
SCREENS = {"one": (("gpu-a",), 80, 24), "fleet": (("gpu-b", "gpu-a", "gpu-c", "gpu-z"), 120, 40)}


async def screen(nodes: Path, size: tuple[int, int]) -> str:
    """The screen as SVG, once it has been looked at for a while."""
    given = {setting.key.replace(".", "__"): None for setting in settings()}
    where = {"targets": (), "nodes_file": nodes, "hub_url": None, "hub_config_file": None, "config_file": None}
    client = Client(await asyncio.to_thread(_origin, {**where, **given}))
    app = Top(client, Look(), ascii_only=False)
    client.follow(app.tell)
    try:
        async with app.run_test(size=size) as pilot:
            await pilot.pause(LOOKED)
            return app.export_screenshot(title=f"gpu-exporter top --nodes.file {nodes.name}")
    finally:
        client.close()


def main() -> int:
    """Draw them."""
    parser = argparse.ArgumentParser(description="Draw the terminal's screens to PNG.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        (place / "story.yml").write_text(STORY)
        machines = {"gpu-z": free_port()}
        for seed, (alias, model) in enumerate((("gpu-a", "h200"), ("gpu-b", "h100"), ("gpu-c", "l40s"))):
            (place / alias).mkdir()
            options = ["--source=fake", f"--fake.model={model}", f"--fake.seed={seed}", "--collection.interval=1s"]
            options += [f"--fake.scenario={place / 'story.yml'}"] if alias == "gpu-b" else []
            machines[alias] = stack.enter_context(Exporter(place / alias, *options)).port
        browser = stack.enter_context(Browser(place))
        for number, (picture, (aliases, columns, rows)) in enumerate(SCREENS.items()):
            nodes = write_nodes(place / f"nodes{number or ''}.json", {alias: machines[alias] for alias in aliases})
            drawn = place / f"{picture}.svg"
            drawn.write_text(asyncio.run(screen(nodes, (columns, rows))))
            browser.look(columns * 10, 400, dark=True)
            browser.open(drawn.as_uri())
            path = folder / f"top-{picture}.png"
            browser.picture(path)
            sys.stdout.write(f"{path}: {path.stat().st_size // 1000} kB\n")
    return 0


def _origin(options: dict[str, object]) -> Origin:
    import click  # noqa: PLC0415 - as a command would have it

    with click.Context(click.Command("top")):
        return origin(interval=2.0, **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
