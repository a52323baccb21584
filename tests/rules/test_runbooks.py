"""docs/runbooks: a page an alert, complete, with queries that exist; and the XIDs as the rules have them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools.lab import ROOT

from gpu_exporter.catalog.xids import (
    CLASSES,
    MECHANICS,
    MEMORY_ERROR,
    NVLINK,
    REPLACE,
    RESET_GPU,
    RESTART_MACHINE,
    RESTART_VM,
    SUPPORT,
    UNDO_HARDWARE,
    XIDS,
    severity_of,
)
from rules import ALERTS, KNOWN, RULES, RUNBOOKS, Rule, metrics, where

alerts = pytest.mark.parametrize("rule", ALERTS, ids=[rule.name for rule in ALERTS])

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def page(rule: Rule) -> str:
    """The alert's runbook."""
    path = RUNBOOKS / f"{rule.name}.md"
    assert path.exists(), f"{where(rule)}: write docs/runbooks/{rule.name}.md, like docs/runbooks/GPULost.md"
    return path.read_text("utf-8")


@alerts
def test_runbooks(rule: Rule) -> None:
    text = page(rule)
    here = f"docs/runbooks/{rule.name}.md"
    assert text.startswith(f"# {rule.name}\n"), f"{here}: begin with: # {rule.name}"
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == SECTIONS, f"{here}: write the sections {', '.join(f'## {name}' for name in SECTIONS)}"
    sections = dict(re.findall(r"^## (\w+)\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    short = [name for name, section in sections.items() if len(section.strip()) < 40]
    assert short == [], f"{here}: a section of fewer than 40 characters helps nobody at night"
    assert "```" in sections["Diagnosis"], f"{here}: ## Diagnosis has commands, in a block of ```sh"
    dead = [target for target in re.findall(r"\]\(([\w./-]+\.md)", text) if not (RUNBOOKS / target).exists()]
    assert dead == [], f"{here}: links to pages that are not there"


@alerts
def test_queries_of_runbooks(rule: Rule) -> None:
    blocks = re.findall(r"```promql\n(.*?)```", page(rule), re.DOTALL)
    named = {name for block in blocks for query in block.splitlines() for name in metrics(query)}
    unknown = sorted(named - KNOWN - {"ALERTS", "process_cpu_seconds_total"})
    assert unknown == [], f"docs/runbooks/{rule.name}.md: neither docs/METRICS.md nor a recording rule has these"


def test_there_is_no_runbook_without_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README", "XID"}
    spare = sorted(f"docs/runbooks/{name}.md" for name in pages - {rule.name for rule in ALERTS})
    assert spare == [], "no rule of deploy/prometheus/rules has an alert of that name"


def test_the_list_of_runbooks_is_complete() -> None:
    text = (RUNBOOKS / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[\w+\]\(\w+\.md\) \|.*\|$", text, re.MULTILINE)
    expected = [
        f"| [{rule.name}]({rule.name}.md) | {rule.severity} | {rule.annotations.get('summary', '…')} |"
        for rule in ALERTS
    ]
    missing = [line for line in expected if line not in listed]
    assert missing == [], "docs/runbooks/README.md: add to the list:\n" + "\n".join(missing)
    spare = [line for line in listed if line not in expected]
    assert spare == [], "docs/runbooks/README.md: take out of the list:\n" + "\n".join(spare)


def _lists(alert: str) -> set[int]:
    """The XIDs that an alert's matchers name."""
    expr = next(rule.expr for rule in ALERTS if rule.name == alert)
    return {int(xid) for found in re.findall(r'xid[=!]~"([\d|]+)"', expr) for xid in found.split("|")}


def test_the_page_and_the_rules_are_what_the_table_of_xids_makes() -> None:
    check = [sys.executable, str(ROOT / "tools/xids.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for severity, alert in (("critical", "GPUXidCritical"), ("warning", "GPUXidWarning")):
        assert _lists(alert) == {number for number, row in XIDS.items() if row.severity == severity}
    assert _lists("GPUXidUnknown") == set(XIDS)


def test_a_list_that_was_edited_by_hand_is_told(tmp_path: Path) -> None:
    for name in ("tools/xids.py", "docs/runbooks/XID.md", "deploy/prometheus/rules/alerts-health.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    rules = tmp_path / "deploy/prometheus/rules/alerts-health.yml"
    rules.write_text(rules.read_text("utf-8").replace("46|48|54", "46|54", 1), "utf-8")
    run = [sys.executable, str(tmp_path / "tools/xids.py")]
    done = subprocess.run([*run, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "deploy/prometheus/rules/alerts-health.yml differs from the table of XIDs: run make docs"
    )
    subprocess.run(run, check=True)
    assert rules.read_text("utf-8") == (RULES[0].parent / "alerts-health.yml").read_text("utf-8")


def test_the_page_of_xids_and_the_rules_agree() -> None:
    table = re.findall(
        r"^\| (\d+) \|.*\| (critical|warning|none) \|$", (RUNBOOKS / "XID.md").read_text("utf-8"), re.MULTILINE
    )
    for severity, alert in (("critical", "GPUXidCritical"), ("warning", "GPUXidWarning")):
        assert {int(xid) for xid, of in table if of == severity} == _lists(alert)
    assert {"13", "31", "43", "45", "63", "92"} <= {xid for xid, of in table if of == "none"}


def test_what_must_be_repaired_has_an_alert_and_what_needs_nothing_has_none() -> None:
    repaired = {
        RESTART_MACHINE,
        RESET_GPU,
        MEMORY_ERROR,
        REPLACE,
        NVLINK,
        MECHANICS,
        UNDO_HARDWARE,
        SUPPORT,
        RESTART_VM,
    }
    for number, row in XIDS.items():
        assert number == row.number
        assert (row.severity != "none") == (row.of in repaired or number == 94), number
    assert {row.of for row in XIDS.values()} == set(CLASSES), "a class that no number has"
    assert list(XIDS) == sorted(XIDS)


def test_how_bad_an_xid_is() -> None:
    assert severity_of(79) == "critical"
    assert severity_of(45) == "none"
    assert severity_of(199) == severity_of(-1) == "warning"
    assert [severity_of(149, word=word) for word in ("Fatal", "Nonfatal", "")] == ["critical", "warning", "critical"]
    assert severity_of(145, word="Fatal") == "critical"
    assert severity_of(94, word="Fatal") == "warning", "only NVLink 5 tells it by a word"
