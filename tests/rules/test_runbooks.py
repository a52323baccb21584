"""docs/runbooks: a page an alert, complete, with queries that exist; and the XIDs as the rules have them."""

from __future__ import annotations

import re

import pytest

from rules import ALERTS, KNOWN, RUNBOOKS, Rule, metrics

alerts = pytest.mark.parametrize("rule", ALERTS, ids=[rule.name for rule in ALERTS])


@alerts
def test_runbooks(rule: Rule) -> None:
    text = (RUNBOOKS / f"{rule.name}.md").read_text("utf-8")
    assert text.startswith(f"# {rule.name}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    sections = dict(re.findall(r"^## (\w+)\n+(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert all(len(section.strip()) >= 40 for section in sections.values()), "no empty section"
    assert "```" in sections["Diagnosis"], "commands"
    for target in re.findall(r"\]\(([\w./-]+\.md)", text):
        assert (RUNBOOKS / target).exists(), target


@alerts
def test_queries_of_runbooks(rule: Rule) -> None:
    text = (RUNBOOKS / f"{rule.name}.md").read_text("utf-8")
    queries = [line for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert {name for query in queries for name in metrics(query)} - KNOWN - {
        "ALERTS",
        "process_cpu_seconds_total",
    } == set()


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {rule.name for rule in ALERTS} | {"README", "XID"}


def test_the_list_of_runbooks_is_complete() -> None:
    text = (RUNBOOKS / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \|", text, re.MULTILINE))
    assert listed == {rule.name: rule.body["labels"]["severity"] for rule in ALERTS}


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
