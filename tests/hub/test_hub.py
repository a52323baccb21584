"""The hub as it is run: real exporters, real HTTP."""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tools.lab.exporter import Exporter, run
from tools.lab.hub import Hub, write_nodes
from tools.lab.hung_disk import HungDisk
from tools.lab.wait import patience, wait_for
from tools.lab.web import ask

from certificates import Site, basic, fetch, hashed
from gpu_exporter.model import Failure, Hold, Owner
from machines import Told, answer, anything, exporter, nobody
from snapshots import reading

STATES = {"free", "held", "idle", "down", "unknown"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Two simulated machines, one that is a stranger, and one that is not there."""
    folder = tmp_path_factory.mktemp("hub")
    with ExitStack() as stack:
        machines = {}
        for seed, (alias, model, owners) in enumerate((("gpu-a", "h200", "user"), ("gpu-c", "l40s", "slurm"))):
            place = folder / alias
            place.mkdir()
            options = (f"--fake.model={model}", "--fake.gpus=4", f"--fake.seed={seed}", f"--fake.owners={owners}")
            machines[alias] = stack.enter_context(
                Exporter(place, "--source=fake", *options, "--collection.interval=1s", "--collection.timeout=1s")
            ).port
        machines["stranger"] = stack.enter_context(anything(answer("hello", kind="text/html")))
        machines["nobody"] = nobody()
        nodes = write_nodes(folder / "nodes.json", machines, rack="R12")
        hub = stack.enter_context(Hub(folder, nodes))
        hub.wait_states(**{"gpu-a": "online", "gpu-c": "online", "stranger": "offline", "nobody": "offline"})
        hub.wait(lambda: {gpu["state"] for gpu in hub.json("/api/v1/gpus?node=gpu-a")["gpus"]} <= STATES - {"unknown"})
        yield hub


def test_machines(lab: Hub) -> None:
    nodes = lab.nodes()
    assert list(nodes) == ["gpu-a", "gpu-c", "stranger", "nobody"]
    a = nodes["gpu-a"]
    assert (a["ip"], a["labels"], a["gpu_count"]) == ("127.0.0.1", {"rack": "R12"}, 4)
    assert a["exporter"] == {**a["exporter"], "source": "fake", "simulated": True, "sample_success": True}
    assert a["host"]["disks"][0]["total_bytes"] > 0
    assert "reason" not in a
    assert (nodes["nobody"]["reason"], nodes["stranger"]["reason"]) == ("refused", "not_exporter")
    assert nodes["stranger"]["message"] == "answered text/html where a gpu-exporter answers JSON"
    assert not {"host", "exporter", "last_seen_timestamp_seconds"} & set(nodes["nobody"])


def test_one_machine(lab: Hub) -> None:
    node = lab.json("/api/v1/nodes/gpu-a")
    assert [gpu["gpu"] for gpu in node["gpus"]] == [0, 1, 2, 3]
    assert {process["node"] for process in node["processes"]} == {"gpu-a"}
    assert all(isinstance(process["pid"], (int, str)) for process in node["processes"])
    status, headers, text = lab.get("/api/v1/nodes/none")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(text) == {"error": "there is no machine of that name; /api/v1/nodes lists them"}


def test_gpus_that_were_asked_for(lab: Hub) -> None:
    everything = lab.json("/api/v1/gpus")["gpus"]
    assert len(everything) == 8
    for state in STATES:
        found = lab.json(f"/api/v1/gpus?state={state}")["gpus"]
        assert {gpu["state"] for gpu in found} <= {state}
    held = next(gpu for gpu in everything if gpu.get("holders"))
    owner = held["holders"][0]["owner"]
    found = lab.json(f"/api/v1/gpus?user={owner}")["gpus"]
    assert found
    assert all(any(holder["owner"] == owner for holder in gpu["holders"]) for gpu in found)
    assert len(lab.json("/api/v1/gpus?node=gpu-c&label=rack%3DR12")["gpus"]) == 4
    assert lab.json("/api/v1/gpus?label=rack%3DR13")["gpus"] == []
    assert {gpu["model"] for gpu in lab.json("/api/v1/gpus?model=NVIDIA%20L40S")["gpus"]} == {"NVIDIA L40S"}
    assert len(lab.json("/api/v1/gpus?state=free,held,idle,down&state=unknown")["gpus"]) == 8


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("state=busy", "state: 'busy' is not known; write some of free, held, idle, down, unknown"),
        ("label=rack", "label: 'rack' is not a label; write rack=R12"),
    ],
)
def test_what_cannot_be_asked(lab: Hub, query: str, error: str) -> None:
    status, headers, text = lab.get(f"/api/v1/gpus?{query}")
    assert (status, headers["content-type"], json.loads(text)) == (400, "application/json", {"error": error})
    assert lab.get(f"/?{query}").status == 400


def test_processes_of_a_user(lab: Hub) -> None:
    everything = lab.json("/api/v1/processes")["processes"]
    user = next(process["user"] for process in everything if process.get("user"))
    found = lab.json(f"/api/v1/processes?user={user}")["processes"]
    assert found == [process for process in everything if user in process.values()]


def test_people(lab: Hub) -> None:
    told = lab.json("/api/v1/people")
    people = told["people"]
    assert told["simulated"] is True
    gpus = [gpu for gpu in lab.json("/api/v1/gpus")["gpus"] if gpu.get("holders")]
    assert sum(person["gpus"] for person in people) >= len(gpus) > 0
    assert {"gpu-a"} <= {name for person in people for name in person["nodes"]}


def test_the_table(lab: Hub) -> None:
    status, headers, text = lab.get("/api/v1/export.csv")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="gpus.csv"')
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 8
    assert {row["state"] for row in rows} <= STATES
    assert float(rows[0]["memory_total_bytes"]) > 0
    assert all(row["model"].endswith(" (simulated)") for row in rows)
    assert all(gpu["simulated"] is True for gpu in lab.json("/api/v1/gpus")["gpus"])


def test_measures_of_its_own(lab: Hub) -> None:
    families = {family.name: family for family in text_string_to_metric_families(lab.get("/metrics").text)}
    up = {sample.labels["node"]: sample.value for sample in families["gpu_hub_node_up"].samples}
    assert up == {"gpu-a": 1.0, "gpu-c": 1.0, "stranger": 0.0, "nobody": 0.0}
    assert sum(sample.value for sample in families["gpu_hub_gpus"].samples) == 8


def test_health(lab: Hub) -> None:
    assert lab.get("/livez").text == "ok\n"
    assert (lab.get("/readyz").status, lab.get("/readyz").text) == (200, "ok\n")


@pytest.mark.parametrize(
    "path", ["/", "/free", "/people", "/machines/gpu-a", "/machines/gpu-a/gpus/2", "/machines/nobody", "/docs"]
)
def test_pages(lab: Hub, path: str) -> None:
    status, headers, text = lab.get(path)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "'unsafe" not in headers["content-security-policy"]
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "set-cookie" not in headers
    assert " style=" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert lab.get(path, {"If-None-Match": headers["etag"]}).status in {200, 304}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404), ("/api/v1/nothing", 404), ("/static/hub.py", 404), ("/static/..%2fservice.py", 404),
        ("/machines/none", 404), ("/machines/gpu-a/gpus/9", 404), ("/machines/gpu-a/gpus/x", 404),
        (f"/?q={'x' * 20_000}", 414),
    ],
)  # fmt: skip
def test_what_is_not_there(lab: Hub, path: str, status: int) -> None:
    answered = lab.get(path, {"Accept": "text/html,*/*;q=0.8"})
    assert answered.status == status
    assert (answered.headers["content-type"] == "application/json") == path.startswith("/api/")
    page = path.startswith(("/nothing", "/machines/"))
    assert (answered.headers["content-type"] == "text/html; charset=utf-8") == page
    if page:
        assert '<a href="/">All machines</a>' in answered.text
        again = lab.get(path, {"Accept": "text/html", "If-None-Match": answered.headers["etag"]})
        assert again.text == answered.text
        for accept in ("*/*", "", "text/plain", "text/html;q=0,*/*"):
            line = lab.get(path, {"Accept": accept})
            assert (line.status, line.headers["content-type"]) == (status, "text/plain; charset=utf-8"), accept
            assert line.headers["vary"] == answered.headers["vary"] == "Accept, Accept-Encoding"
            assert line.text.startswith(f"{status} ")
            assert line.text.count("\n") == 1


def test_nothing_can_be_written(lab: Hub) -> None:
    status, headers, text = ask(lab.port, "/api/v1/nodes", method="POST", body="{}")
    assert (status, set(headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
    assert json.loads(text) == {"error": "Method Not Allowed"}
    assert ask(lab.port, "/", method="HEAD").text == ""


def test_answers_are_packed(lab: Hub) -> None:
    with socket.create_connection(("127.0.0.1", lab.port), timeout=patience()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert body[:2] == b"\x1f\x8b"


def test_viewers_are_told(lab: Hub) -> None:
    with socket.create_connection(("127.0.0.1", lab.port), timeout=patience()) as client:
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while data.count(b"event: state") < 3:
            data += client.recv(65536)
        told = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]
        assert told[0]["nodes"] == {"online": 2, "offline": 2, "starting": 0}
        assert sum(told[-1]["gpus"].values()) == 8
        assert told[-1]["generation"] > told[0]["generation"]
        wait_for(lambda: "gpu_hub_viewers 1.0" in lab.get("/metrics").text)
    wait_for(lambda: "gpu_hub_viewers 0.0" in lab.get("/metrics").text)


# --- machines that come and go ----------------------------------------------------------------------------------------


def test_a_machine_goes_and_comes_back_and_the_others_do_not_notice(tmp_path: Path) -> None:
    with ExitStack() as stack:
        told = Told(timestamp=None)
        well = stack.enter_context(exporter(told))
        hanging = stack.enter_context(anything(lambda _connection, _head: None))
        first = stack.enter_context(exporter(Told()))
        machines = {"well": well.port, "goes": first.port, "hangs": hanging}
        hub = stack.enter_context(Hub(tmp_path, write_nodes(tmp_path / "nodes.json", machines)))
        hub.wait_states(well="online", goes="online", hangs="offline")
        port = first.port
        first.close()
        gone = hub.wait_states(goes="offline", well="online")["goes"]
        assert gone["reason"] == "refused"
        assert gone["since_timestamp_seconds"] == gone["last_seen_timestamp_seconds"]
        (last,) = hub.json("/api/v1/nodes/goes")["gpus"]
        assert (last["state"], last["reason"]) == ("unknown", "its machine is offline")
        assert not {"utilization_ratio", "memory_used_bytes", "holders", "temperature_celsius"} & set(last)
        assert "refused the connection: nothing listens there" in hub.get("/").text
        with exporter(Told(), port=port):
            hub.wait_states(goes="online")
        assert hub.nodes()["hangs"]["message"] == "did not answer within 0.6 s"
        assert hub.nodes()["well"]["state"] == "online"


def test_nodes_yml_is_watched(tmp_path: Path) -> None:
    with exporter(Told()) as server:
        nodes = write_nodes(tmp_path / "nodes.json", {"one": server.port})
        with Hub(tmp_path, nodes) as hub:
            hub.wait_states(one="online")
            write_nodes(nodes, {"two": server.port, "one": server.port + 1})
            hub.wait(lambda: list(hub.nodes()) == ["two", "one"])
            hub.wait_states(two="online", one="offline")
            nodes.write_text('[{"targets": ["nonsense"]}]')
            hub.wait(lambda: "nonsense" in hub.get("/readyz").text)
            assert hub.states() == {"two": "online", "one": "offline"}
            complaint = "nodes.json: [0].targets: &#39;nonsense&#39; is not an exporter&#39;s address"
            assert complaint in hub.get("/").text
            assert str(tmp_path) not in hub.get("/").text
            assert "gpu_hub_config_reload_success 0.0" in hub.get("/metrics").text
            nodes.unlink()
            hub.signal(signal.SIGHUP)
            hub.wait(lambda: "No such file" in hub.get("/readyz").text)
            write_nodes(nodes, {"three": server.port})
            hub.wait_states(three="online")
            assert hub.get("/readyz").text == "ok\n"


def test_hub_yml_is_watched(tmp_path: Path) -> None:
    users = f"basic_auth_users: {{hub: '{hashed('secret')}'}}\n"
    (tmp_path / "web.yml").write_text(users)
    (tmp_path / "password").write_text("wrong")
    with Exporter(tmp_path, "--source=fake", f"--web.config.file={tmp_path / 'web.yml'}") as machine:
        nodes = write_nodes(tmp_path / "nodes.json", {"locked": machine.port})
        with Hub(tmp_path, nodes) as hub:
            assert hub.wait_states(locked="offline")["locked"]["reason"] == "login"
            hub.config.write_text("interval: 1s\nhttp_config: {basic_auth: {username: hub, password_file: password}}\n")
            hub.wait(lambda: "does not accept the login" in hub.nodes()["locked"].get("message", ""))
            (tmp_path / "password").write_text("secret")
            hub.wait_states(locked="online")
            assert "secret" not in hub.log()


def test_a_machine_whose_gpus_are_down(tmp_path: Path) -> None:
    sick = reading(1, failure=Failure("lost", "0x7f fell off /dev/nvidia1"), state="down")
    held = reading(0, state="idle_held", holds=(Hold(Owner("user", "alice", ""), 5.0),))
    with (
        exporter(Told(sick, held)) as server,
        Hub(tmp_path, write_nodes(tmp_path / "nodes.json", {"x": server.port})) as hub,
    ):
        hub.wait_states(x="online")
        (down,) = hub.json("/api/v1/gpus?state=down")["gpus"]
        assert (down["gpu"], down["reason"]) == (1, "lost: the driver cannot reach it")
        assert [gpu["gpu"] for gpu in hub.json("/api/v1/gpus?state=idle&user=alice")["gpus"]] == [0]


# --- who may look -----------------------------------------------------------------------------------------------------


def test_passwords_and_tls(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.write(rest=f"basic_auth_users: {{alice: '{hashed('secret')}'}}\n")
    nodes = write_nodes(tmp_path / "nodes.json", {})
    with Hub(tmp_path, nodes, f"--web.config.file={site.path}") as hub:
        status, headers, _ = fetch(hub.port, site.client(), "/")
        assert (status, headers["www-authenticate"]) == (401, "Basic")
        assert "content-security-policy" in headers
        assert fetch(hub.port, site.client(), "/", basic("alice", "wrong"))[0] == 401
        status, headers, text = fetch(hub.port, site.client(), "/api/v1/gpus")
        assert (status, headers["content-type"], json.loads(text)) == (
            401,
            "application/json",
            {"error": "Unauthorized"},
        )
        assert fetch(hub.port, site.client(), "/", basic("alice", "secret"))[0] == 200
        assert fetch(hub.port, site.client(), "/livez", basic("alice", "secret"))[2] == "ok\n"
        site.issue("second")  # a certificate that is replaced is served without a restart
        wait_for(lambda: "second" in str(peer(hub.port, site)))


def peer(port: int, site: Site) -> Any:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=patience()) as plain,
        site.client().wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.getpeercert()


def test_clients_that_are_not_allowed(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "nodes.json", {})
    with Hub(tmp_path, nodes, "--web.allow=10.9.9.0/24") as hub:
        assert hub.get("/").status == 403


def test_clients_certificates(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.ca.cert_pem.write_to_path(tmp_path / "client-ca.pem")
    tls = (
        "client_ca_file: client-ca.pem\nclient_auth_type: RequireAndVerifyClientCert\nclient_allowed_sans: [prometheus]"
    )
    nodes = write_nodes(tmp_path / "nodes.json", {})
    with Hub(tmp_path, nodes, f"--web.config.file={site.write(tls)}") as hub:
        assert fetch(hub.port, site.client("prometheus"), "/livez")[0] == 200
        with pytest.raises(OSError):  # a reset or an alert, as the race goes
            fetch(hub.port, site.client("mallory"), "/livez")


def test_slow_clients_keep_nobody_waiting(tmp_path: Path) -> None:
    nodes = write_nodes(tmp_path / "nodes.json", {})
    with Hub(tmp_path, nodes) as hub, ExitStack() as stack:
        half_open = [
            stack.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=patience()))
            for _ in range(300)
        ]
        for client in half_open[::2]:
            client.sendall(b"GET / HT")
        assert hub.get("/livez").status == 200
        for client in half_open[:4]:
            assert client.recv(1) == b"", "a header has five seconds"
        assert hub.get("/livez").status == 200


def resident(hub: Hub) -> float:
    """MiB of memory that the hub has."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def test_viewers_that_never_read_cost_nobody_else_anything(tmp_path: Path) -> None:
    with exporter(Told()) as server:
        nodes = write_nodes(tmp_path / "nodes.json", {"x": server.port})
        with Hub(tmp_path, nodes) as hub, ExitStack() as stack:
            began = hub.wait_states(x="online")["x"]["last_seen_timestamp_seconds"]
            for _ in range(500):
                viewer = stack.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=patience()))
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                viewer.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: "gpu_hub_viewers 500.0" in hub.get("/metrics").text)
            memory = resident(hub)
            wait_for(lambda: hub.json("/api/v1/nodes/x")["last_seen_timestamp_seconds"] >= began + 10)
            assert resident(hub) - memory < 64, "ten events that nobody reads wait for nobody"
            before = hub.json("/api/v1/nodes/x")["last_seen_timestamp_seconds"]
            wait_for(lambda: hub.json("/api/v1/nodes/x")["last_seen_timestamp_seconds"] > before)
            for _ in range(120):
                more = stack.enter_context(socket.create_connection(("127.0.0.1", hub.port), timeout=patience()))
                more.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert more.recv(4096).startswith(b"HTTP/1.1 503"), "as many as there may be"
            assert hub.get("/").status == 200


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--nodes.file=none.yml",),
            "gpu-exporter: none.yml: cannot be read: No such file or directory; write the mach",
        ),
        (("--nodes.file={bad}",), "targets: 'x' is not an exporter's address; write 'x:9435'"),
        (("--nodes.file={good}", "--hub.config.file={bad}"), "bad.yml: the file is a list"),
        (("--nodes.file={good}", "--web.listen-address=9436"), "--web.listen-address: '9436' is not an address"),
        (("--nodes.file={good}", "--web.allow=me"), "--web.allow: 'me' is not a network"),
        (("--nodes.file={good}", "--log.level=loud"), "--log.level: 'loud' is not known"),
        (("--nodes.file={good}", "--web.config.file=none.yml"), "none.yml: cannot be read"),
        (("--nodes.file={good}", "--web.listen-address=127.0.0.1:{taken}"), "Address already in use; write a free one"),
    ],
)
def test_refusals_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.yml").write_text("- targets: [x]\n")
    (tmp_path / "good.yml").write_text("[]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"bad": tmp_path / "bad.yml", "good": tmp_path / "good.yml", "taken": taken.getsockname()[1]}
        done = run("hub", *(one.format(**places) for one in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_whatever_hangs(tmp_path: Path, number: signal.Signals) -> None:
    """A machine, a viewer who reads nothing, the history's disk, and the webhook that low GPUs are told to."""
    past = tmp_path / "past"
    past.mkdir()
    disk = HungDisk(past, tmp_path)
    with exporter(Told()) as server, socket.create_server(("127.0.0.1", 0)) as deaf:
        nodes = write_nodes(tmp_path / "nodes.json", {"x": server.port, "hangs": deaf.getsockname()[1]})
        (tmp_path / "hub.yml").write_text(
            f"interval: 1s\ncontrol: {{url: 'http://127.0.0.1:{deaf.getsockname()[1]}/', dry_run: false}}\n"
        )
        with Hub(tmp_path, nodes, f"--history.path={past / 'gpu.db'}", extra=disk.env()) as hub:
            with (
                socket.create_connection(("127.0.0.1", hub.port), timeout=patience()) as viewer,
                socket.create_connection(("127.0.0.1", hub.port), timeout=patience()) as half_open,
            ):
                viewer.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
                half_open.sendall(b"GET / HTTP/1.1\r\n")
                assert viewer.recv(1)
                disk.hang()
                hub.signal(number)
                # Two seconds are for a machine that has time. What hangs here hangs for ever.
                assert hub.process.wait(patience()) == 0
            assert "Traceback" not in hub.log()
            assert "msg=stopping" in hub.log()
