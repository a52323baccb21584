"""``python -m bench.dashboards_cost``: what every query of every dashboard costs at 1 600 GPUs, and how much it shows.

A real Prometheus scrapes 200 machines of eight simulated GPUs (bench/fleet.py) with the rules of deploy/prometheus;
then each query is asked as Grafana asks it, with everything chosen that can be. A panel that cannot be read shows too
many series: a line each in a chart, a row each in a table (those have pages).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.lab import ROOT
from tools.lab.programs import MissingProgramError

from bench.fleet import GPUS, RULES, Fleet, say, watched

SUPPORT = ROOT / "tests/support"  # has Grafana's side of the conversation
SLOW = 1.0  # seconds that a query may take
MANY = 64  # series in a chart that people can still tell apart, as the tiles and topk of the boards have it
_CHARTS = {"timeseries", "state-timeline", "status-history", "bargauge"}


@dataclass(frozen=True)
class Asked:
    """A query of a panel: how long it took in seconds, how many series and bytes came."""

    board: str
    panel: str
    kind: str
    seconds: float
    series: int
    size: int


def _ask(port: int, *, minutes: float) -> Iterator[Asked]:
    sys.path.insert(0, str(SUPPORT))
    from dashboards import PrometheusApi, View, load, panels  # noqa: PLC0415 - the path is set just before

    api = PrometheusApi(port)
    end = time.time()
    view = View(start=end - 60 * minutes, end=end, step=15, rate_interval=120)
    for board, dashboard in load().items():
        texts: dict[str, str] = {}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query" and not variable.get("includeAll"):  # the page of one machine, or of one GPU
                found = api.variable(variable, view, api.choose(dashboard, view, texts))
                texts[variable["name"]] = min(found.values())
        chosen = api.choose(dashboard, view, texts)
        for panel in panels(dashboard):
            for target in panel["targets"]:
                began = time.perf_counter()
                answer: list[dict[str, Any]] = api.target(target, view, chosen)
                took = time.perf_counter() - began
                title = f"{panel['title']} {target['refId']}"
                yield Asked(board, title, panel["type"], took, len(answer), len(json.dumps(answer)))


def _report(asked: list[Asked]) -> bool:
    print("| dashboard | queries | all of them | slowest | most series in a chart | largest answer |")
    print("| --- | --: | --: | --- | --- | --- |")
    for board in sorted({each.board for each in asked}):
        mine = [each for each in asked if each.board == board]
        slowest = max(mine, key=lambda each: each.seconds)
        most = max((each for each in mine if each.kind in _CHARTS), key=lambda each: each.series)
        largest = max(mine, key=lambda each: each.size)
        print(
            f"| {board} | {len(mine)} | {sum(each.seconds for each in mine):.2f} s "
            f"| {slowest.seconds:.2f} s, {slowest.panel} | {most.series}, {most.panel} "
            f"| {largest.size // 1000} kB, {largest.panel} |"
        )
    wrong = [each for each in asked if each.seconds > SLOW or (each.kind in _CHARTS and each.series > MANY)]
    for each in wrong:
        print(f"TOO MUCH: {each.board}: {each.panel} ({each.kind}): {each.seconds:.2f} s, {each.series} series")
    return not wrong


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.dashboards_cost", description=__doc__)
    parser.add_argument("--nodes", type=int, default=200, help="machines of eight GPUs (default 200)")
    parser.add_argument(
        "--interval", type=int, default=15, help="scrape and evaluation interval in seconds (default 15)"
    )
    parser.add_argument(
        "--warm", type=float, default=6, help="minutes before measuring, and of what is shown (default 6)"
    )
    parser.add_argument("--prometheus", default=None, help="the Prometheus to measure (default: the one in PATH)")
    arguments = parser.parse_args()
    fleet = Fleet(arguments.nodes, [RULES], used=False)
    with watched(fleet, arguments.interval, binary=arguments.prometheus) as running:
        say(f"{fleet.nodes} machines with {fleet.series} series each; warming up for {arguments.warm:g} minutes")
        time.sleep(60 * arguments.warm)
        asked = list(_ask(running.prometheus.port, minutes=arguments.warm))
        print(
            f"Prometheus {running.prometheus.version()}, {fleet.nodes * GPUS} GPUs, {arguments.warm:g} minutes shown\n"
        )
        return 0 if _report(asked) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MissingProgramError as missing:
        sys.exit(f"bench: {missing}")
