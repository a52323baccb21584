"""What a release is made of, beside the wheel, the image and the single file.

usage: tools/release.py version 1.2.3   write that version wherever one stands, with today's part of CHANGELOG.md
       tools/release.py notes TAG   the tag's part of CHANGELOG.md; refused where tag, package and chart differ
       tools/release.py chart       dist/gpu-exporter-VERSION.tgz: the chart

All need nothing but Python. The same sources give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
import time
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm/gpu-exporter"


class ReleaseError(Exception):
    """The checkout is no release; the text says why."""


def main() -> int:
    """Do what is asked for; 1 where the checkout does not allow it, 2 where it is not understood."""
    try:
        match sys.argv[1:]:
            case ["version", version]:
                for path in raise_to(ROOT, version, time.strftime("%Y-%m-%d", time.gmtime())):
                    print(path)
            case ["notes", tag]:
                print(notes(ROOT, tag))
            case ["chart"]:
                print(archive(CHART, ROOT / "dist"))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


_VERSION = r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?"
# Where the version stands: what comes before it, and nothing else that looks like one.
_PLACES = {
    "exporter/gpu_exporter/__init__.py": (r'^__version__ = "',),
    "helm/gpu-exporter/Chart.yaml": (r"^version: ", r"^appVersion: ", r"image: ghcr\.io/gpu-exporter/gpu-exporter:"),
    "deploy/compose.yaml": (r"image: ghcr\.io/gpu-exporter/gpu-exporter:", r"args: \{VERSION: "),
    ".github/ISSUE_TEMPLATE/bug.yml": (r"placeholder: ",),
    "README.md": (r"gpu-exporter_",),
    "docs/CENTER.md": (r"gpu-exporter_",),
    "docs/CONTAINER.md": (r"ghcr\.io/gpu-exporter/gpu-exporter:",),
    "docs/INSTALL.md": (r"gpu-exporter_",),
}


def raise_to(root: Path, version: str, day: str) -> list[str]:
    """Write the version to every place, and answer the files that changed."""
    if not re.fullmatch(_VERSION, version):
        raise ReleaseError(f"'{version}' is no version; write 1.2.3 or 1.2.3rc1")
    changed = {}
    for path, before in _PLACES.items():
        text = (root / path).read_text()
        for pattern in before:
            text, count = re.subn(
                rf"({pattern})\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", rf"\g<1>{version}", text, flags=re.MULTILINE
            )
            if not count:
                raise ReleaseError(f"{path} has no version after {pattern}")
        changed[path] = text
    history = (root / "CHANGELOG.md").read_text()
    if f"## [{version}]" not in history:
        head = f"## [Unreleased]\n\n## [{version}] - {day}\n"
        history, count = re.subn(r"^## \[Unreleased\]\n", head, history, flags=re.MULTILINE)
        if not count:
            raise ReleaseError("CHANGELOG.md has no section ## [Unreleased]")
    changed["CHANGELOG.md"] = history
    written = [path for path, text in changed.items() if text != (root / path).read_text()]
    for path in written:
        (root / path).write_text(changed[path])
    return written


def notes(root: Path, tag: str) -> str:
    """What CHANGELOG.md tells of the version; everything that names a version has to name this one."""
    named = {
        "exporter/gpu_exporter/__init__.py": r'^__version__ = "(.+)"$',
        "helm/gpu-exporter/Chart.yaml": r'^appVersion: "?([^"\n]+)"?$',
    }
    for path, pattern in named.items():
        found = re.search(pattern, (root / path).read_text(), re.MULTILINE)
        if found is None or f"v{found[1]}" != tag:
            raise ReleaseError(f"{path} has {found[1] if found else 'no version'}, the tag is {tag}")
    parts = re.split(r"^## \[(.+)\](.*)\n", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    for version, rest, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if f"v{version}" == tag:
            if not re.fullmatch(r" - \d{4}-\d\d-\d\d", rest):
                raise ReleaseError(f"CHANGELOG.md: write the day, ## [{version}] - 2026-12-31")
            return text.strip()
    raise ReleaseError(f"CHANGELOG.md has no section ## [{tag.removeprefix('v')}] - DAY")


def archive(chart: Path, folder: Path) -> Path:
    """The chart as Helm's registries keep it: a folder of its name, without what .helmignore names."""
    found = re.search(r"^version: (\S+)$", (chart / "Chart.yaml").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError(f"{chart / 'Chart.yaml'} has no version")
    ignored = [line for line in (chart / ".helmignore").read_text().splitlines() if line and not line.startswith("#")]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(chart):
            parts = path.relative_to(chart).parts
            if any(fnmatch(part, pattern.rstrip("/")) for part in parts for pattern in ignored):
                continue
            entry = tarfile.TarInfo(f"{chart.name}/{'/'.join(parts)}")
            body = path.read_bytes()
            entry.size = len(body)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(body))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{chart.name}-{found[1]}.tgz"
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return target


def _files(folder: Path) -> list[Path]:
    """Every file below the folder, in order; links to folders are followed, which rglob would not do."""
    found = []
    for path in sorted(folder.iterdir()):
        found += _files(path) if path.is_dir() else [path]
    return found


if __name__ == "__main__":
    sys.exit(main())
