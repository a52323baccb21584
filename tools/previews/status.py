"""Draw the exporter's status page to docs/images/status-page.png: eight simulated GPUs, one lost, one too hot.

python -m tools.previews.status [--folder docs/images]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools.lab import LOOPBACK, ROOT
from tools.lab.browser import Browser
from tools.lab.exporter import Exporter

WIDTH = 1200
STORY = """\
events:
  - {at: 0s, gpu: 3, fault: overheat}
  - {at: 1s, gpu: 5, fault: xid, xid: 79}
  - {at: 1s, gpu: 5, fault: lost}
"""


def main() -> int:
    """Draw it once the GPU has got hot, which takes minutes, and the hour's lines have something to show."""
    parser = argparse.ArgumentParser(description="Draw the status page to PNG.")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    picture = parser.parse_args().folder / "status-page.png"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "story.yml").write_text(STORY)
        options = ("--source=fake", f"--fake.scenario={place / 'story.yml'}", "--host.name=gpu-a")
        with Exporter(place, *options, "--collection.interval=1s") as exporter, Browser(place) as browser:
            exporter.wait(lambda: exporter.value("gpu_clock_event_active", gpu="3", reason="hw_thermal_slowdown") == 1)
            browser.look(WIDTH, 700, dark=False)
            browser.open(f"http://{LOOPBACK}:{exporter.port}/")
            browser.picture(picture)
    sys.stdout.write(f"{picture}: {picture.stat().st_size // 1000} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
