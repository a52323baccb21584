"""The description of the API, held against what a real hub answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tools.lab.hub import Hub, write_nodes
from tools.lab.wait import patience
from tools.lab.web import ask

from gpu_exporter.hub.openapi import openapi_document
from machines import Told, exporter, nobody
from past import Gpu, write

DOCUMENT: dict[str, Any] = openapi_document()
GETS = {path: operations["get"] for path, operations in DOCUMENT["paths"].items() if "get" in operations}
STREAM = "/api/v1/events"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("openapi")
    history = folder / "history.db"
    write(history, {"one": [Gpu(3, "idle_held", "bob")]}, start=time.time() // 60 * 60 - 1800, hours=0.4)
    with ExitStack() as stack:
        machines = {"one": stack.enter_context(exporter(Told())).port, "gone": nobody()}
        nodes = write_nodes(folder / "nodes.json", machines, rack="R1")
        made = stack.enter_context(Hub(folder, nodes, f"--history.path={history}"))
        made.wait_states(one="online", gone="offline")
        yield made


def check(path: str, method: str, status: int, kind: str, text: str) -> None:
    """The answer is one of those that are described."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    assert str(status) in responses, f"{method} {path} answers {status}: {text[:300]}"
    content = responses[str(status)]["content"]
    media = kind.partition(";")[0]
    assert media in content, (path, status, kind)
    if media == "application/json":
        schema = {**content[media]["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(json.loads(text))


def fill(path: str) -> str:
    return path.replace("{name}", "one")


@pytest.mark.parametrize("path", [path for path in GETS if path != STREAM])
def test_what_is_described_is_answered(hub: Hub, path: str) -> None:
    query = "?gpu=GPU-3" if path.endswith("/history") else ""
    answered = hub.get(fill(path) + query)
    assert answered.status == 200
    check(path, "get", answered.status, answered.headers["content-type"], answered.text)


def test_the_schemas_are_schemas_and_forbid_something() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object", name
    gpu = {**DOCUMENT["components"]["schemas"]["Gpu"], "components": DOCUMENT["components"]}
    assert not Draft202012Validator(gpu).is_valid({"node": "a", "gpu": 1, "state": "busy"})


def test_every_route_is_described(hub: Hub) -> None:
    assert {path for path in DOCUMENT["paths"] if path.startswith("/api/")} >= {
        "/api/v1/nodes", "/api/v1/nodes/{name}", "/api/v1/gpus", "/api/v1/processes", "/api/v1/history",
        "/api/v1/results", "/api/v1/results/low", "/api/v1/results/stats", "/api/v1/analyze", "/api/v1/events",
        "/api/v1/export.csv",
    }  # fmt: skip
    page = hub.get("/docs").text
    assert all(path in page for path in DOCUMENT["paths"])


# A schema cannot say that a window is ten minutes at least, or that a GPU is there. A hundred values of everything may
# be too long for the query before they are too many.
CHECKS = """\
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 404, 405, 414]
"""


def test_schemathesis_finds_nothing(hub: Hub, tmp_path: Path) -> None:
    """Every kind of question that the description lets through or forbids, and what is answered to it."""
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run",
            f"http://127.0.0.1:{hub.port}/api/v1/openapi.json",
            f"--exclude-path={STREAM}",  # it never ends
            "--phases=coverage,fuzzing", "--max-examples=25", "--generation-deterministic",
            f"--request-timeout={patience()}", "--continue-on-failure", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=patience(180), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bug in gpu-exporter" not in hub.log()


WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["free", "held,idle", "one", "GPU-3", "rack=R1", "=", "7d", "24h", "1m", "2026-11-01", "1700000000", "-1", "0"]
    ),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_asked_the_answer_is_one_that_is_described(hub: Hub, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in GETS if path != STREAM]))
    names = [entry["name"] for entry in GETS[path].get("parameters", ()) if entry["in"] == "query"] or ["x"]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(names), WORDS), max_size=5))
    place = path.replace("{name}", quote(data.draw(st.text(min_size=1, max_size=20)), safe=""))
    query = urlencode([(name, text.encode("utf-8", "surrogatepass")) for name, text in pairs])
    answered = hub.get(f"{place}?{query}")
    if "{name}" in path and answered.headers["content-type"].startswith("text/plain"):
        return  # a name such as .. leads to another page
    check(path, "get", answered.status, answered.headers["content-type"], answered.text)
    assert "bug in gpu-exporter" not in answered.text


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.text(max_size=50), st.dictionaries(st.sampled_from(["window", "x"]), WORDS).map(json.dumps)))
def test_whatever_is_posted_the_answer_is_one_that_is_described(hub: Hub, body: str) -> None:
    answered = ask(hub.port, "/api/v1/analyze", method="POST", body=body.encode("utf-8", "replace").decode("latin-1"))
    check("/api/v1/analyze", "post", answered.status, answered.headers["content-type"], answered.text)
