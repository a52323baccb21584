"""What a parser of PromQL sees in the rules: labels that reach an alert's words, joins, counters, windows, patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import promql_parser as promql

from gpu_exporter.catalog import CATALOG
from rules import ALERTS, ALL, RECORDS, Rule, where

# Every target may have these, of nodes.yml or by discovery; a federated or replicated one has cluster.
TARGET = {"cluster", "instance", "job", "alias", "rack", "standby"}
GPU = {"gpu", "uuid", "model"}
# What gpu_info and gpu_driver_info tell by labels.
INFO = {
    *("architecture", "vbios_version", "driver_version", "cluster_uuid", "clique", "serial", "bus_id"),
    *("chassis_serial", "slot", "tray", "host", "module"),
}
# Series of others.
FOREIGN = {
    "ALERTS": {
        *TARGET,
        *GPU,
        "alertname",
        "alertstate",
        "severity",
        "bundle",
        "was",
        "owner",
        "owner_kind",
        "namespace",
    },
    "alertmanager_notifications_total": {*TARGET, "integration"},
    "alertmanager_notifications_failed_total": {*TARGET, "integration", "reason"},
}
NODE = {*TARGET, "device", "port", "mountpoint", "fstype", "diagnostic", "gpu", "uuid", "test"}
# Counters whose level is the message (GPUEccUncorrected).
LEVELS = {"gpu_ecc_errors_total"}
RANGES = {"rate", "increase", "irate", "delta", "deriv"}
SCRAPE = 120.0  # seconds between two scrapes at most (GPUScrapeIntervalTooLong)


def _catalogue() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for metric in CATALOG:
        labels = {*TARGET, *(name for name, _ in metric.labels), *metric.dynamic}
        if not metric.name.startswith("gpu_exporter_"):
            labels |= GPU
        if metric.name.endswith("_info"):
            labels |= INFO
        found.setdefault(metric.name, set()).update(labels)
    return found


SERIES = {**_catalogue(), **FOREIGN}
EVERY = set().union(*SERIES.values(), NODE)
BY_NAME = {rule.name: rule for rule in RECORDS}


def parts(node: Any) -> Iterator[Any]:
    """The expression and everything in it."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from parts(inner)
    for inner in getattr(node, "args", ()):
        yield from parts(inner)


@cache
def parsed(expr: str) -> Any:
    return promql.parse(expr)


def _listed(modifier: Any) -> tuple[str, set[str]]:
    """The word and the labels of ``by (a, b)`` and the like."""
    found = re.fullmatch(r"(\w+) \((.*)\)", str(modifier))
    assert found, modifier
    return found[1], set(filter(None, found[2].split(", ")))


def labels(node: Any) -> tuple[set[str], set[str]]:
    """Which labels the result may have, and which of them all of its branches (of ``or``) may have."""
    kind = type(node).__name__
    if kind in {"VectorSelector", "MatrixSelector"}:
        name = node.name if kind == "VectorSelector" else node.vector_selector.name
        if name in BY_NAME:
            return _labels_of_record(name)
        found = set(SERIES.get(name) or (NODE if name.startswith(("node_", "gpu_diagnostic_")) else TARGET))
        return found, found
    if kind == "AggregateExpr":
        may, all_may = labels(node.expr)
        if node.op in {"topk", "bottomk"}:
            return may, all_may
        word, listed = _listed(node.modifier) if node.modifier else ("by", set())
        more = {node.param.val} if node.op == "count_values" else set()
        if word == "by":
            return may & listed | more, all_may & listed | more
        return may - listed | more, all_may - listed | more
    if kind == "BinaryExpr":
        return _labels_of_both(node)
    if kind == "Call":
        name = node.func.name
        if name == "absent" or not node.args:
            return set(), set()
        may, all_may = labels(node.args[0])
        more = {node.args[1].val} if name == "label_replace" else set()
        return may | more, all_may | more
    if kind in {"ParenExpr", "UnaryExpr", "SubqueryExpr"}:
        return labels(node.expr)
    return set(), set()


def _labels_of_both(node: Any) -> tuple[set[str], set[str]]:
    left, right = labels(node.lhs), labels(node.rhs)
    op, modifier = str(node.op), node.modifier
    if op == "or":
        return left[0] | right[0], left[1] & right[1]
    if op in {"and", "unless"}:
        return left
    if _is_scalar(node.lhs):
        return right
    card = str(modifier.card) if modifier else ""
    if card.endswith("ManyToOne"):
        more = set(modifier.group_labels or ())
        return left[0] | more, left[1] | more
    if card.endswith("OneToMany"):
        more = set(modifier.group_labels or ())
        return right[0] | more, right[1] | more
    if modifier and modifier.matching:
        word, listed = _listed(modifier.matching)
        if word == "on":
            return left[0] & listed, left[1] & listed
        return left[0] - listed, left[1] - listed
    return left


def _is_scalar(node: Any) -> bool:
    if type(node).__name__ == "ParenExpr":
        return _is_scalar(node.expr)
    return type(node).__name__ == "NumberLiteral" or (type(node).__name__ == "Call" and node.func.name == "time")


_ENTERED: list[str] = []


def _labels_of_record(name: str) -> tuple[set[str], set[str]]:
    """Those of what it records; where it reads itself, it brings nothing that is not there already."""
    if name in _ENTERED:
        return set(), EVERY
    _ENTERED.append(name)
    try:
        return labels(parsed(BY_NAME[name].expr))
    finally:
        _ENTERED.pop()


# Neither has a label of a target: what they tell of is not there.
NO_LABELS = {"GPUExporterAbsent", "GPUExporterNeverSeen", "Watchdog"}


def test_the_words_of_an_alert_name_labels_that_it_has() -> None:
    """A label that the expression dropped is an empty place in a mail."""
    wrong = [f"{where(rule)}: {why}" for rule in ALERTS if rule.name not in NO_LABELS for why in _wrong_words(rule)]
    assert wrong == []


def _wrong_words(rule: Rule) -> list[str]:
    words = " ".join(rule.annotations.values())
    # What is asked for first (`with`, `or`, `if`) may be missing.
    optional = set(re.findall(r"(?:with|or|if) (?:or )?\$labels\.(\w+)", words))
    optional |= set(re.findall(r"\(or \$labels\.(\w+) \"\"\)", words)) | {"cluster"}
    used = set(re.findall(r"\$labels\.(\w+)", words))
    may, all_may = labels(parsed(rule.expr))
    return [
        *(f"the expression has no label {label}" for label in sorted(used - may)),
        *(f"a branch of `or` has no label {label}" for label in sorted(used - optional - all_may)),
    ]


def test_what_is_joined_by_is_there_on_both_sides() -> None:
    """A label that one side cannot have never matches where the other has it."""
    assert [f"{where(rule)}: {why}" for rule in ALL for why in _wrong_joins(rule)] == []


def _wrong_joins(rule: Rule) -> list[str]:
    wrong = []
    for node in parts(parsed(rule.expr)):
        modifier = getattr(node, "modifier", None)
        if type(node).__name__ != "BinaryExpr" or not modifier or not modifier.matching:
            continue
        word, listed = _listed(modifier.matching)
        for side in (node.lhs, node.rhs):
            lacks = listed - labels(side)[0] if word == "on" else set()
            wrong += [f"{label} in {str(side)[:80]}" for label in sorted(lacks)]
        more = set(modifier.group_labels or ())
        one = node.rhs if str(modifier.card).endswith("ManyToOne") else node.lhs
        wrong += [f"{label} to take from {str(one)[:80]}" for label in sorted(more - labels(one)[0])]
    return wrong


def test_counters_are_read_as_growth_and_gauges_as_levels() -> None:
    """rate() of a gauge is nonsense, and the level of a counter says when the exporter started."""
    assert [f"{where(rule)}: {why}" for rule in ALL for why in _wrong_reads(rule)] == []


def _wrong_reads(rule: Rule) -> list[str]:
    kinds = {metric.name: metric.kind for metric in CATALOG}
    wrong = []
    for node in parts(parsed(rule.expr)):
        if type(node).__name__ != "Call":
            continue
        for inner in node.args:
            if type(inner).__name__ == "MatrixSelector":
                name = inner.vector_selector.name
                counter = kinds.get(name) == "counter" or name.endswith("_total")
                if node.func.name in RANGES:
                    if not counter and node.func.name != "deriv":
                        wrong.append(f"{node.func.name}() of {name}, which is no counter")
                    if inner.range.total_seconds() < 2 * SCRAPE:
                        wrong.append(f"{node.func.name}() of {name} over less than two scrapes of {SCRAPE:g} s")
    direct = re.sub(r"\b(?:rate|increase|changes)\s*\((?:[^()]|\([^()]*\))*\)", "", rule.expr)
    wrong += [
        f"{name} is a counter, and read as a level"
        for name in re.findall(
            r"(?<![\w:])(\w+_total)\b(?!\[)", re.sub(r"count (?:by|without) \([^)]*\) \(\w+\)", "", direct)
        )
        if name not in LEVELS and name in kinds
    ]
    return wrong


def test_patterns_are_patterns() -> None:
    """A regular expression without any is slower than ``=`` and hides a mistake; one is anchored as it stands."""
    assert [f"{where(rule)}: {why}" for rule in ALL for why in _wrong_patterns(rule)] == []


def _wrong_patterns(rule: Rule) -> list[str]:
    wrong = []
    for node in parts(parsed(rule.expr)):
        for matcher in node.matchers.matchers if type(node).__name__ == "VectorSelector" else ():
            if str(matcher.op).endswith(("Re", "NotRe")):
                if not re.search(r"[|.*+?\[(]", matcher.value):
                    wrong.append(f'{matcher.name}=~"{matcher.value}" has no pattern: write =')
                if matcher.value.startswith("^") or matcher.value.endswith("$"):
                    wrong.append(f'{matcher.name}=~"{matcher.value}" is anchored as it stands')
                if "" in matcher.value.split("|"):
                    wrong.append(f'{matcher.name}=~"{matcher.value}" matches what is not there')
    return wrong


def _decides(expr: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether something in it can be false: a comparison, an absence, or a recording rule that is as sparse."""
    for node in parts(parsed(expr)):
        kind = type(node).__name__
        compares = kind == "BinaryExpr" and str(node.op) in {"==", "!=", ">", "<", ">=", "<=", "unless"}
        if compares and not (node.modifier and node.modifier.return_bool):
            return True
        if kind == "Call" and node.func.name == "absent":
            return True
        name = getattr(node, "name", None) if kind == "VectorSelector" else None
        if name in BY_NAME and name not in seen and _decides(BY_NAME[name].expr, seen | {name}):
            return True
        if kind == "VectorSelector" and name == "ALERTS":
            return True
    return False


def test_an_alert_can_be_silent() -> None:
    """An expression without a comparison fires for whatever has the series."""
    assert [rule.name for rule in ALERTS if not _decides(rule.expr)] == ["Watchdog"]


def test_mistakes_are_seen() -> None:
    """The checks themselves: what each of them is there for."""
    may, all_may = labels(parsed("max by (instance) (gpu_power_watts) > 5 or gpu_up == 0"))
    assert "model" in may
    assert "model" not in all_may
    joined = parsed("gpu_up * on (gpu, fan) group_left (owner) gpu_power_watts")
    assert "fan" not in labels(joined.lhs)[0]
    assert "owner" not in labels(joined.rhs)[0]
    assert labels(parsed("gpu_up / on (instance) up"))[0] == {"instance"}
    assert labels(parsed("sum without (gpu) (gpu_up)"))[0] == {*TARGET, *GPU} - {"gpu"}
    assert labels(parsed('label_replace(up, "setting", "x", "", "")'))[0] == {*TARGET, "setting"}
    gauge = Rule("recording.yml", "x", "x", "rate(gpu_power_watts[5m]) + gpu_busy_seconds_total", {"record": "x"})
    assert len(_wrong_reads(gauge)) == 2
    assert len(_wrong_reads(replace(gauge, expr="rate(gpu_busy_seconds_total[1m])"))) == 1
    assert len(_wrong_joins(replace(gauge, expr="gpu_up * on (gpu, fan) group_left (owner) gpu_power_watts"))) == 3
    assert len(_wrong_patterns(replace(gauge, expr='gpu_up{gpu=~"3"} or gpu_up{gpu=~"^1|2"}'))) == 2
    assert not _decides("gpu_power_watts")
    assert not _decides("gpu_power_watts > bool 5")
    assert _decides("gpu_power_watts > 5")
