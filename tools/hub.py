"""The table of hub.yml in docs/HUB.md, generated from the settings: tools/hub.py [--check]."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from gpu_exporter.hub.settings import entries

PAGE = Path(__file__).resolve().parents[1] / "docs/HUB.md"
_PART = re.compile(r"(<!-- settings:[^\n]*-->\n).*?(<!-- end of settings -->)", re.DOTALL)


def table() -> str:
    """Every key with its default and meaning."""
    rows = [f"| `{key}` | {f'`{shown}`' if shown else ''} | {text} |" for key, shown, text in entries()]
    return "\n".join(["", "| key | default | meaning |", "|---|---|---|", *rows, "", ""])


def page(text: str) -> str:
    """The page with the table of now."""
    made, count = _PART.subn(lambda part: part[1] + table() + part[2], text)
    if count != 1:
        raise SystemExit(f"{PAGE}: has no place for the settings")
    return made


def main() -> int:
    """Write the page again; with --check tell by status 1 whether it would change."""
    before = PAGE.read_text("utf-8")
    after = page(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    PAGE.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
