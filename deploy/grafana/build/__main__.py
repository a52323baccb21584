"""Write dashboards/*.json, or with --check tell which of them is not what the generator makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from build import device, exporter, fleet, health, node, owners

FOLDER: Final = Path(__file__).resolve().parents[1] / "dashboards"
DASHBOARDS: Final = (
    fleet.DASHBOARD,
    node.DASHBOARD,
    device.DASHBOARD,
    owners.DASHBOARD,
    health.DASHBOARD,
    exporter.DASHBOARD,
)


def files() -> dict[Path, str]:
    """Every dashboard's file and text."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"
        for dashboard in DASHBOARDS
    }


def main(arguments: list[str]) -> int:
    """0 where the files are (now) what the generator makes, 1 where --check found another, 2 for a bad argument."""
    wanted = files()
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"build: '{' '.join(arguments)}' is not understood; write nothing, or --check\n")
        return 2
    if arguments:
        present = {path: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
        differing = sorted(path.name for path in {*wanted, *present} if wanted.get(path) != present.get(path))
        for name in differing:
            sys.stderr.write(f"{name} is not what the generator makes: run make dashboards\n")
        return 1 if differing else 0
    FOLDER.mkdir(exist_ok=True)
    for path in set(FOLDER.glob("*.json")) - set(wanted):
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
