"""Six hours whose every GPU-hour is known: a hub tells the same of a history file, a Prometheus and VictoriaMetrics."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from tools.lab.hub import Hub, write_nodes
from tools.lab.programs import neighbour, program
from tools.lab.prometheus import Prometheus
from tools.lab.victoria import VictoriaMetrics

from gpu_exporter.hub.archive import FileArchive, PrometheusArchive
from gpu_exporter.hub.settings import Weights
from gpu_exporter.report.client import Access
from six_hours import HOUR, TICK, Scraped, live

pytestmark = pytest.mark.e2e
WINDOW = "7h"
Rows = dict[tuple[int, str], dict[str, Any]]
# Who held a GPU for how long, and how much of that was work (tests/scenarios/six-hours.yml), in hours.
TRUTH = {(0, "mallory"): (3.0, 0.0), (2, "eve"): (3.0, 0.0), (3, "peggy"): (3.0, 0.0), (3, "victor"): (1.0, 0.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("truth")


@pytest.fixture(scope="module")
def scraped(folder: Path) -> Scraped:
    """What was scraped; the recorder wrote history.db meanwhile."""
    return live(float(int(time.time()) // TICK * TICK - 60 - 6 * HOUR), folder / "history.db")


def results(folder: Path, name: str, *options: str) -> tuple[Rows, dict[str, Any]]:
    """The rows of a hub's results by GPU and owner, and its statistics."""
    place = folder / name
    place.mkdir()
    with Hub(place, write_nodes(place / "nodes.json", {}), *options) as hub:
        told = hub.json(f"/api/v1/results?window={WINDOW}")["results"]
        return {(row["gpu"], row.get("owner", "")): row for row in told}, hub.json(
            f"/api/v1/results/stats?window={WINDOW}"
        )


@pytest.fixture(scope="module")
def of_file(folder: Path, scraped: Scraped) -> tuple[Rows, dict[str, Any]]:
    assert scraped.samples
    return results(folder, "file", f"--history.path={folder / 'history.db'}")


@pytest.fixture(
    scope="module",
    params=["Prometheus", "VictoriaMetrics", pytest.param("the newest VictoriaMetrics", marks=pytest.mark.slow)],
)
def server(folder: Path, scraped: Scraped, request: pytest.FixtureRequest) -> Iterator[str]:
    """Its address."""
    with ExitStack() as stack:
        if request.param == "Prometheus":
            yield prometheus(folder, scraped, stack)
        else:
            new = request.param.startswith("the newest")
            yield victoria_metrics(folder / "new" if new else folder, scraped, stack, new=new)


@pytest.fixture(scope="module")
def of_server(folder: Path, server: str) -> tuple[Rows, dict[str, Any]]:
    return results(folder, f"of-{server.rpartition(':')[2]}", f"--prometheus.url={server}")


def prometheus(folder: Path, scraped: Scraped, stack: ExitStack) -> str:
    text = folder / "story.om"
    with text.open("w") as file:
        file.writelines(scraped.lines())
    subprocess.run(
        [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, folder / "tsdb"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = stack.enter_context(Prometheus(folder, "global: {scrape_interval: 15s}\n"))
    return f"http://127.0.0.1:{server.port}"


def victoria_metrics(folder: Path, scraped: Scraped, stack: ExitStack, *, new: bool) -> str:
    folder.mkdir(exist_ok=True)
    server = stack.enter_context(VictoriaMetrics(folder, path=neighbour("victoria-metrics") if new else None))
    server.take(list(scraped.lines(times_of=1000)))
    return server.url


def check_truth(rows: Rows) -> None:
    for key, (held, used) in TRUTH.items():
        assert rows[key]["held_hours"] == pytest.approx(held, rel=0.02), key
        assert rows[key]["active_hours"] == pytest.approx(used, abs=0.02), key
        assert rows[key]["status"] in {"idle", "low"}, "memory that is held counts a little"
    ((_, served),) = [(key, row) for key, row in rows.items() if key[0] == 1 and key[1]]
    assert (served["held_hours"], served["active_hours"]) == pytest.approx((4.0, 4.0), rel=0.02)
    assert rows[2, ""]["down_hours"] == pytest.approx(1.0, rel=0.02)


def test_a_history_file_tells_the_truth(of_file: tuple[Rows, dict[str, Any]]) -> None:
    check_truth(of_file[0])


def test_a_server_tells_the_truth_and_what_the_file_does(
    of_file: tuple[Rows, dict[str, Any]], of_server: tuple[Rows, dict[str, Any]]
) -> None:
    rows, stats = of_server
    check_truth(rows)
    same, same_stats = of_file
    assert rows.keys() == same.keys()
    for key, row in rows.items():
        assert row["status"] == same[key]["status"], key
        for name in ("held_hours", "active_hours", "idle_hours", "free_hours", "down_hours", "energy_kilowatt_hours"):
            assert row[name] == pytest.approx(same[key][name], rel=0.02, abs=0.02), (key, name)
        assert row["score"] == pytest.approx(same[key]["score"], rel=0.02, abs=0.005), key
    assert rows[2, ""]["energy_kilowatt_hours"] == pytest.approx(
        5 / 6 * rows[3, ""]["energy_kilowatt_hours"], rel=0.05
    ), "its counter went on in the hour in which it was lost, but nobody saw what for"
    assert stats["statuses"] == same_stats["statuses"]
    for name in ("held_hours", "active_hours", "idle_hours", "free_hours", "down_hours"):
        assert stats[name] == pytest.approx(same_stats[name], rel=0.02)


@pytest.mark.parametrize("part", ["utilization", "memory_io", "memory_used", "power"])
def test_weights_of_one_s_own_are_of_the_same_numbers(folder: Path, scraped: Scraped, server: str, part: str) -> None:
    """Each part alone: then any weights agree, and that they are laid over the right part is seen."""
    weights = Weights(**{**dict.fromkeys(("utilization", "memory_io", "memory_used", "power"), 0.0), part: 1.0})
    file = FileArchive(folder / "history.db", weights=weights)
    others = PrometheusArchive(Access(server), weights=weights)
    end = max(at for _, _, at in scraped.samples["gpu_up"]) + 60
    with closing(file), closing(others):
        told, same = (
            {(one.index, one.owner): one.score for one in archive.totals(end - 7 * HOUR, end).totals}
            for archive in (others, file)
        )
    assert told.keys() == same.keys()
    assert {key: told[key] for key in told} == {key: pytest.approx(same[key], rel=0.02, abs=0.01) for key in same}
