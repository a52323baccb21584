"""The pages over a made-up provider: routes, formats, JSON."""

from __future__ import annotations

import gzip as gzip_format
import http.client
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from html import unescape
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from tools.lab.wait import patience

from gpu_exporter import __version__
from gpu_exporter.catalog import GPU_UP, XID_ERRORS
from gpu_exporter.catalog.owner_kinds import PROCESS_LABELS
from gpu_exporter.http.server import Server
from gpu_exporter.model import Device, Driver, Failure, Host, Identity, Process, Reading, Reason, Snapshot
from gpu_exporter.pages.application import Application
from gpu_exporter.pages.documents import gpu_document, gpus_document, processes_document
from serving import LOCAL
from snapshots import FULL, NASTY, reading, row, snapshot


class Made:
    """A provider whose answers a test sets."""

    def __init__(self) -> None:
        self.now = snapshot(FULL, reading(4))
        self.trouble: str | None = None
        self.deaf: str | None = None
        self.asked: list[tuple[bool, bool]] = []
        self.clients: list[str] = []
        self.watchers = 0
        self.machine = Host(name="gpu3.example.org")
        self.seconds: float | None = 1.5

    def exposition(self, *, openmetrics: bool, gzip: bool, client: str) -> bytes:
        self.asked.append((openmetrics, gzip))
        self.clients.append(client)
        text = b"# EOF\n" if openmetrics else b"gpu_up 1\n"
        return gzip_format.compress(text) if gzip else text

    def snapshot(self) -> Snapshot:
        return self.now

    def watched(self) -> None:
        self.watchers += 1

    def host(self) -> Host:
        return self.machine

    def trail(self, device: Device) -> Sequence[float | None]:
        return ()

    def interval(self) -> float:
        return 5.0

    def age(self, snapshot: Snapshot) -> float | None:
        return self.seconds

    def live(self) -> str | None:
        return self.deaf

    def ready(self) -> str | None:
        return self.trouble


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()


class Site:
    """The application on a real server."""

    def __init__(self, provider: Made, server: Server) -> None:
        self.provider = provider
        self.server = server

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=patience())
        with closing(connection):
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())


@pytest.fixture
def site() -> Iterator[Site]:
    provider = Made()
    server = Server(Application(provider=provider), addresses=[LOCAL])
    server.start()
    with closing(server):
        yield Site(provider, server)


# --- routes ----------------------------------------------------------------------------------------------------------


PATHS = (
    "/", "/metrics", "/livez", "/readyz", "/api/v1/gpus", "/api/v1/gpus/3", "/api/v1/processes", "/api/v1/snapshot",
    "/api/v1/openapi.json",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_like_get(site: Site, path: str) -> None:
    get, head = site.ask(path), site.ask(path, "HEAD")
    assert get.status == head.status == 200
    assert head.body == b""
    for name in ("Content-Type", "Content-Length"):
        assert get.headers[name] == head.headers[name] != ""
    assert int(get.headers["Content-Length"]) == len(get.body)


def test_who_scrapes_is_told_by_address_and_name(site: Site) -> None:
    site.ask("/metrics", User_Agent="Prometheus/3.1")
    site.ask("/metrics", "HEAD", User_Agent="curl/8")
    site.ask("/metrics", User_Agent="x" * 5000)
    assert site.provider.clients == ["127.0.0.1 Prometheus/3.1", "", f"127.0.0.1 {'x' * 100}"]


def test_only_who_asks_for_the_whole_machine_watches_it(site: Site) -> None:
    for path in PATHS:
        site.ask(path)
    assert site.provider.watchers == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/nowhere", "/api/v1/snapshot", "/api/v1/nowhere"])
def test_other_methods_are_405(site: Site, path: str, method: str) -> None:
    answer = site.ask(path, method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    if path.startswith("/api/"):
        assert json.loads(answer.text) == {"error": "only GET and HEAD are allowed"}


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/livez/x", "/favicon.ico", "/../etc/passwd", "/%00", "/api"])
def test_anything_else_is_404(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert (answer.status, answer.text) == (404, "404 Not Found\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/processes/", "/api/v1/gpus/", "/api/v1/gpus/9", "/api/v1/gpus/-3", "/api/v1/gpus/%D9%A3", "/api/",
        "/api/v1/gpus/" + "3" * 5000, "/api/v1/gpus/GPU-", "/api/v1/gpus/3/x", "/api/v1/snapshot/", "/api/v2/gpus",
    ],
)  # fmt: skip
def test_what_the_api_does_not_have_is_told_in_json(site: Site, path: str) -> None:
    answer = site.ask(path)
    no_gpu = path.startswith("/api/v1/gpus/")
    assert answer.status == 404
    assert json.loads(answer.text) == {
        "error": "there is no such GPU, or no fresh sample" if no_gpu else "there is no such page"
    }
    assert answer.headers["Content-Type"] == "application/json"


def test_an_api_that_fails_says_so_in_json_without_details(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Snapshot:
        raise OSError("/etc/secret")

    site.provider.snapshot = fail  # type: ignore[method-assign]
    for path in ("/api/v1/gpus", "/api/v1/snapshot"):
        answer = site.ask(path)
        assert answer.status == 500
        assert json.loads(answer.text) == {"error": "internal server error"}
    assert "secret" in caplog.text


def test_the_telemetry_path_can_be_chosen() -> None:
    provider = Made()
    server = Server(Application(provider=provider, telemetry_path="/gpu"), addresses=[LOCAL])
    server.start()
    with closing(server):
        site = Site(provider, server)
        assert site.ask("/gpu").text == "gpu_up 1\n"
        assert site.ask("/metrics").status == 404
        assert 'href="/gpu"' in site.ask("/").text
        paths = json.loads(site.ask("/api/v1/openapi.json").text)["paths"]
        assert "/gpu" in paths
        assert "/metrics" not in paths


def test_health_tells_why_not(site: Site) -> None:
    assert site.ask("/livez").text == site.ask("/readyz").text == "ok\n"
    site.provider.trouble = "the driver does not answer"
    answer = site.ask("/readyz")
    assert (answer.status, answer.text) == (503, "the driver does not answer\n")
    assert site.ask("/livez").status == 200
    site.provider.deaf = "devices lost — restart"
    assert site.ask("/livez").text == "devices lost — restart\n"
    assert site.ask("/livez").headers["Cache-Control"] == "no-store"


def test_a_provider_that_fails_answers_500_without_details(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**_: object) -> bytes:
        raise OSError("/etc/secret")

    site.provider.exposition = fail  # type: ignore[method-assign]
    assert site.ask("/metrics").text == "500 Internal Server Error\n"
    assert site.ask("/livez").status == 200
    assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == ["ERROR"]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("gzip", [False, True])
def test_metrics_come_in_the_wanted_format(site: Site, openmetrics: bool, gzip: bool) -> None:
    accept = "application/openmetrics-text" if openmetrics else "text/plain"
    answer = site.ask("/metrics", Accept=accept, Accept_Encoding="gzip" if gzip else "identity")
    assert answer.status == 200
    assert (gzip_format.decompress(answer.body) if gzip else answer.body) == (
        b"# EOF\n" if openmetrics else b"gpu_up 1\n"
    )
    assert answer.headers["Content-Encoding"] == ("gzip" if gzip else None)
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert answer.headers["Content-Type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if openmetrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )


def test_who_asks_for_nothing_or_for_what_is_not_there_gets_the_text(site: Site) -> None:
    for accept in ("", "application/vnd.google.protobuf", ";,;;=,,q="):
        answer = site.ask("/metrics", Accept=accept, Accept_Encoding="br")
        assert (answer.status, answer.body) == (200, b"gpu_up 1\n")


@pytest.mark.parametrize("told", ["10", "0.5", "", "nan", "-1", "ten", "inf"])
def test_a_scrape_timeout_is_taken_in_any_form(site: Site, told: str) -> None:
    assert site.ask("/metrics", X_Prometheus_Scrape_Timeout_Seconds=told).status == 200


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_gpus_as_json(site: Site) -> None:
    site.provider.now = snapshot(reading(4), FULL, driver=Driver("590.48.01", "", "13.590"))
    answer = site.ask("/api/v1/gpus")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(answer.text) == {
        "host": {"name": site.provider.machine.name},
        "source": "nvml",
        "simulated": False,
        "sample_success": True,
        "sample_timestamp_seconds": 1000.0,
        "driver": {"driver_version": "590.48.01", "nvml_version": "13.590"},
        "gpus": [
            {
                "gpu": 3,
                "uuid": "GPU-3",
                "model": "NVIDIA H100",
                "up": True,
                "failure": None,
                "metrics": {
                    "gpu_up": 1,
                    "gpu_utilization_ratio": 0.5,
                    "gpu_memory_used_bytes": 1610612736,
                    "gpu_memory_total_bytes": 85899345920,
                    "gpu_temperature_celsius": 41,
                    "gpu_power_watts": 123.4,
                    "gpu_power_limit_watts": 700,
                    "gpu_clock_hertz": [{"labels": {"clock": "sm"}, "value": 1980000000}],
                    "gpu_clock_event_active": [
                        {"labels": {"reason": "gpu_idle"}, "value": 1},
                        {"labels": {"reason": "sw_power_cap"}, "value": 1},
                        {"labels": {"reason": "hw_slowdown"}, "value": 0},
                    ],
                    "gpu_xid_errors_total": [
                        {"labels": {"xid": "8"}, "value": 1},
                        {"labels": {"xid": "79"}, "value": 2},
                    ],
                },
            },
            {
                "gpu": 4,
                "uuid": "GPU-4",
                "model": "NVIDIA H100",
                "up": True,
                "failure": None,
                "metrics": {"gpu_up": 1},
            },
        ],
    }


@pytest.mark.parametrize("wanted", ["3", "GPU-3", "003"])
def test_one_gpu_by_index_or_uuid(site: Site, wanted: str) -> None:
    assert json.loads(site.ask(f"/api/v1/gpus/{wanted}").text) == gpu_document(FULL)
    site.provider.now = snapshot(FULL, simulated=True)
    assert json.loads(site.ask(f"/api/v1/gpus/{wanted}").text) == {**gpu_document(FULL), "simulated": True}


def test_a_failed_gpu_keeps_its_name_and_its_words_stay_inside(site: Site) -> None:
    site.provider.now = snapshot(reading(0, {GPU_UP: 0.0}, failure=Failure("lost", "handle 0x7f00 in /usr/lib/x.so")))
    for path in ("/api/v1/gpus", "/"):
        text = site.ask(path).text
        assert "lost" in text
        assert "0x7f00" not in text
        assert ".so" not in text
    gpu = json.loads(site.ask("/api/v1/gpus/0").text)
    assert gpu == {
        "gpu": 0,
        "uuid": "GPU-0",
        "model": "NVIDIA H100",
        "up": False,
        "failure": "lost",
        "metrics": {"gpu_up": 0},
    }


@pytest.mark.parametrize(
    ("private", "kept"),
    [
        ("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1: cannot open shared object file", "cannot open shared object"),
        ("[Errno 2] No such file or directory: '/opt/secret/nvidia-smi'", "No such file"),
        ("command=/opt/secret/nvidia-smi --query-gpu=uuid failed", "failed"),
        ('handle 0x7f00dead (file "~/secret/x.yml", line 3)', "line 3"),
        ("dlopen(/opt/secret): 18 GiB/s", "18 GiB/s"),
    ],
)
def test_no_path_and_no_handle_leaves_in_the_words_of_a_source(site: Site, private: str, kept: str) -> None:
    site.provider.trouble, site.provider.deaf = f"ready: {private}", f"live: {private}"
    for path in ("/readyz", "/livez", "/"):
        text = site.ask(path).text
        assert unescape(text).count(kept) == (2 if path == "/" else 1)
        assert not any(word in text for word in ("secret", "/usr", "/opt", ".so", "0x7f00", "nvidia-smi"))
    assert "secret" not in site.ask("/api/v1/gpus").text


def test_before_the_first_sample_and_while_stale_there_are_no_gpus(site: Site) -> None:
    site.provider.now = snapshot(ok=False, timestamp=None)
    assert json.loads(site.ask("/api/v1/gpus").text) == {
        "host": {"name": site.provider.machine.name},
        "source": "nvml",
        "simulated": False,
        "sample_success": False,
        "gpus": [],
    }
    assert site.ask("/api/v1/gpus/0").status == 404


def test_json_has_no_infinities_and_keeps_hostile_text_as_text() -> None:
    device = Device(0, NASTY, NASTY, serial=NASTY)
    values = {
        row("gpu_temperature_celsius"): math.inf,
        row("gpu_power_watts"): math.nan,
        row("gpu_power_limit_watts"): -math.inf,
        row("gpu_energy_joules_total"): 1e300,
    }
    told = json.loads(
        json.dumps(gpus_document(snapshot(Reading(device, values, labelled={(XID_ERRORS, (NASTY,)): 1.0})), host=""))
    )
    gpu = told["gpus"][0]
    assert (gpu["uuid"], gpu["model"], gpu["serial"]) == (NASTY, NASTY, NASTY)
    assert gpu["metrics"] == {
        "gpu_up": 1,
        "gpu_energy_joules_total": 1e300,
        "gpu_xid_errors_total": [{"labels": {"xid": NASTY}, "value": 1}],
    }


def test_processes_are_listed_with_the_labels_that_are_wanted() -> None:
    owner = Identity("python3", "alice", "c0ffee", {"pod": "train-0", "namespace": "ml", "slurm_job": "4711"})
    processes = (Process(7, "compute", 5.0, 0.25, "MIG-1", owner), Process(8, "graphics"))
    now = snapshot(replace(FULL, processes=processes))
    assert processes_document(now, PROCESS_LABELS)["processes"] == [
        {
            "gpu": 3, "uuid": FULL.device.uuid, "mig_uuid": "MIG-1", "type": "compute", "pid": 7, "process": "python3",
            "user": "alice", "container": "c0ffee", "pod": "train-0", "namespace": "ml", "slurm_job": "4711",
            "memory_used_bytes": 5, "utilization_ratio": 0.25,
        },
        {"gpu": 3, "uuid": FULL.device.uuid, "type": "graphics", "pid": 8},
    ]  # fmt: skip
    assert processes_document(now, ("user",))["processes"][1] == {
        "gpu": 3,
        "uuid": FULL.device.uuid,
        "type": "graphics",
    }


def validator(schema: dict[str, Any], description: dict[str, Any]) -> Draft202012Validator:
    """For a schema of openapi.json; its references lead into the description."""
    whole = {**schema, "components": description["components"]}
    Draft202012Validator.check_schema(whole)
    return Draft202012Validator(whole)


def test_the_openapi_document_describes_what_is_served(site: Site) -> None:
    description = json.loads(site.ask("/api/v1/openapi.json").text)
    assert description["openapi"].startswith("3.1.")
    assert description["info"]["version"] == __version__
    assert {path.replace("{gpu}", "3") for path in description["paths"]} == set(PATHS)
    full = replace(FULL, processes=(Process(7, "compute", 5.0, 0.25, "MIG-1", Identity("python3", "alice")),))
    site.provider.now = snapshot(full, reading(4, failure=Failure("timeout", "")), driver=Driver("1", "2", "3"))
    for path in PATHS:
        told = description["paths"][path.replace("/3", "/{gpu}")]["get"]["responses"]["200"]["content"]
        answer = site.ask(path)
        kind = answer.headers["Content-Type"]
        assert kind in told or kind.partition(";")[0] in told
        if kind == "application/json":
            validator(told[kind]["schema"], description).validate(json.loads(answer.text))
    gpu = description["components"]["schemas"]["Gpu"]
    assert set(gpu["properties"]["failure"]["oneOf"][1]["enum"]) == set(get_args(Reason))
    wrong = {"gpu": 1, "up": True, "failure": None, "metrics": {"x": 1}}
    assert [error.json_path for error in validator(gpu, description).iter_errors(wrong)] == ["$.metrics"]


def test_the_page_loads_nothing_and_runs_nothing(site: Site) -> None:
    answer = site.ask("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not re.search(r"""https?:|//|src=|url\(|@import|\bon\w+=""", answer.text)
    assert '<meta http-equiv="refresh" content="5">' in answer.text
    assert "prefers-color-scheme:dark" in answer.text
    assert 'name="viewport"' in answer.text
