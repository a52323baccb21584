"""The dashboards against the types that Grafana publishes, by the TypeScript compiler."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tools.lab import ROOT
from tools.lab.programs import program

from dashboards import load

TYPES = ROOT / "tests/dashboards/types"
ALL = load()


def _typecheck(folder: Path, content: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """tsc over these dashboards, with the types of the oldest and the newest Grafana."""
    for name in ("check.ts", "tsconfig.json", "package.json"):
        (folder / name).write_text((TYPES / name).read_text("utf-8"))
    (folder / "node_modules").symlink_to(TYPES / "node_modules")
    literal = json.dumps(content)
    (folder / "dashboards.ts").write_text(
        "import type { Newest, Oldest } from './check';\n"
        f"export const newest: Record<string, Newest> = {literal};\n"
        f"const same = {literal} as const;\nexport const oldest: Record<string, Oldest> = same;\n"
    )
    compiler = TYPES / "node_modules/typescript/bin/tsc"
    return subprocess.run(
        [program("node"), compiler, "--project", folder], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def compiler() -> None:
    """The packages of tests/dashboards/types, which tools/setup installs."""
    if not (TYPES / "node_modules/typescript").is_dir():
        reason = "npm ci was not run in tests/dashboards/types, or tools/setup could not"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.usefixtures("compiler")
def test_the_types_of_grafana_10_and_13_hold(tmp_path: Path) -> None:
    done = _typecheck(tmp_path, ALL)
    assert done.returncode == 0, done.stdout[:4000]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"graphMode": "none"', '"graphMode": "nothing"'),
        ('"showUnfilled": true', '"showUnfiled": true'),
        ('"mode": "palette-classic"', '"mode": "palette-clasic"'),
    ],
)
def test_the_type_check_notices_a_mistake(tmp_path: Path, old: str, new: str) -> None:
    text = json.dumps(ALL["gpu-fleet"])
    assert old in text
    done = _typecheck(tmp_path, {"gpu-fleet": json.loads(text.replace(old, new, 1))})
    assert done.returncode == 2, done.stdout
    assert new.split('"')[1] in done.stdout or new.split('"')[3] in done.stdout
