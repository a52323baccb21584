"""What can go wrong between the report and a Prometheus: a real HTTP server that does it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from tools.lab.exporter import run
from tools.lab.ports import free_port

from gpu_exporter.report.client import Access, Client, ReportError, Series

SECRET = "open sesame".replace(" ", "-")
UNAUTHORIZED = (
    "401 Unauthorized: wants a login (--prometheus.bearer-token-file, or --prometheus.username and "
    "--prometheus.password-file) or a tenant (--prometheus.header)"
)
NOT_FOUND = (
    "404 Not Found: has no Prometheus API here; write the URL up to what stands before /api/v1 "
    "(Mimir: http://HOST/prometheus)"
)
NOT_JSON = " that is not JSON: it is no Prometheus API, or a login page stands before it"


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Answer:
    """One answer; ``act`` writes it where an ordinary one will not do."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


def success(result: list[Any] | None = None, **rest: Any) -> Answer:
    data = {"resultType": "matrix", "result": result or []}
    return Answer(body=json.dumps({"status": "success", "data": data, **rest}).encode())


class Api:
    """An HTTP server on a free port that answers as it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer] = lambda _: success()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _serve(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                form = dict(urllib.parse.parse_qsl("&".join(part for part in (query, body) if part)))
                asked = Asked(self.command, path, {name.lower(): value for name, value in self.headers.items()}, form)
                api.asked.append(asked)
                answer = api.answer(asked)
                if answer.act is not None:
                    answer.act(self)
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = _serve  # noqa: N815 - the names that http.server looks for

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


def ask(url: str, **access: Any) -> list[Series]:
    return Client(Access(url, **access)).range("up", start=0, end=600, step=300)


def failure(url: str, **access: Any) -> str:
    """What the one line says after the URL."""
    with pytest.raises(ReportError) as raised:
        ask(url, **access)
    message = str(raised.value)
    assert "\n" not in message
    base = url.partition("?")[0].rstrip("/")
    assert message.startswith(f"{base}: "), message
    return message.removeprefix(f"{base}: ")


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/", "/prometheus", "/select/0/prometheus/", "/x/api/v1", "/api/v1/query"])
def test_the_query_is_a_posted_form_below_the_prefix(api: Api, suffix: str) -> None:
    ask(api.url + suffix)
    (asked,) = api.asked
    prefix = suffix.removesuffix("/query").removesuffix("/api/v1").rstrip("/")
    assert (asked.method, asked.path) == ("POST", f"{prefix}/api/v1/query_range")
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.form == {"query": "up", "start": "0.000", "end": "600.000", "step": "300.000"}


def test_a_query_in_the_url_is_kept(api: Api) -> None:
    ask(f"{api.url}/prometheus?dedup=true")
    assert api.asked[0].path == "/prometheus/api/v1/query_range"
    assert api.asked[0].form["dedup"] == "true"


@pytest.mark.parametrize("status", [405, 501])
def test_get_where_post_is_not_taken(api: Api, status: int) -> None:
    api.answer = lambda asked: Answer(status) if asked.method == "POST" else success()
    client = Client(Access(api.url))
    for _ in range(2):
        assert client.range("up", start=0, end=600, step=300) == []
    assert [asked.method for asked in api.asked] == ["POST", "GET", "GET"]
    assert api.asked[1].form == api.asked[0].form


def test_headers_and_logins(api: Api) -> None:
    ask(api.url, headers=(("X-Scope-OrgID", "lab"),), token=SECRET)
    ask(api.url, username="me", password=f"{SECRET}-ä")
    assert api.asked[0].headers["x-scope-orgid"] == "lab"
    assert api.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    assert base64.b64decode(api.asked[1].headers["authorization"].removeprefix("Basic ")).decode() == f"me:{SECRET}-ä"
    assert SECRET not in repr(Access(api.url, token=SECRET))


# --- what is answered -------------------------------------------------------------------------------------------------

RESULT = [
    {"metric": {"__name__": "up", "instance": "a"}, "values": [[0, "1"], [300, "NaN"], [600.5, "2.5e0"], [900, "+Inf"]]}
]


@pytest.mark.parametrize("packed", [False, True])
def test_the_answer_is_read(api: Api, packed: bool) -> None:
    plain = success(RESULT)
    api.answer = lambda _: (
        Answer(body=gzip.compress(plain.body), headers={"Content-Encoding": "gzip"}) if packed else plain
    )
    assert ask(api.url) == [Series({"instance": "a"}, [(0.0, 1.0), (600.5, 2.5)])]
    assert api.asked[0].headers["accept-encoding"] == "gzip"


def test_warnings_gather_once(api: Api) -> None:
    api.answer = lambda _: success(warnings=["store-1 is away\x1b[2J"], isPartial=True)
    client = Client(Access(api.url))
    for _ in range(2):
        client.range("up", start=0, end=600, step=300)
    assert client.warnings == ["store-1 is away?[2J", "some of its storage did not answer (isPartial)"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(401, b"no org id\n", "text/plain"), f"{UNAUTHORIZED}: no org id"),
        (Answer(403, b"<html>no</html>", "text/html"), "403 Forbidden: may not be asked with this login"),
        (Answer(404, b"<html>not found</html>", "text/html"), NOT_FOUND),
        (
            Answer(302, headers={"Location": "https://sso.example.com/login"}),
            "302 Found: sends us on to https://sso.example.com/login; write the final URL",
        ),
        (
            Answer(422, b'{"status":"error","errorType":"execution","error":"query processing would load too many"}'),
            "422 Unprocessable Entity: query processing would load too many",
        ),
        (Answer(503, b""), "503 Service Unavailable"),
        (Answer(200, b"<html>log in</html>", "text/html; charset=utf-8"), "answered text/html" + NOT_JSON),
        (Answer(200, b'{"status":"succ'), "answered application/json" + NOT_JSON),
        (Answer(200, b"[" * 100_000), "answered application/json" + NOT_JSON),
        (Answer(200, b'["hello"]'), "answered JSON that is not the Prometheus API's"),
        (Answer(200, b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[["x"]]}]}}'),
         "answered JSON that is not the Prometheus API's"),
        (Answer(200, b'{"status":"error","error":"too\\nlong"}'), "refused the query: too long"),
        (Answer(200, b'{"status":"success","data":{"resultType":"vector","result":[]}}'),
         "answered a vector where a matrix was asked for"),
        (Answer(200, gzip.compress(b'{"status":"success"}')[:-9], headers={"Content-Encoding": "gzip"}),
         "broke off in the middle of an answer"),
    ],
)  # fmt: skip
def test_one_line_for_every_refusal(api: Api, answer: Answer, message: str) -> None:
    api.answer = lambda _: answer
    assert failure(api.url) == message


def test_a_login_that_is_not_accepted(api: Api) -> None:
    api.answer = lambda _: Answer(401)
    assert failure(api.url, token=SECRET) == "401 Unauthorized: does not accept the login"


def test_a_login_is_not_carried_to_another_host(api: Api) -> None:
    other = Api()
    try:
        api.answer = lambda _: Answer(307, headers={"Location": other.url})
        assert "sends us on to" in failure(api.url, token=SECRET)
        assert other.asked == []
    finally:
        other.close()


def test_a_proxy_is_asked_for_other_machines_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", api.url)
    assert ask("http://prometheus.invalid:9090") == []
    assert api.asked[0].path == "http://prometheus.invalid:9090/api/v1/query_range"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(api.url) == []


@pytest.mark.parametrize(
    "host", ["127.1", "localhost.", "LOCALHOST", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0"]
)
def test_no_proxy_sees_what_is_asked_of_this_machine(api: Api, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    proxy = Api()
    try:
        monkeypatch.setenv("http_proxy", proxy.url)
        with contextlib.suppress(ReportError):  # not all of them are spellings that every resolver takes
            ask(f"http://{host}:{api.server.server_port}", token="secret")  # noqa: S106 - made up
        assert proxy.asked == []
    finally:
        proxy.close()


def test_a_login_that_travels_in_the_clear_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", api.url)
    client = Client(Access("http://prometheus.invalid:9090", token="secret"))  # noqa: S106 - made up
    assert client.warnings == ["the login travels in the clear: write an https URL"]
    assert Client(Access(api.url, token="secret")).warnings == []  # noqa: S106 - made up


def test_a_small_answer_that_would_be_enormous_in_memory(api: Api) -> None:
    bomb = gzip.compress(b"[" + b"[]," * (30 * 1024**2) + b"[]]")
    assert len(bomb) < 1024**2
    api.answer = lambda _: Answer(body=bomb, headers={"Content-Encoding": "gzip"})
    assert failure(api.url) == "answered JSON that is not the Prometheus API's"


def test_a_refused_port() -> None:
    assert failure(f"http://127.0.0.1:{free_port()}") == "cannot be reached: Connection refused"


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    assert failure("http://prometheus.invalid:9090").startswith("cannot be reached: no such host (")


def test_what_is_no_web_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        message = failure(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert message == "does not answer as a web server does: 220 mail.example.com ESMTP"


def _trickle(handler: BaseHTTPRequestHandler, stop: threading.Event, *, silent: bool) -> None:
    """A good answer, much too late: after ten seconds at once, or byte by byte on the way there."""
    body = success().body.rjust(1000)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    try:
        for number in range(len(body)):
            if not stop.wait(0.01) and not silent:
                handler.wfile.write(body[number : number + 1])
        if silent:
            handler.wfile.write(body)
    except OSError:
        pass


@pytest.mark.parametrize("silent", [False, True])
def test_the_deadline_holds(api: Api, silent: bool) -> None:
    """No byte at all, and a byte now and then: a socket's timeout sees only the first."""
    stop = threading.Event()
    api.answer = lambda _: Answer(act=lambda handler: _trickle(handler, stop, silent=silent))
    try:
        message = failure(api.url, timeout=0.3)
    finally:
        stop.set()
    ways = ("did not answer within 0.3 s; ", "cannot be reached: it does not answer in time")
    assert message.startswith(ways if silent else ways[:1])


def test_an_answer_that_breaks_off(api: Api) -> None:
    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status"')

    api.answer = lambda _: Answer(act=half)
    assert failure(api.url) == "broke off in the middle of an answer"


def test_a_huge_answer_is_not_read_to_its_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_exporter.report.client._LARGEST", 1024**2)
    bomb = gzip.compress(b" " * 50 * 1024**2)
    api.answer = lambda _: Answer(body=bomb, headers={"Content-Encoding": "gzip"})
    assert failure(api.url) == "answered more than 1 MiB; narrow it with --match"


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_tls_with_a_ca_of_ones_own(api: Api, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    url = api.url.replace("http:", "https:")
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    assert ask(url, ca_file=ca_file) == []
    assert failure(url).startswith("cannot be trusted: ")
    assert failure(url).endswith("--prometheus.ca-file names the CA that signed it")


def test_tls_spoken_to_plain_http(api: Api) -> None:
    assert failure(api.url.replace("http:", "https:")).startswith("does not speak TLS as we do: ")


# --- the command line -------------------------------------------------------------------------------------------------


def refused(*arguments: str, extra: dict[str, str] | None = None) -> str:
    done = run("report", *arguments, extra=extra)
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("gpu-exporter: ")


def test_secrets_come_from_files_and_the_environment_only(api: Api, tmp_path: Path) -> None:
    api.answer = lambda _: Answer(401)
    file = tmp_path / "token"
    file.write_text("from-file\n")
    refused(f"--prometheus.url={api.url}", f"--prometheus.bearer-token-file={file}")
    extra = {"GPU_EXPORTER_PROMETHEUS_URL": api.url, "GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN": "from-environment"}
    refused(extra=extra)
    refused(
        "--prometheus.username=me",
        extra={
            "GPU_EXPORTER_PROMETHEUS_URL": api.url,
            "GPU_EXPORTER_PROMETHEUS_PASSWORD": "word",
            "GPU_EXPORTER_PROMETHEUS_HEADER": "X-Scope-OrgID: my lab\nX-Two: 2",
        },
    )
    logins = [asked.headers["authorization"] for asked in api.asked]
    assert logins == ["Bearer from-file", "Bearer from-environment", "Basic bWU6d29yZA=="]
    assert (api.asked[-1].headers["x-scope-orgid"], api.asked[-1].headers["x-two"]) == ("my lab", "2")
