"""Draw every dashboard to docs/images/dashboard-*.png, in headless Chromium, from a real Prometheus's answers.

    python -m tools.previews [--minutes 20] [--port PORT] [--folder docs/images] [UID ...]

Without --port a simulated fleet is started and watched for that long. These are previews: Grafana's published
components draw real answers, but Grafana itself does not run (state timelines are drawn by us, their plugin is not
published). Needs npm, chromium and Pillow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image
from tools.lab import ROOT

from dashboards import Json, PrometheusApi, View, load, panels
from grafana_lab import fleet

HERE = ROOT / "tools/previews/app"
WIDTH = 1600
COLORS = 256
CAPTION = "Preview: simulated GPUs, drawn with @grafana/ui, not a screenshot of Grafana"
LOADERS = ("svg=text", "png=dataurl", "ttf=empty", "woff2=dataurl", "woff=empty")
# Texts of the variables of dashboards that are about one host or one GPU.
CHOSEN = {
    "gpu-node": {"instance": "gpu-a"},
    "gpu-device": {"instance": "gpu-a", "gpu": "0, NVIDIA H100 80GB HBM3"},
}
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>{css}</style><style>body {{ margin: 0; background: #111217 }}</style><div id="root"></div>
<script>window.PREVIEW = {data};</script><script>{script}</script>
"""


def bundle(folder: Path) -> tuple[str, str]:
    """The page's script and style. Raises CalledProcessError where npm or esbuild fails; its words are on stderr."""
    if not (HERE / "node_modules/.bin/esbuild").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=HERE, check=True, stdout=2)
    subprocess.run(
        [
            HERE / "node_modules/.bin/esbuild",
            HERE / "preview.tsx",
            "--bundle",
            "--minify",
            "--format=iife",
            "--jsx=automatic",
            "--log-level=error",
            '--define:process.env.NODE_ENV="production"',
            f"--outfile={folder / 'preview.js'}",
            *(f"--loader:.{loader}" for loader in LOADERS),
        ],
        check=True,
    )
    script = (folder / "preview.js").read_text("utf-8").replace("</script", "<\\/script")
    return script, (folder / "preview.css").read_text("utf-8")


def page(dashboard: Json, api: PrometheusApi, view: View, script: str, css: str) -> str:
    """One dashboard with its answers, as a page that needs nothing else."""
    chosen = CHOSEN.get(dashboard["uid"], {})
    variables = api.choose(dashboard, view, chosen)
    answers = {
        panel["id"]: {target["refId"]: api.target(target, view, variables) for target in panel["targets"]}
        for panel in panels(dashboard)
    }
    data = {
        "dashboard": dashboard,
        "answers": answers,
        "marks": _marks(dashboard, api, view, variables),
        "chosen": chosen,
        "from": view.start,
        "to": view.end,
        "step": view.step,
        "caption": CAPTION,
    }
    text = json.dumps(data).replace("</", "<\\/")
    return _PAGE.format(title=dashboard["title"], css=css, data=text, script=script)


def _marks(dashboard: Json, api: PrometheusApi, view: View, variables: Mapping[str, str]) -> list[Json]:
    """XIDs at their time, and the beginning of every alert."""
    marks: list[Json] = []
    for query in dashboard["annotations"]["list"]:
        if "expr" not in query:
            continue
        for series in api.range(view.fill(query["expr"], variables), view):
            when, value = series["values"][0]
            moment = float(value) if query["useValueForTime"] else when * 1000
            if moment >= view.start * 1000:
                marks.append({"time": moment, "text": query["name"], "color": query["iconColor"]})
    return marks


def photograph(file: Path, picture: Path, height: int) -> None:
    """The page as PNG with a palette. Raises ValueError with the page's words where a panel could not be drawn."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("previews: chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                chromium,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--enable-logging=stderr",
                f"--user-data-dir={profile}",
                f"--window-size={WIDTH},{height}",
                "--virtual-time-budget=8000",
                f"--screenshot={picture}",
                file.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    if found := [line for line in done.stderr.splitlines() if "PREVIEW_FAILED" in line or "Uncaught" in line]:
        raise ValueError(f"{file.stem}: {found[0]}")
    with Image.open(picture) as full:
        full.convert("RGB").quantize(COLORS, kmeans=3, dither=Image.Dither.NONE).save(picture, optimize=True)


def height_of(dashboard: Json) -> int:
    """Pixels that the dashboard needs."""
    rows: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    return 110 + 38 * rows


@contextlib.contextmanager
def watched(port: int | None, minutes: float, folder: Path) -> Iterator[int]:
    """The port of a Prometheus that has watched a fleet for so long."""
    if port is not None:
        yield port
        return
    until = time.monotonic() + minutes * 60
    with fleet(folder, pace=minutes * 4, interval=5, fast=False) as prometheus:  # the story takes half of the time
        while time.monotonic() < until:
            time.sleep(1)
        yield prometheus.port


def main(arguments: Sequence[str]) -> int:
    """Draw the dashboards that were asked for, or all."""
    parser = argparse.ArgumentParser(description="Draw the dashboards to PNG.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--port", type=int, help="of a Prometheus on this machine that watches a fleet already")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    parser.add_argument("uid", nargs="*")
    options = parser.parse_args(arguments)
    found = load()
    if unknown := set(options.uid) - set(found):
        parser.error(f"{', '.join(sorted(unknown))}: no such dashboard; write some of {', '.join(found)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script, css = bundle(folder)
        (folder / "fleet").mkdir()
        with watched(options.port, options.minutes, folder / "fleet") as port:
            end = time.time()
            length = options.minutes * 60
            view = View(start=end - length, end=end, step=max(2.0, length // 240), rate_interval=max(20, length // 60))
            for uid in options.uid or found:
                file = folder / f"{uid}.html"
                file.write_text(page(found[uid], PrometheusApi(port), view, script, css), "utf-8")
                picture = options.folder / f"dashboard-{uid.removeprefix('gpu-')}.png"
                photograph(file, picture, height_of(found[uid]))
                sys.stdout.write(f"{picture}: {picture.stat().st_size // 1000} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
