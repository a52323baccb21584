"""``python -m bench.rules_cost``: what the rules cost a Prometheus that watches 16 000 simulated GPUs.

A real Prometheus scrapes 2 000 machines of eight GPUs (bench/fleet.py), with the rules of deploy/prometheus. After a
warm-up it notes the evaluation times of all rules, as /api/v1/rules tells them. They are times by the wall: run it
while nothing else runs; it tells how much else did. Less touched by that is the CPU time of Prometheus, which is taken
with the rules and once more without them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tools.lab import ROOT
from tools.lab.programs import MissingProgramError

from bench.fleet import BEFORE, GPUS, RULES, Fleet, Measured, cpu_seconds, say, watched

RESULTS = ROOT / "bench/RULES.md"
OTHERS = 0.25  # of a core; where other programs take more, times by the wall say nothing
BUDGET = 4.0  # seconds that one evaluation of all rules may take
SLOWEST = 0.5  # and that of the slowest group
ABOVE = 0.2  # of a core, that evaluating them may take beside scraping
_SELDOM = {"gpu-device-slow": 900.0, "gpu-device-week": 3600.0}


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _busy() -> float:
    """CPU seconds that all programs of this machine have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def _cpu_without_rules(prometheus: Measured, configuration: Path, seconds: float) -> float:
    """CPU seconds a second of the same Prometheus that only scrapes."""
    lines = configuration.read_text().splitlines(keepends=True)
    configuration.write_text("".join(line for line in lines if not line.startswith("rule_files")))
    prometheus.reload()
    while prometheus.rules():
        time.sleep(0.5)
    time.sleep(20)  # what the last evaluations left to the garbage collector
    before, started = prometheus.cpu(), time.monotonic()
    time.sleep(seconds)
    return (prometheus.cpu() - before) / (time.monotonic() - started)


def _measure(prometheus: Measured, seconds: float) -> dict[tuple[str, str, int], list[float]]:
    """Every evaluation time of every rule within the time."""
    times: dict[tuple[str, str, int], list[float]] = {}
    seen: set[tuple[str, str]] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for place, (group, name, duration, health, when) in enumerate(prometheus.rules()):
            if health == "unknown":
                continue  # not evaluated yet
            if health != "ok":
                sys.exit(f"bench: the rule {name} fails: {health}")
            if (group, when) not in seen:
                times.setdefault((group, name, place), []).append(duration)
        seen = {(group, when) for group, _, _, _, when in prometheus.rules()} | seen
        time.sleep(1.0)
    return times


@dataclass
class Found:
    """What came of it, in seconds; ``load`` is seconds of evaluation a second."""

    rules: int = 0
    total: float = 0.0
    least: float = 0.0
    slowest: float = 0.0
    slowest_group: str = ""
    load: float = 0.0
    slow_rules: str = ""
    before: str = ""
    cpu: float = 0.0
    scraping: float = 0.0
    facts: dict[str, str] = field(default_factory=dict)

    def page(self) -> str:
        """bench/RULES.md."""
        facts = "\n".join(f"- **{name}**: {text}" for name, text in self.facts.items())
        verdict = {True: "", False: "**exceeded**"}
        above = self.cpu - self.scraping
        all_rules = f"{self.total:.2f} s | ≤ {BUDGET:g} s | {verdict[self.total <= BUDGET]}"
        return f"""\
# What the rules cost at {self.facts["GPUs"]} GPUs

Written by `python -m bench.rules_cost --write`: a Prometheus that scrapes simulated machines and evaluates the rules of
deploy/prometheus.

{facts}

| | | budget at 16 000 GPUs | |
| --- | --: | --: | --- |
| all {self.rules} rules, each evaluated once (sum of medians) | {all_rules} |
| the same, fastest evaluation of each | {self.least:.2f} s | | |
| slowest group (`{self.slowest_group}`) | {self.slowest:.2f} s | ≤ {SLOWEST:g} s | {verdict[self.slowest <= SLOWEST]} |
| evaluation a second of time | {self.load:.3f} s | | |
| CPU above that of scraping ({self.scraping:.2f}) | {above:.2f} of a core | ≤ {ABOVE:g} | {verdict[above <= ABOVE]} |

Where a budget is exceeded: reading one series of every GPU takes a Prometheus some 30 to 50 ms whatever is done with
it, and the rules do so well over a hundred times: an alert that outlives its exporter asks what is sick, and what is
well again.
{self.before}Slowest rules, median: {self.slow_rules}.
"""


def _report(times: dict[tuple[str, str, int], list[float]], intervals: dict[str, float]) -> Found:
    """Print the slowest and the sums."""
    medians = {key: statistics.median(values) for key, values in times.items() if not key[0].startswith(BEFORE)}
    before = [statistics.median(values) for key, values in times.items() if key[0].startswith(BEFORE)]
    groups: dict[str, float] = {}
    for (group, _, _), median in medians.items():
        groups[group] = groups.get(group, 0.0) + median
    print("slowest rules, median of their evaluations:")
    for (group, name, _), median in sorted(medians.items(), key=lambda item: -item[1])[:15]:
        print(f"  {1000 * median:7.1f} ms  {name}  ({group})")
    print("groups:")
    for group, median in sorted(groups.items(), key=lambda item: -item[1]):
        print(f"  {1000 * median:7.1f} ms  every {intervals[group]:g} s  {group}")
    load = sum(median / intervals[group] for group, median in groups.items())
    print(f"load         {load:.3f} s of evaluation a second")
    print(f"slowest      {max(groups.values()):.3f} s, the slowest group")
    least = sum(min(times[key]) for key in medians)
    print(f"undisturbed  {least:.3f} s, the fastest evaluation of each rule")
    found = Found(
        len(medians),
        sum(medians.values()),
        least,
        max(groups.values()),
        max(groups, key=lambda name: groups[name]),
        load,
    )
    worst = sorted(medians.items(), key=lambda item: -item[1])[:5]
    found.slow_rules = ", ".join(f"`{name}` {1000 * median:.0f} ms" for (_, name, _), median in worst)
    if before:
        for group, now in groups.items():
            then = sum(statistics.median(values) for key, values in times.items() if key[0] == BEFORE + group)
            if then:
                print(f"  {now / then:7.2f} times what it took before  {group}")
        share = sum(medians.values()) / sum(before)
        print(f"before       {sum(before):.3f} s, the other rules in the same run: now {share:.2f} times that")
        found.before = f"The rules before these took {sum(before):.2f} s in the same run: now {share:.2f} times that.\n"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rules_cost", description=__doc__)
    parser.add_argument("--nodes", type=int, default=2000, help="machines of eight GPUs (default 2000)")
    parser.add_argument(
        "--interval", type=int, default=30, help="scrape and evaluation interval in seconds (default 30)"
    )
    parser.add_argument("--warm", type=float, default=11, help="minutes before measuring (default 11: ranges are full)")
    parser.add_argument("--measure", type=float, default=4, help="minutes of measuring (default 4)")
    parser.add_argument("--used", action="store_true", help="only the series that rules read: less memory and scraping")
    parser.add_argument("--prometheus", default=None, help="the Prometheus to measure (default: the one in PATH)")
    parser.add_argument("--beside", type=Path, help="a folder with other rules, to be measured in the same run")
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name} beside this program")
    parser.add_argument("--optional", action="store_true", help="with alerts-optional.yml")
    arguments = parser.parse_args()
    fleet = Fleet(arguments.nodes, [RULES, *([arguments.beside] if arguments.beside else [])], used=arguments.used)
    with watched(
        fleet,
        arguments.interval,
        binary=arguments.prometheus,
        beside=arguments.beside,
        optional=arguments.optional,
        history=True,
    ) as running:
        say(f"{fleet.nodes} machines with {fleet.series} series each; warming up for {arguments.warm:g} minutes")
        time.sleep(60 * arguments.warm)
        say("measuring")
        began, cpu, pages, busy = time.monotonic(), running.prometheus.cpu(), cpu_seconds(running.pages), _busy()
        times = _measure(running.prometheus, 60 * arguments.measure)
        took = time.monotonic() - began
        cpu, pages, busy = running.prometheus.cpu() - cpu, cpu_seconds(running.pages) - pages, _busy() - busy
        others = (busy - cpu - pages) / took
        series = running.prometheus.get("status/tsdb")["headStats"]["numSeries"]
        up = running.prometheus.get("query?query=sum(up)")["result"][0]["value"][1]
        firing = running.prometheus.get("query?query=count(ALERTS)%20by%20(alertname)")["result"]
        rss = running.prometheus.rss()
        found = _report(times, {**running.prometheus.intervals(), **_SELDOM})
        say("measuring without the rules")
        without = _cpu_without_rules(running.prometheus, running.configuration, 30 * arguments.measure)
        print(f"CPU          {cpu / took:.3f} of a core with the rules, {without:.3f} without (scraping)")
        print(f"others       {others:.2f} of {os.cpu_count()} cores, {pages / took:.2f} more for the pages")
        print(f"prometheus   {running.prometheus.version()}")
        print(f"up           {up} of {fleet.nodes} machines, {fleet.nodes * GPUS} GPUs")
        print(f"alerts       {', '.join(item['metric']['alertname'] for item in firing)}")
        print(f"series       {series}")
        print(f"RSS          {rss:.0f} MiB")
        print(f"evaluations  {min(map(len, times.values()))} to {max(map(len, times.values()))} of {len(times)} rules")
        kept = found.total <= BUDGET and found.slowest <= SLOWEST and cpu / took - without <= ABOVE
        for what, needed, budget in (("all rules", found.total, BUDGET), ("slowest  ", found.slowest, SLOWEST)):
            print(f"{what}    {needed:.3f} s, budget {budget:g} s: {'kept' if needed <= budget else 'EXCEEDED'}")
        found.cpu, found.scraping = cpu / took, without
        found.facts = {
            "GPUs": f"{fleet.nodes * GPUS:,}".replace(",", " "),
            "command": " ".join(["python -m bench.rules_cost", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{_processor()}, {os.cpu_count()} cores; other programs took {others:.2f} of them",
            "Prometheus": f"{running.prometheus.version()}, {fleet.nodes} machines scraped every {arguments.interval} "
            f"s, {series} series, RSS {rss:.0f} MiB",
        }
        if arguments.write:
            RESULTS.write_text(found.page())
        if others > OTHERS:
            print("NOT VALID: too much else was running")
            return 2
        return 0 if kept else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MissingProgramError as missing:
        sys.exit(f"bench: {missing}")
