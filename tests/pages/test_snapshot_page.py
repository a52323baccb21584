"""/api/v1/snapshot: one document of everything, rendered once, with an entity tag."""

from __future__ import annotations

import gzip as gzip_format
import http.client
import json
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tools.lab.wait import patience

from gpu_exporter.catalog import GPU_UP
from gpu_exporter.http.server import Server
from gpu_exporter.model import Device, Disk, Driver, Failure, Hold, Host, Identity, Owner, Process, Snapshot
from gpu_exporter.pages import documents, snapshot_page
from gpu_exporter.pages.application import Application
from gpu_exporter.pages.documents import gpu_document, processes_document, snapshot_document
from gpu_exporter.pages.openapi import description
from serving import LOCAL
from snapshots import FULL, NASTY, reading, snapshot

DISK = Disk("/", "/dev/sda1", "ext4", 100, 60, 35)
MACHINE = Host(
    name="gpu3.example.org",
    addresses=("10.0.0.3", "2001:db8::3"),
    os="Ubuntu 24.04.1 LTS",
    kernel="6.8.0-45-generic",
    boot_timestamp=1.7e9,
    cpus=64,
    cpu_utilization=0.25,
    memory_total=1024,
    memory_used=512,
    load=(0.5, 1.25, 2.0),
    disks=(DISK,),
)
HELD = replace(
    FULL,
    processes=(Process(7, "compute", 5.0, 0.25, "", Identity("python3", "alice")), Process(8, "compute")),
    state="idle_held",
    holds=(
        Hold(Owner("user", "alice", ""), 5.0),
        Hold(Owner("pod", "train-0", "ml"), None),
        Hold(Owner("user", "", ""), 0.0),
    ),
)
NOW = snapshot(
    reading(4, {GPU_UP: 0.0}, failure=Failure("lost", "0x7f"), state="down"), HELD, driver=Driver("590", "", "")
)


class Told:
    """A provider whose answers a test sets."""

    def __init__(self) -> None:
        self.now: Snapshot = NOW
        self.machine = MACHINE
        self.why: str | None = None
        self.dead: str | None = None
        self.every = 5.0
        self.seconds: float | None = 1.25

    def exposition(self, *, openmetrics: bool, gzip: bool, client: str) -> bytes:
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        return self.now

    def watched(self) -> None:
        pass

    def host(self) -> Host:
        return self.machine

    def trail(self, device: Device) -> Sequence[float | None]:
        return ()

    def interval(self) -> float:
        return self.every

    def age(self, snapshot: Snapshot) -> float | None:
        return self.seconds

    def live(self) -> str | None:
        return self.dead

    def ready(self) -> str | None:
        return self.why


class Site:
    """A provider's pages on a real server."""

    def __init__(self, told: Told, server: Server) -> None:
        self.told = told
        self.port = server.port

    def ask(self, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience())) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", "/api/v1/snapshot", headers=named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def document(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.ask()[2])
        return told

    def tag(self, **headers: str) -> str:
        return str(self.ask(**headers)[1]["ETag"])


@pytest.fixture
def site() -> Iterator[Site]:
    told = Told()
    server = Server(Application(provider=told), addresses=[LOCAL])
    server.start()
    with closing(server):
        yield Site(told, server)


def test_the_machine_in_one_document(site: Site) -> None:
    status, headers, body = site.ask()
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-cache")
    assert headers["Vary"] == "Accept-Encoding"
    assert json.loads(body) == {
        "schema": 1,
        "host": {
            "name": "gpu3.example.org",
            "addresses": ["10.0.0.3", "2001:db8::3"],
            "os": "Ubuntu 24.04.1 LTS",
            "kernel": "6.8.0-45-generic",
            "boot_timestamp_seconds": 1.7e9,
            "cpus": 64,
            "cpu_utilization_ratio": 0.25,
            "memory_total_bytes": 1024,
            "memory_used_bytes": 512,
            "load": [0.5, 1.25, 2.0],
            "disks": [
                {
                    "mount": "/",
                    "device": "/dev/sda1",
                    "filesystem": "ext4",
                    "total_bytes": 100,
                    "used_bytes": 60,
                    "free_bytes": 35,
                }
            ],
        },
        "exporter": {
            "version": "1.2.3",
            "source": "nvml",
            "simulated": False,
            "interval_seconds": 5.0,
            "sample_success": True,
            "sample_timestamp_seconds": 1000.0,
            "sample_age_seconds": 1.25,
            "paused": False,
            "ready": None,
            "live": None,
        },
        "driver": {"driver_version": "590"},
        "gpus": [
            {
                **gpu_document(HELD),
                "state": "idle_held",
                "holders": [
                    {"owner_kind": "user", "owner": "alice", "memory_used_bytes": 5},
                    {"owner_kind": "pod", "owner": "train-0", "namespace": "ml"},
                    {"owner_kind": "user", "memory_used_bytes": 0},
                ],
            },
            {**gpu_document(NOW.readings[0]), "state": "down"},
        ],
        "processes": processes_document(NOW, ("pid", "user", "process"))["processes"],
    }


def test_what_is_not_known_is_absent_and_what_nobody_has_is_empty(site: Site) -> None:
    site.told.now = snapshot(ok=False, timestamp=None)
    site.told.machine = Host(name="gpu3", disks=())
    site.told.seconds = None
    site.told.why = "no driver: /usr/lib/libnvidia-ml.so.1 is not there"
    told = site.document()
    assert told["host"] == {"name": "gpu3", "disks": []}
    assert (told["gpus"], told["processes"]) == ([], [])
    assert "driver" not in told
    assert not {"sample_age_seconds", "sample_timestamp_seconds"} & set(told["exporter"])
    assert told["exporter"]["ready"] == "no driver: ... is not there"
    assert told["exporter"]["sample_success"] is False
    site.told.now = snapshot(reading(0, processes=(), state="idle_free", holds=()), reading(1, state="unknown"))
    assert [gpu.get("holders") for gpu in site.document()["gpus"]] == [[], None]


def test_the_openapi_document_describes_it(site: Site) -> None:
    schemas = json.loads(description(telemetry_path="/metrics"))["components"]
    validator = Draft202012Validator({"$ref": "#/components/schemas/Snapshot", "components": schemas})
    validator.validate(site.document())
    site.told.now, site.told.machine, site.told.seconds = snapshot(ok=False, timestamp=None), Host(), None
    validator.validate(site.document())
    assert not validator.is_valid({**site.document(), "more": 1})


def test_text_from_anywhere_stays_text(site: Site) -> None:
    site.told.machine = Host(
        name=NASTY, os=NASTY, disks=(replace(DISK, mount=NASTY, device="\udcff".encode("utf-8", "replace").decode()),)
    )
    site.told.now = snapshot(replace(HELD, holds=(Hold(Owner("user", NASTY, NASTY), 1.0),)))
    told = site.document()
    assert told["host"]["name"] == told["host"]["os"] == told["host"]["disks"][0]["mount"] == NASTY
    assert told["gpus"][0]["holders"][0]["owner"] == NASTY


# --- once for all ----------------------------------------------------------------------------------------------------


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[Snapshot]:
    rendered: list[Snapshot] = []

    def counted(now: Snapshot, **rest: Any) -> dict[str, Any]:
        rendered.append(now)
        return documents.snapshot_document(now, **rest)

    monkeypatch.setattr(snapshot_page, "snapshot_document", counted)
    return rendered


def test_it_is_rendered_once_a_snapshot_whoever_asks(site: Site, renderings: list[Snapshot]) -> None:
    for age in (0.1, 0.2, 4.0):
        site.told.seconds = age
        plain = site.document()
        _, headers, body = site.ask(Accept_Encoding="gzip")
        assert headers["Content-Encoding"] == "gzip"
        assert plain["exporter"]["sample_age_seconds"] == age
        assert json.loads(gzip_format.decompress(body)) == plain
    assert len(renderings) == 1
    site.told.now = replace(NOW)
    site.document()
    site.document()
    assert len(renderings) == 2


@pytest.mark.parametrize("gpus", [0, 1, 64])
@pytest.mark.parametrize("age", [None, 0.0, 123456789.123])
def test_the_gzip_form_is_one_member_that_any_reader_takes(site: Site, gpus: int, age: float | None) -> None:
    site.told.now, site.told.seconds = snapshot(*(reading(index) for index in range(gpus))), age
    body = site.ask(Accept_Encoding="gzip")[2]
    reader = zlib.decompressobj(wbits=31)
    text = reader.decompress(body) + reader.flush()
    assert reader.eof
    assert reader.unused_data == b""
    assert json.loads(text) == site.document()


def test_the_entity_tag_is_of_everything_but_the_age(site: Site) -> None:
    tag = site.tag()
    assert tag.startswith('"')
    same: dict[str, Any] = {"seconds": 99.0, "now": replace(NOW), "machine": replace(MACHINE)}
    for name, value in same.items():
        setattr(site.told, name, value)
        assert site.tag() == tag
    seen = {tag}
    other: dict[str, Any] = {
        "now": snapshot(HELD),
        "machine": replace(MACHINE, load=(9.0, 9.0, 9.0)),
        "every": 10.0,
        "why": "paused",
        "dead": "restart it",
    }
    for name, value in other.items():
        setattr(site.told, name, value)
        seen.add(site.tag())
    assert len(seen) == 6


def test_who_has_it_already_is_told_so(site: Site, renderings: list[Snapshot]) -> None:
    plain, packed = site.tag(), site.tag(Accept_Encoding="gzip")
    assert plain != packed
    for asked in (plain, packed, f"W/{plain}", f'"other", {plain}', "*"):
        for encoding in ("identity", "gzip"):
            status, headers, body = site.ask(If_None_Match=asked, Accept_Encoding=encoding)
            assert (status, body) == (304, b"")
            assert headers["ETag"] == (packed if encoding == "gzip" else plain)
            assert headers["Content-Length"] is None
    for asked in ("", '""', plain.strip('"'), '"nothing"', '"', "W/", plain.upper()):
        assert site.ask(If_None_Match=asked)[0] == 200
    site.told.now = snapshot(HELD)
    assert site.ask(If_None_Match=f"{plain}, {packed}")[0] == 200
    assert len(renderings) == 2


def test_a_connection_goes_on_after_304(site: Site) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=patience())) as connection:
        connection.request("GET", "/api/v1/snapshot")
        first = connection.getresponse()
        first.read()
        sock = connection.sock
        for _ in range(3):
            connection.request("GET", "/api/v1/snapshot", headers={"If-None-Match": first.headers["ETag"]})
            again = connection.getresponse()
            assert (again.status, again.read()) == (304, b"")
        assert connection.sock is sock


def test_the_ready_made_document_is_the_one_that_python_would_write() -> None:
    told = snapshot_document(NOW, host=MACHINE, labels=("pid",), interval=5.0, ready=None, live=None)
    page = snapshot_page.SnapshotPage(("pid",), public=lambda why: why)
    made = page.rendered(snapshot_page.State(NOW, MACHINE, 5.0, None, None)).body(None, gzip=False)
    assert made == json.dumps(told).encode()


def test_urllib_reads_it(site: Site) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/api/v1/snapshot", timeout=patience()) as answer:
        assert json.load(answer)["schema"] == 1
