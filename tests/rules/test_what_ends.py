"""Which alerts end though nothing has changed: what happened once, what is counted, and what is gone; no state does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import Release

from rules import ALERTS, CASES, DEPLOY, load, promtool

# Minutes for which all stands as it was when an alert fired: longer than the six hours that most is remembered for.
_STANDS = 8 * 60
_SEGMENT = re.compile(r"(?P<start>_|-?[\d.]+(?:e-?\d+)?)(?P<step>[+-][\d.]+)?(?:x(?P<more>\d+))?")

# What happened once. It ends when that is an hour ago, or a day; nothing says that it is well: mails call it expired.
HAPPENED = {
    "GPUXidCritical",
    "GPUXidWarning",
    "GPUXidUnknown",
    "GPUEventCritical",
    "GPUEventWarning",
    "GPUNVSwitchFatal",
    "GPUNVSwitchFault",
    "GPUXidRepeatedAcrossOwners",  # a day
}
# What is gone, and taken to be out of service after six hours: expired as well, where its words say that it is gone.
GONE = {"GPUHostVanished", "GPUFleetUnwatched", "GPULost", "GPUMissing"}
EXPIRING = "not scraped any more|no targets any more|not listed any more|within the last 6 hours"
# What is counted, or moves: a counter that is read and does not grow any more is the reading that says so.
COUNTED = {
    *("GPUNVLinkCrcErrors", "GPUNVLinkCrcStorm", "GPUNVLinkReplayErrors", "GPUPCIeAerErrors", "GPUPCIeReplaysHigh"),
    *(
        "GPUEccCorrectedStorm",
        "GPUReadErrors",
        "GPUReadingsPartial",
        "GPUCollectionOverrunning",
        "GPUExporterDuplicate",
    ),
    *("GPUHardwareSlowdown", "GPUHardwareSlowdownLong", "GPUThermalSlowdown", "GPUSwThermalSlowdown", "GPUPowerBrake"),
    *("GPUHostLinkErrors", "GPUHostLinkFailing", "GPUAlertmanagerMailFailing", "GPUAlertmanagerSomeMailFailing"),
    *("GPUIdleHeld", "GPUIdleHeldLong", "GPUJobStalled", "GPUStraggler", "GPUPowerBelowSiblings"),
    "GPUHostClockOff",  # a clock of which no reading comes is GPUCollectionStale
    "GPUScrapeIntervalTooLong",  # scrapes come
}


def _values(text: str, minutes: int) -> list[str]:
    """The values of a series, one a minute, up to and with a minute."""
    values: list[str] = []
    for part in str(text).split():
        if part == "stale":
            values.append(part)
            continue
        found = _SEGMENT.fullmatch(part)
        assert found, part
        if found["start"] == "_":
            values += ["_"] * int(found["more"] or 1)
            continue
        start, step = float(found["start"]), float(found["step"] or 0)
        values += [repr(start + number * step) for number in range(int(found["more"] or 0) + 1)]
    return values[: minutes + 1]


def _standing(case: dict[str, Any], alert: str, minute: int) -> dict[str, Any]:
    """The case up to this minute, and then as it is; asked whether the alert has ended."""
    series = []
    for item in case["input_series"]:
        values = _values(item["values"], minute)
        if len(values) > minute and values[-1] not in {"_", "stale"}:
            values.append(f"{values[-1]}x{_STANDS}")
        series.append({"series": item["series"], "values": " ".join(values)})
    asked = {"expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}', "eval_time": f"{minute + _STANDS}m"}
    return {"interval": "1m", "input_series": series, "promql_expr_test": [{**asked, "exp_samples": []}]}


def _firing() -> dict[str, tuple[Path, dict[str, Any]]]:
    """By alert: the first of its cases in which it fires, made to stand."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in CASES:
        for case in load(path)["tests"]:
            for check in case["promql_expr_test"]:
                named = re.fullmatch(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', check["expr"])
                if named and check["exp_samples"] and case["interval"] == "1m" and named[1] not in found:
                    found[named[1]] = path, _standing(case, named[1], int(check["eval_time"][:-1]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("release", get_args(Release)[:1], indirect=True)
@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_no_state_ends_because_time_has_passed(path: Path, tmp_path: Path, release: Release) -> None:
    cases = {alert: case for alert, (file, case) in _firing().items() if file == path}
    (tmp_path / "rules").symlink_to(DEPLOY / "rules")
    (tmp_path / "tests").mkdir()
    file = tmp_path / "tests" / path.name
    file.write_text(yaml.safe_dump({**load(path), "evaluation_interval": "5m", "tests": list(cases.values())}))
    done = promtool("test", "rules", file, release=release)
    stand = set(re.findall(r'^\s*expr: ".*?alertname=\\"(\w+)\\"', done.stdout + done.stderr, re.MULTILINE))
    assert stand <= set(cases), done.stdout + done.stderr
    assert bool(stand) == bool(done.returncode), done.stdout + done.stderr
    assert set(cases) - stand <= HAPPENED | GONE | COUNTED


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert set(_firing()) == {rule.name for rule in ALERTS}
    assert {rule.name for rule in ALERTS} >= HAPPENED | GONE | COUNTED
    assert len(HAPPENED | GONE | COUNTED) == len(HAPPENED) + len(GONE) + len(COUNTED)


def test_the_mails_expire_what_happened_and_what_is_gone_and_no_more() -> None:
    """The condition stands in the template wherever it is asked, since a template cannot hand one on."""
    text = (ROOT / "deploy/alertmanager/templates/email.tmpl").read_text("utf-8")
    found = set(
        re.findall(r'or \(match "(\^GPU[^"]+)" \.Labels\.alertname\) \(and \(ge [^"]*match "(\^GPU[^"]+)"', text)
    )
    ((happened, gone),) = found
    assert {rule.name for rule in ALERTS if re.search(happened, rule.name)} == HAPPENED
    assert {rule.name for rule in ALERTS if re.search(gone, rule.name)} == GONE
    # What is gone says so in words of its rule.
    assert set(re.findall(r'\(match "([^"^]+)" \(print \.Annotations\.description\)\)', text)) == {EXPIRING}
    for rule in ALERTS:
        if rule.name in GONE:
            assert re.search(EXPIRING, re.sub(r"\s+", " ", rule.annotations["description"])), rule.name


@pytest.mark.parametrize("release", get_args(Release)[:1], indirect=True)
@pytest.mark.parametrize(
    ("after", "words"),
    [
        (["stale"] * 4, "4 machines are not watched.* 4 are no targets any more"),
        (["stale", "stale", "stale", "0x60"], "4 machines are not watched.* 3 are no targets any more"),
        (["stale", "stale", "0x60", "0x60"], "4 machines are not watched"),
        (["0x60"] * 4, "4 machines are not watched"),
    ],
    ids=["all are gone", "most are gone", "few are gone", "none answers"],
)
def test_a_fleet_is_gone_where_that_alone_would_have_been_told(
    after: list[str], words: str, tmp_path: Path, release: Release
) -> None:
    """When those that do not answer are back, the alert ends because they are: that is no expiry."""
    values = [f"1x70 {each}" for each in after] + ["1x140"] * 6
    series = [{"series": f'up{{job="gpu-exporter",instance="h{number}"}}', "values": value}
              for number, value in enumerate(values)]  # fmt: skip
    asked = {"alertname": "GPUFleetUnwatched", "eval_time": "90m", "exp_alerts": []}
    case = {"interval": "1m", "input_series": series, "alert_rule_test": [asked]}
    tree = {"rule_files": [str(DEPLOY / "rules/alerts-exporter.yml")], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "fleet.yml").write_text(yaml.safe_dump(tree))
    told = promtool("test", "rules", tmp_path / "fleet.yml", release=release)
    text = re.sub(r"\s+", " ", told.stdout + told.stderr)
    assert re.search(words, text), text
    assert bool(re.search(EXPIRING, text)) == ("no targets" in words), text
