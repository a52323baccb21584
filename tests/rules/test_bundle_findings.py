"""What deploy/ got wrong on fleets when it was played through, and what holds each mended.

Thirty-five kinds of mistakes, found on Prometheus 3.16 and Alertmanager 0.35. A line in quotes with blanks is a case of
promtool in deploy/prometheus/tests; a name is a test.
"""

from __future__ import annotations

import re

from tools.lab import ROOT

from rules import CASES, load

FINDINGS: dict[str, tuple[str, ...]] = {
    "a restart of an exporter resolves alerts": (
        "exporters that are restarted, killed, or lose a scrape; nothing is healed by that",
        "an exporter that was down and is then no target any more, one that goes in a rollout, one that comes back",
        "test_an_exporter_that_is_restarted_heals_nothing",
        "test_what_only_expired_is_no_all_clear",
    ),
    "a dead machine is milder than a dead GPU": ("no GPU can be read any more, whatever the reason",),
    "a machine that leaves service discovery is not told": ("a machine that leaves service discovery",),
    "two hundred exporters are two hundred mails": (
        "a fifth of a fleet at once, and the half that comes back",
        "a third of a fleet that is no target any more is one alert as long as its machines are",
        "test_a_fleet_that_is_not_watched_is_one_mail",
    ),
    "a permanent critical mutes everything of its GPU": ("how many links a board is to have", "test_inhibition"),
    "the mail about a lost GPU does not say why": ("test_inhibition", "test_from_the_gpu_to_the_mailbox"),
    "a machine's clock decides whether XIDs fire": (
        "a machine whose clock is two hours behind, and one whose clock is ahead",
    ),
    "what ends in a muted hour is never told": ("a warning that came and went in the night",),
    "a GPU that hangs for a part of every few minutes flaps": (
        "a GPU that hangs for a part of every few minutes is one alert",
    ),
    "stragglers by the median": (
        "half of a job is slow",
        "learners and rollouts of one job, some that wait, and one reward model",
    ),
    "a stalled job by the share of the limit in force": ("GPUs that spin, by what the board draws when idle",),
    "the digest measures Sunday": ("the digest of a Monday tells of the week",),
    "a margin that swings never fires": ("a margin that swings about five degrees",),
    "a storm of corrected errors is silent": ("a storm of corrected errors",),
    "a shard without GPUs alerts for ever": ("no exporter, and there never was one - a shard without GPUs",),
    "long scrape intervals make rates blind": (
        "exporters that are scraped too seldom",
        "rates hold at a scrape every two minutes",
    ),
    "a pair of Prometheus tells everything twice": (
        "a GPU that is told of twice counts once",
        "test_alerts_of_a_pair_of_prometheus_are_one",
    ),
    "federation leaves boards empty": (
        "test_federation_brings_what_the_dashboards_read",
        "test_the_dashboards_work_on_a_prometheus_above",
    ),
    "two exporters under the same labels": (
        "two exporters that report as one",
        "two exporters under the same labels do not make more than there is",
    ),
    "two releases on one node double sums": ("a GPU that is told of twice counts once",),
    "vmalert never records the day": (
        "test_what_is_recorded_seldom_is_read_over_a_range",
        "test_who_reads_the_mailbox_knows_what_is_true",
    ),
    "mails are too long for Gmail": (
        "test_no_mail_is_cut_off",
        "test_equal_alerts_are_one_block_in_the_order_of_numbers",
    ),
    "idle for a day is forgotten within minutes": ("held for a day, with hours without a reading",),
    "one NaN poisons a fleet's sum": ("one GPU that has no numbers does not make a fleet have none",),
    "a hardware slowdown without a reason is silent": ("a hardware slowdown without a reason",),
    "a second critical of a machine waits for long": ("test_a_second_critical_waits_for_a_minute",),
    "a restart of Prometheus forgets": ("test_alerts_outlive_a_restart_of_prometheus",),
    "an alias that changes halves sums": ("a machine that gets another alias or pod has the GPUs that it has",),
    "a GPU that is missing is forgotten with a new label": (
        "a GPU that gets another index, or a machine another alias",
        "fewer GPUs than within six hours, nothing configured",
    ),
    "mail that fails once an hour is never told": ("mails to one holder that fail once an hour",),
    "two sites without a cluster label silence each other": (
        "test_two_sites_without_a_cluster_label_may_have_a_machine_of_the_same_name",
    ),
    "mails of one machine are no thread": ("test_the_thread_of_a_machine_is_one_and_cannot_be_forged",),
    "parts of a count, and more than the whole": (
        "one NVLink CRC error warns for an hour",
        "two exporters under the same labels do not make more than there is",
    ),
    "services that stand by can only be silenced": (
        "held for an hour, with a restart of the exporter in between, and services that stand by",
    ),
    "driver versions across architectures": ("driver versions within an architecture",),
}


def test_every_finding_is_held_by_what_exists() -> None:
    cases = {case["name"] for path in CASES for case in load(path)["tests"]}
    tests = {
        name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(FINDINGS) == 35
    held = {(kind, by) for kind, all_by in FINDINGS.items() for by in all_by}
    assert {(kind, by) for kind, by in held if by not in (cases if " " in by else tests)} == set()
