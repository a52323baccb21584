"""docs/runbooks: a page an alert, complete, with queries that exist; and the XIDs as the rules have them."""

from __future__ import annotations

import re

import pytest

from rules import ALERTS, KNOWN, RUNBOOKS, Rule, metrics, where

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


def test_the_page_of_xids_and_the_rules_agree() -> None:
    table = re.findall(
        r"^\| (\d+) \|.*\| (critical|warning|none) \|$", (RUNBOOKS / "XID.md").read_text("utf-8"), re.MULTILINE
    )
    for severity, alert in (("critical", "GPUXidCritical"), ("warning", "GPUXidWarning")):
        expr = next(rule.expr for rule in ALERTS if rule.name == alert)
        matcher = re.search(r'xid=~"([\d|]+)"', expr)
        assert matcher
        assert {xid for xid, of in table if of == severity} == set(matcher[1].split("|"))
    assert {"13", "31", "43", "45", "63", "92"} <= {xid for xid, of in table if of == "none"}
