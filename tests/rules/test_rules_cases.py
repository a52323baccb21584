"""promtool's cases of deploy/prometheus/tests: that they pass, also turned about, and that they notice mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.alertmanager import OURS
from tools.lab.programs import Release

import rules
from rules import (
    ALERTS,
    ALL,
    CASES,
    DEPLOY,
    GONE,
    READERS,
    READS,
    RECORDS,
    RULES,
    WITHOUT_CLUSTER,
    Rule,
    assert_promtool,
    checks,
    load,
    reached,
    where,
)

SINGLE = [path for path in CASES if path.stem != "clusters"]  # those that name no cluster
each_file = pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
each_single = pytest.mark.parametrize("path", SINGLE, ids=[path.stem for path in SINGLE])
# The cases as they stand run on every release. Whether they are sharp, and hold turned about, is asked of one.
one_release = pytest.mark.parametrize("release", get_args(Release)[:1], indirect=True)
other_release = pytest.mark.parametrize("release", get_args(Release)[-1:], indirect=True)


def _run_changed(folder: Path, path: Path, cases: Any, release: Release) -> None:
    """Run changed cases over the rules as they are."""
    (folder / "rules").symlink_to(DEPLOY / "rules")
    changed = folder / "tests" / path.name
    changed.parent.mkdir()
    changed.write_text(yaml.safe_dump(cases))
    assert_promtool("test", "rules", changed, release=release)


# --- the cases, and the same cases turned about -----------------------------------------------------------------------


@each_file
def test_the_cases_pass(path: Path, release: Release) -> None:
    assert_promtool("test", "rules", path, release=release)


@one_release
@each_single
def test_the_cases_pass_in_two_clusters_that_must_not_mix(path: Path, tmp_path: Path, release: Release) -> None:
    """Every series and every expected sample twice: as they stand, and with cluster="east" and the same names."""
    cases = load(path)
    for case in cases["tests"]:
        case["input_series"] += [{**item, "series": _in_cluster(item["series"])} for item in case["input_series"]]
        for check in case["promql_expr_test"]:
            if not any(f'"{name}"' in check["expr"] for name in WITHOUT_CLUSTER):
                check["exp_samples"] += [
                    {**sample, "labels": _in_cluster(sample["labels"])} for sample in check["exp_samples"]
                ]
    _run_changed(tmp_path, path, cases, release)


def _in_cluster(series: str) -> str:
    name, brace, labels = series.partition("{")
    return f'{name}{{cluster="east",{labels}' if brace else f'{name}{{cluster="east"}}'


@other_release
@each_single
def test_the_cases_pass_where_counters_are_older_than_the_first_scrape(
    path: Path, tmp_path: Path, release: Release
) -> None:
    """Every counter that never falls begins 12345 higher; but ECC errors, which are read as a level."""
    cases = load(path)
    for case in cases["tests"]:
        for item in case["input_series"]:
            name = item["series"].partition("{")[0]
            if name.endswith("_total") and name != "gpu_ecc_errors_total":
                item["values"] = _older(item["values"])
    _run_changed(tmp_path, path, cases, release)


_SEGMENT = re.compile(r"(?P<start>-?[\d.]+)(?:(?P<step>[+-][\d.]+))?(?:x(?P<more>\d+))?")


def _older(values: str) -> str:
    """The same growth from a higher start; as it stands where the counter falls, since a reset begins at nought."""
    last, older = 0.0, []
    for text in str(values).split():
        found = _SEGMENT.fullmatch(text)
        if text.startswith("_") or text == "stale":
            older.append(text)
            continue
        assert found, text
        start, step = float(found["start"]), float(found["step"] or 0)
        if start < last or step < 0:
            return str(values)
        last = start + step * int(found["more"] or 0)
        older.append(f"{start + 12345:.9g}{text[found.end('start') :]}")
    return " ".join(older)


def test_older_counters_grow_alike_and_keep_their_gaps_and_resets() -> None:
    assert _older("_x5 0+6.5x10 65x3 66") == "_x5 12345+6.5x10 12410x3 12411"
    assert _older("7x20 1x9") == "7x20 1x9"


@one_release
@each_file
def test_nothing_fires_about_machines_that_are_gone(path: Path, tmp_path: Path, release: Release) -> None:
    """A hundred minutes after the last sample, longer than any range and any keep_firing_for of an alert."""
    cases = load(path)
    step = max(int(cases["evaluation_interval"].removesuffix("m")), 5)
    cases["evaluation_interval"] = f"{step}m"  # seldom, which is all that is needed here and takes less time
    others = "|".join(sorted(GONE))
    for case in cases["tests"]:
        assert case["interval"] == "1m"
        end = max(_length(item["values"]) for item in case["input_series"]) + 100
        check = {"expr": f'ALERTS{{alertname!~"{others}"}}', "exp_samples": []}
        # Between two evaluations ALERTS may be stale.
        case["promql_expr_test"] = [{**check, "eval_time": f"{end + -end % step}m"}]
    _run_changed(tmp_path, path, cases, release)


def _length(values: str) -> int:
    """How many samples a series has, or one more for each of its segments."""
    return sum(int(text.partition("x")[2] or 0) + 1 for text in str(values).split())


@pytest.mark.parametrize("cluster", ["", "lab"])
def test_what_a_service_that_takes_idle_gpus_back_is_told(cluster: str, tmp_path: Path, release: Release) -> None:
    """The annotations state and score: of that very GPU, and an empty score where it has none."""
    tree = load(DEPLOY / "rules/alerts-usage.yml")
    for group in tree["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert", "").startswith("GPUIdleHeld")]
        for rule in group["rules"]:
            rule["annotations"] = {name: rule["annotations"][name] for name in ("state", "score")}
    recorded = "instance_gpu:gpu_score:ratio", "instance_gpu_owner:gpu_owner_memory_used_bytes:idle_held"
    place = {**({"cluster": cluster} if cluster else {}), "instance": 'n"1', "model": "H100"}
    held = [{**place, "gpu": gpu, "uuid": f"G{gpu}", "owner_kind": "user", "owner": "ann"} for gpu in "01"]
    others = {**place, "cluster": "other", "gpu": "0", "uuid": "G0"}, {**place, "gpu": "2", "uuid": "G2"}
    series = [
        *((recorded[1], labels, 9) for labels in held),
        (recorded[0], {**place, "gpu": "0", "uuid": "G0"}, 0.0312),
        *((recorded[0], labels, 0.9) for labels in others),
    ]
    told = [{"state": "idle_held", "score": score} for score in ("0.031", "")]
    cases = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15m",
        "tests": [
            {
                "interval": "15m",
                "input_series": [
                    {"series": f"{name}{{{_matchers(labels)}}}", "values": f"{value}x120"}
                    for name, labels, value in series
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "24h",
                        "alertname": name,
                        "exp_alerts": [
                            {"exp_labels": {**labels, **OURS, "severity": severity}, "exp_annotations": annotations}
                            for labels, annotations in zip(held, told, strict=True)
                        ],
                    }
                    for name, severity in (("GPUIdleHeld", "info"), ("GPUIdleHeldLong", "warning"))
                ],
            }
        ],
    }
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(tree))
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases))
    assert_promtool("test", "rules", tmp_path / "cases.yml", release=release)


def test_an_xid_is_not_its_own_cause(tmp_path: Path, release: Release) -> None:
    """Ages have more digits than a number in a query is written with: its own age is above that as well."""
    tree = load(DEPLOY / "rules/alerts-health.yml")
    told_of = "instance_gpu:gpu_xid_age_seconds:min"
    wanted = reached({"GPUXidCritical"}, READS) - {told_of}
    every = (rule for group in tree["groups"] for rule in group["rules"])
    found = [rule for rule in every if (rule.get("record") or rule["alert"]) in wanted]
    alert = found[-1]
    alert["annotations"] = {"description": alert["annotations"]["description"]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "xid", "rules": found}]}))
    place = {"instance": "n1", "gpu": "0", "uuid": "G0", "model": "H100"}
    series = [(place, "79", "52.9400004"), ({**place, "uuid": "G1"}, "79", "52.9400004"), (place, "63", "60")]
    told = [
        {
            "exp_labels": {**labels, **OURS, "severity": "critical", "xid": xid},
            "exp_annotations": {
                "description": f"GPU 0 (H100) of n1 reported XID 79 52.94s ago. {before}Its work is lost or suspect: "
                "stop scheduling to it and act by the class of the XID (docs/runbooks/XID.md)."
            },
        }
        for (labels, xid, _), before in zip(
            series[:2], ("Before it came 63: the first of a burst is the cause. ", ""), strict=True
        )
    ]
    case = {
        "interval": "1m",
        "input_series": [
            {
                "series": f"{told_of}{{{_matchers({**labels, 'xid': xid})}}}",
                "values": f"{age}x5",
            }
            for labels, xid, age in series
        ],
        "alert_rule_test": [{"eval_time": "2m", "alertname": "GPUXidCritical", "exp_alerts": told}],
    }
    (tmp_path / "cases.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    assert_promtool("test", "rules", tmp_path / "cases.yml", release=release)


def _matchers(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())


# --- that the cases notice mistakes -----------------------------------------------------------------------------------

# What a comparison compares with. Other numbers turn units into others; changing both could change nothing.
_THRESHOLD = re.compile(r"(?<=[<>=] )(\d+(?:\.\d+)?)\b|(?<=\* )(0\.\d+)\b")


def _scaled(rule: dict[str, Any], factor: float) -> None:
    rule["expr"] = _THRESHOLD.sub(lambda number: repr(float(number[0]) * factor), rule["expr"])


_FLAG = re.compile(r"(?:==|>|<) (?:[01]\b|(?=gpu_))")


def _easily_met(rule: dict[str, Any]) -> None:
    """Let every healthy GPU pass comparisons with a flag, with a count of nothing, and of one metric with another."""
    rule["expr"] = _FLAG.sub(lambda found: ">= 0" if found[0][-1] in "01" else f"{found[0][0]}= ", rule["expr"])


def _without_wait(rule: dict[str, Any]) -> None:
    rule.pop("for", None)


def _with_longer_wait(rule: dict[str, Any]) -> None:
    if "for" in rule:
        wait, unit = int(rule["for"][:-1]), rule["for"][-1]
        rule["for"] = f"{wait * {'m': 60, 'h': 3600, 'd': 86400}[unit] * 3 // 2}s"


def _not_kept(rule: dict[str, Any]) -> None:
    rule.pop("keep_firing_for", None)


def _measures(expr: str) -> bool:
    """Whether it compares with a measure; between flags and counts (0, 1) there is nothing to stand on either side."""
    return any(float(number[0]) not in {0, 1} for number in _THRESHOLD.finditer(expr))


def _less_or_easily_met(rule: dict[str, Any]) -> None:
    """One of the two, so that one run of promtool does for both."""
    if _measures(rule["expr"]):
        _scaled(rule, 0.85)
    else:
        _easily_met(rule)


def _whole(alert: Rule) -> str:
    """The expression with those of the records in the same file that it is made of: there is the threshold of many."""
    expr = alert.expr
    for record in reversed([record for record in RECORDS if record.file == alert.file]):
        if record.name in expr:
            expr += "\n" + record.expr
    return expr


MEASURES = {rule.name for rule in ALERTS if _measures(_whole(rule))}
FLAGS = {rule.name for rule in ALERTS if _FLAG.search(_whole(rule))} - MEASURES
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], None], set[str]]] = {
    "15 % more": (lambda rule: _scaled(rule, 1.15), MEASURES),
    "15 % less, flags easily met": (_less_or_easily_met, MEASURES | FLAGS),
    "no wait": (_without_wait, {rule.name for rule in ALERTS if "for" in rule.body}),
    "half as long again a wait": (_with_longer_wait, {rule.name for rule in ALERTS if "for" in rule.body}),
    "not kept": (_not_kept, {rule.name for rule in ALERTS if "keep_firing_for" in rule.body}),
}

_EITHER_SIDE = "add series within 15 % on either side of the threshold, one that fires and one that does not"
_HEALTHY = "add a healthy GPU (0 where a flag is meant, no more than what it is compared with) that must not fire"
WANTED = {
    "15 % more": _EITHER_SIDE,
    "15 % less, flags easily met": f"{_EITHER_SIDE}; or, where there is no threshold, {_HEALTHY}",
    "no wait": "add a check just before `for` has passed, with exp_samples: []",
    "half as long again a wait": "add a check as soon as `for` has passed, which fires",
    "not kept": "add a check within keep_firing_for of the end, which still fires",
}


def test_every_alert_but_the_watchdog_can_be_mistaken() -> None:
    assert {rule.name for rule in ALERTS} - set().union(*(names for _, names in MISTAKES.values())) == {"Watchdog"}


def _noticed(folder: Path, change: Callable[[dict[str, Any]], None], wanted: set[str], release: Release) -> set[str]:
    """The alerts with a case that fails when every alert has the mistake; looks only where the wanted ones are."""
    (folder / "rules").mkdir()
    (folder / "tests").symlink_to(DEPLOY / "tests")
    for path in RULES:
        tree = load(path)
        for group in tree["groups"]:
            for rule in group["rules"]:
                if path.stem.startswith("alerts-"):  # records beside the alerts are parts of these
                    change(rule)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(tree))
    noticed: set[str] = set()
    # Each file's own cases first; those of several files work all rules out for days, and are asked only for the rest.
    for several in (False, True):
        missed = wanted - noticed
        names = [
            path.name
            for path in CASES
            if path.stem.startswith("alerts-") is not several
            and any(f'"{name}"' in path.read_text("utf-8") for name in missed)
        ]
        if names:
            done = rules.promtool("test", "rules", *(folder / "tests" / name for name in names), release=release)
            told = done.stdout + done.stderr
            noticed |= set(re.findall(r'^\s*expr: ".*?alertname=\\"(\w+)\\"', told, re.MULTILINE))
    return noticed


@one_release
@pytest.mark.parametrize("mistake", MISTAKES)
def test_cases_notice_a_mistake_in_every_alert(mistake: str, tmp_path: Path, release: Release) -> None:
    """Boundaries and waits: a case stands on either side of each."""
    change, wanted = MISTAKES[mistake]
    assert wanted
    missed = wanted - _noticed(tmp_path, change, wanted, release)
    told = "\n".join(where(rule) for rule in ALERTS if rule.name in missed)
    assert missed == set(), f"deploy/prometheus/tests: no case notices {mistake}; {WANTED[mistake]}, of\n{told}"


def _mistaken(folder: Path, rule: Rule, kept: set[str], mistake: str) -> None:
    """Write the rules of these names, with the mistake in one of them."""
    folder.mkdir(parents=True)
    for path in RULES:
        groups = load(path)["groups"]
        for group in groups:
            group["rules"] = [other for other in group["rules"] if (other.get("record") or other["alert"]) in kept]
            for other in group["rules"]:
                if other.get("record") == rule.name and path.name == rule.file:
                    other["expr"] = mistake.format(other["expr"])
        (folder / path.name).write_text(yaml.safe_dump({"groups": [group for group in groups if group["rules"]]}))


def _asking(folder: Path, names: set[str], paths: list[Path]) -> list[Path]:
    """Write what of these cases asks for one of these rules."""
    folder.mkdir(parents=True)
    asks = re.compile(rf"(?<![\w:])(?:{'|'.join(map(re.escape, sorted(names)))})(?![\w:])")
    written = []
    for path in paths:
        cases = load(path)
        for case in cases["tests"]:
            case["promql_expr_test"] = [check for check in case["promql_expr_test"] if asks.search(check["expr"])]
        cases["tests"] = [case for case in cases["tests"] if case["promql_expr_test"]]
        if cases["tests"]:
            (folder / path.name).write_text(yaml.safe_dump(cases))
            written.append(folder / path.name)
    return written


@one_release
@pytest.mark.parametrize("rule", RECORDS, ids=[rule.name for rule in RECORDS])
def test_cases_notice_a_mistake_in_every_recording_rule(rule: Rule, tmp_path: Path, release: Release) -> None:
    """In what is recorded of what is read, each by itself: working all rules out for each mistake would take long."""
    shared = rule.file == "recording.yml"
    # A part of alerts is looked at by them only: without it they fail.
    mistake = "1.1 * ({})" if shared else "({}) > +Inf"
    asked = {other.name for other in ALL if other.file == rule.file and other.alert is not shared}
    asked &= reached({rule.name}, READERS)
    cases = [path for path in CASES if f"rules/{rule.file}" in path.read_text("utf-8")]
    if shared:
        cases = [path for path in cases if path.stem in {"recording", "alerts-usage-day"}]
    for name, wrong in (("right", "{}"), ("wrong", mistake)):
        _mistaken(tmp_path / name / "rules", rule, reached(asked | {rule.name}, READS), wrong)
        asking = _asking(tmp_path / name / "tests", asked, cases)
        assert asking, f"{where(rule)}: no case asks for it"
        done = rules.promtool("test", "rules", *asking, release=release)
        told = done.stdout + done.stderr
        assert (name == "wrong") == ("FAILED" in told) == (done.returncode != 0), (
            f"{where(rule)}: {name}\n{told[-2000:]}"
        )


# --- coverage ---------------------------------------------------------------------------------------------------------


def _minutes(time: str) -> float:
    found = re.fullmatch(r"(\d+)m", time)
    assert found, f"{time}: write minutes, so that times compare"
    return float(found[1])


def _missing_cases(asked: list[Rule], found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What no case shows of which rule."""
    missing = []
    for rule in asked:
        if not rule.alert:
            if rule.file.startswith("alerts-"):  # a part of the alerts beside it
                continue
            pattern = re.compile(rf"(?<![\w:]){re.escape(rule.name)}(?![\w:])")
            if not any(pattern.search(check["expr"]) and check["exp_samples"] for _, check in found):
                missing.append(f"{rule.name}: a value")
            continue
        mine = [(case, check) for case, check in found if f'alertname="{rule.name}"' in check["expr"]]
        fired = [(case, _minutes(check["eval_time"]), len(check["exp_samples"])) for case, check in mine]
        if not any(count for _, _, count in fired):
            missing.append(f"{rule.name}: fires")
        if rule.name == "Watchdog":
            continue
        if not any(
            case == other and when < later and more > fewer
            for case, when, more in fired
            for other, later, fewer in fired
        ):
            missing.append(f"{rule.name}: resolves")
        if "for" in rule.body and not any(
            case == other and when < later and fewer < more
            for case, when, fewer in fired
            for other, later, more in fired
        ):
            missing.append(f"{rule.name}: waits for {rule.body['for']}")
    return missing


def test_every_rule_has_cases() -> None:
    missing = _missing_cases(rules.ALL, list(checks(CASES)))
    assert missing == [], (
        f"{DEPLOY.relative_to(ROOT)}/tests/alerts-….yml: add cases that show, of each alert, where it fires, where it "
        'does not yet and where no longer, as checks of: \'ALERTS{alertname="…",alertstate="firing"}\'\n'
        + "\n".join(missing)
    )


def test_a_rule_without_cases_is_found() -> None:
    new = Rule("x.yml", "x", "GPUNew", "gpu_up == 2", {"alert": "GPUNew", "for": "5m"})
    record = Rule("x.yml", "x", "instance:gpu_new:sum", "sum(gpu_up)", {"record": "instance:gpu_new:sum"})
    found = _missing_cases([new, record], list(checks(CASES)))
    assert found == ["GPUNew: fires", "GPUNew: resolves", "GPUNew: waits for 5m", "instance:gpu_new:sum: a value"]


def test_cases_name_only_rules_that_exist() -> None:
    names = {rule.name for rule in ALERTS}
    named = {name for _, check in checks(CASES) for name in re.findall(r'alertname="(\w+)"', check["expr"])}
    assert sorted(named - names) == [], "deploy/prometheus/tests: cases of alerts that no rule has"
