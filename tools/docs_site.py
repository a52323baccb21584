"""The site of docs/: ``make docs-site`` builds it into .build/pages, strictly; mkdocs.yml names this file as its hook.

A link out of docs/, which GitHub follows, leads to GitHub from the site.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/gpu-exporter/gpu-exporter"
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """MkDocs asks this for every page."""
    return outward(markdown, Path(page.file.src_uri))


def outward(markdown: str, page: Path) -> str:
    """The text of a page of docs/ with its links out of docs/ turned to GitHub; ValueError where one is broken."""

    def turned(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = Path(os.path.normpath(ROOT / "docs" / page.parent / target))
        if place.is_relative_to(ROOT / "docs") and place.is_file():
            return match[0]
        if not place.exists():
            raise ValueError(f"docs/{page} links to {target}, which is not there")
        kind = "tree" if place.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{place.relative_to(ROOT)}{anchor}"

    return _LINK.sub(turned, markdown)


def main() -> int:
    """Build it; 1 where a page, a link or an anchor is missing."""
    from tools.dist.environment import environment  # noqa: PLC0415 - MkDocs, which reads this file, knows no tools
    from tools.dist.made import LeftOutError  # noqa: PLC0415

    try:
        program = environment("site") / "mkdocs"
    except LeftOutError as error:
        print(f"site: {error}", file=sys.stderr)
        return 1
    # Not a warning of ours: where Material goes on is another day's decision.
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([str(program), "build"], cwd=ROOT, env=told, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
