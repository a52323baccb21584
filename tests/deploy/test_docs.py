"""Documentation that is generated is current; what is promised by hand exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import environment

from gpu_exporter.catalog import CATALOG
from gpu_exporter.cli.group import cli
from gpu_exporter.history.schema import FIRST

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_configuration_page_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, "tools/configuration.py"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs/CONFIGURATION.md").read_text() == done.stdout, "run make docs"


def test_the_hub_s_settings_are_generated() -> None:
    done = subprocess.run([sys.executable, "tools/hub.py", "--check"], cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_only_metrics_and_flags_that_exist(page: Path) -> None:
    text = page.read_text()
    metrics = {metric.name for metric in CATALOG} | {label for metric in CATALOG for label in metric.dynamic}
    metrics |= set(re.findall(r"CREATE (?:TABLE|VIEW) (\w+)", FIRST))
    named = {name for name in re.findall(r"`(gpu_[a-z0-9_]+)[`{ ]", text) if not name.startswith("gpu_exporter.")}
    labels = {label for metric in CATALOG for label in (*metric.info, *metric.dynamic)}
    assert {name for name in named if name not in metrics | labels and not name.endswith("_")} <= {
        "gpu_exporter",
        "gpu_diagnostic_last_pass_timestamp_seconds",  # the contract of docs/HOST.md
    }
    flags = {flag for command in cli.commands.values() for option in command.params for flag in option.opts}
    dotted = set(re.findall(r"(--[a-z]+\.[a-z.-]+[a-z])", text))
    assert dotted - {"--collector.textfile.directory"} <= flags
