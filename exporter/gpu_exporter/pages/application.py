"""The WSGI application: /metrics, /livez, /readyz, the JSON of /api/v1, and a page for people."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib import resources
from typing import Any, Final, Protocol, TypeAlias

from gpu_exporter import __version__
from gpu_exporter.catalog import CATALOG, GPU_UP
from gpu_exporter.catalog.owner_kinds import KIND_LABELS, PROCESS_LABELS
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Identity, Reading, Snapshot
from gpu_exporter.pages import status_page
from gpu_exporter.pages.exposition import OPENMETRICS, TEXT

Headers: TypeAlias = list[tuple[str, str]]
StartResponse: TypeAlias = Callable[[str, Headers], Any]

_PLAIN: Final = ("Content-Type", "text/plain; charset=utf-8")
_JSON: Final = ("Content-Type", "application/json")
_HTML: Final = ("Content-Type", "text/html; charset=utf-8")
_FRESH: Final = ("Cache-Control", "no-store")
_NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
_CSP: Final = (
    "Content-Security-Policy",
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
# The names that tell several rows apart are lists in the JSON, whatever rows a GPU happens to have.
_LISTED: Final = frozenset(metric.name for metric in CATALOG if metric.labels or metric.dynamic)
_MOST_GPUS_DIGITS: Final = 9
# An absolute or home path (also in quotes, also after = or :), a pointer.
_PRIVATE: Final = re.compile(r"(?<![\w.])~?/[^\s'\",;)]+|\b0x[0-9A-Fa-f]+\b")


class Provider(Protocol):
    """What the pages show. Every method answers at once, from any thread."""

    def exposition(self, *, openmetrics: bool, gzip: bool) -> bytes:
        """The bytes of /metrics."""

    def snapshot(self) -> Snapshot:
        """The newest snapshot; without readings where they are stale."""

    def live(self) -> str | None:
        """None, or why a restart would help."""

    def ready(self) -> str | None:
        """None, or why there is no fresh sample."""


class Application:
    """Routes requests. It keeps no state of its own and never waits, which is how it honours a scrape's timeout."""

    def __init__(
        self,
        *,
        provider: Provider,
        telemetry_path: str = "/metrics",
        process_labels: Sequence[str] = PROCESS_LABELS,
    ) -> None:
        self._provider = provider
        self._labels = process_labels
        self._telemetry_path = telemetry_path
        self._routes: dict[str, Callable[[Mapping[str, Any]], tuple[str, Headers, bytes]]] = {
            "/": self._page,
            "/livez": lambda _: _health(self._trouble(provider.live())),
            "/readyz": lambda _: _health(self._trouble(provider.ready())),
            "/api/v1/gpus": self._gpus,
            "/api/v1/processes": self._processes,
            "/api/v1/openapi.json": lambda _: ("200 OK", [_JSON, _NOSNIFF], self._openapi),
            telemetry_path: self._metrics,
        }

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request (PEP 3333)."""
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            headers = [_PLAIN, ("Allow", "GET, HEAD")]
            status, body = "405 Method Not Allowed", b"405 Method Not Allowed\n"
        elif route := self._routes.get(path):
            status, headers, body = route(environ)
        elif path.startswith("/api/v1/gpus/"):
            status, headers, body = self._gpu(path.removeprefix("/api/v1/gpus/"))
        else:
            status, headers, body = _not_found()
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def _metrics(self, environ: Mapping[str, Any]) -> tuple[str, Headers, bytes]:
        openmetrics = wants_openmetrics(environ.get("HTTP_ACCEPT", ""))
        gzip = wants_gzip(environ.get("HTTP_ACCEPT_ENCODING", ""))
        headers = [("Content-Type", OPENMETRICS if openmetrics else TEXT), ("Vary", "Accept, Accept-Encoding"), _FRESH]
        if gzip:
            headers.append(("Content-Encoding", "gzip"))
        return "200 OK", headers, self._provider.exposition(openmetrics=openmetrics, gzip=gzip)

    def _page(self, _environ: Mapping[str, Any]) -> tuple[str, Headers, bytes]:
        text = status_page.render(
            self._provider.snapshot(),
            live=self._trouble(self._provider.live()),
            ready=self._trouble(self._provider.ready()),
            now=time.time(),
            telemetry_path=self._telemetry_path,
        )
        return "200 OK", [_HTML, _FRESH, _NOSNIFF, _CSP, ("Referrer-Policy", "no-referrer")], text.encode()

    @staticmethod
    def _trouble(why: str | None) -> str | None:
        """A source's words as far as they may leave: paths and handles are for the log."""
        return None if why is None else _PRIVATE.sub("...", why)

    def _gpus(self, _environ: Mapping[str, Any]) -> tuple[str, Headers, bytes]:
        return _json(document(self._provider.snapshot()))

    def _processes(self, _environ: Mapping[str, Any]) -> tuple[str, Headers, bytes]:
        return _json(processes_document(self._provider.snapshot(), self._labels))

    def _gpu(self, wanted: str) -> tuple[str, Headers, bytes]:
        # Not isdigit: other alphabets have digits too.
        index = int(wanted) if wanted.isascii() and wanted.isdecimal() and len(wanted) <= _MOST_GPUS_DIGITS else None
        for reading in self._provider.snapshot().readings:
            if wanted == reading.device.uuid or index == reading.device.index:
                return _json(gpu_document(reading))
        return _not_found()

    @cached_property
    def _openapi(self) -> bytes:
        text = resources.files("gpu_exporter.pages").joinpath("openapi.json").read_text("utf-8")
        description = json.loads(text)
        description["info"]["version"] = __version__
        process = description["components"]["schemas"]["Process"]["properties"]
        names = [*process]
        after = names.index("container") + 1
        names[after:after] = KIND_LABELS
        description["components"]["schemas"]["Process"]["properties"] = {
            name: process.get(name, {"type": "string"}) for name in names
        }
        description["paths"] = {
            self._telemetry_path if path == "/metrics" else path: operations
            for path, operations in description["paths"].items()
        }
        return json.dumps(description, indent=1).encode()


# --- JSON: the shape is described in openapi.json -------------------------------------------------------------


def document(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as /api/v1/gpus tells it."""
    told: dict[str, Any] = {
        "source": snapshot.source,
        "simulated": snapshot.source == "fake",
        "sample_success": snapshot.ok,
    }
    if snapshot.timestamp is not None:
        told["sample_timestamp_seconds"] = snapshot.timestamp
    if snapshot.driver is not None:
        told["driver"] = {name: value for name, value in asdict(snapshot.driver).items() if value}
    readings = sorted(snapshot.readings, key=lambda reading: reading.device.index)
    told["gpus"] = [gpu_document(reading) for reading in readings]
    return told


def gpu_document(reading: Reading) -> dict[str, Any]:
    """One GPU: identity, state, and its metrics under their own names; what it does not have is absent."""
    device = reading.device
    identity = {name: value for name, value in asdict(device).items() if value and name != "index"}
    up = reading.failure is None
    metrics: dict[str, Any] = {GPU_UP.name: int(up)}
    rows = [(row, dict(row.labels), reading.values.get(row)) for row in CATALOG if row is not GPU_UP]
    rows += [
        (row, {**dict(row.labels), **{k: v for k, v in zip(row.dynamic, texts, strict=True) if v}}, value)
        for (row, texts), value in _labelled(reading)
    ]
    for row, labels, value in rows:
        if value is None or not math.isfinite(value):  # JSON has no word for infinity
            continue
        number = int(value) if float(value).is_integer() and abs(value) < 2**53 else value
        if row.name in _LISTED:
            metrics.setdefault(row.name, []).append({"labels": labels, "value": number})
        else:
            metrics[row.name] = number
    # The failure's own words are for the log: they may hold what must not leave by HTTP.
    failure = None if reading.failure is None else reading.failure.reason
    return {"gpu": device.index, **identity, "up": up, "failure": failure, "metrics": metrics}


def processes_document(snapshot: Snapshot, labels: Sequence[str]) -> dict[str, Any]:
    """Every process on every GPU; what is not known, and the labels that the site does not want, are absent."""
    told = []
    for reading in sorted(snapshot.readings, key=lambda reading: reading.device.index):
        for process in reading.processes or ():
            facts = {"pid": process.pid, **(process.identity or Identity()).all_labels()}
            entry = {"gpu": reading.device.index, "uuid": reading.device.uuid, "mig_uuid": process.mig_uuid}
            entry |= {"type": process.type, **{name: facts.get(name, "") for name in labels}}
            if process.memory_used is not None:
                entry["memory_used_bytes"] = int(process.memory_used)
            if process.utilization is not None:
                entry["utilization_ratio"] = process.utilization
            told.append({name: value for name, value in entry.items() if value != ""})
    return {"source": snapshot.source, "simulated": snapshot.source == "fake", "processes": told}


def _labelled(reading: Reading) -> list[tuple[tuple[Metric, tuple[str, ...]], float]]:
    """Rows with labels valued at run time; 2 stands before 10."""
    return sorted(
        reading.labelled.items(), key=lambda item: (item[0][0].name, [(len(text), text) for text in item[0][1]])
    )


def _json(value: Any) -> tuple[str, Headers, bytes]:
    return "200 OK", [_JSON, _FRESH, _NOSNIFF], json.dumps(value, allow_nan=False).encode()


def _health(trouble: str | None) -> tuple[str, Headers, bytes]:
    if trouble is None:
        return "200 OK", [_PLAIN, _FRESH], b"ok\n"
    return "503 Service Unavailable", [_PLAIN, _FRESH, _NOSNIFF], f"{trouble}\n".encode()


def _not_found() -> tuple[str, Headers, bytes]:
    return "404 Not Found", [_PLAIN], b"404 Not Found\n"


# --- content negotiation (RFC 9110 section 12.5) ---------------------------------------------------------------------


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics 1.0 is asked for by name and nothing that we would serve instead is wanted more.

    Protobuf is not served; parameters such as ``escaping`` change nothing, since no name of ours needs it. Someone who
    accepts neither format gets the text one: scrapers and curl do better with an answer than with a 406.
    """
    openmetrics = 0.0
    text: dict[str, float] = {}
    for name, parameters, weight in _weighted(accept):
        if name == "application/openmetrics-text":
            if parameters.get("version", "1.0.0") == "1.0.0":
                openmetrics = max(openmetrics, weight)
        elif name in {"text/plain", "text/*", "*/*"}:
            text[name] = max(text.get(name, 0.0), weight)
    # The most precise range that covers text/plain decides about it.
    other = next((text[name] for name in ("text/plain", "text/*", "*/*") if name in text), 0.0)
    return openmetrics > 0 and openmetrics >= other


def wants_gzip(accept_encoding: str) -> bool:
    """Whether gzip is accepted, and not less than no encoding."""
    weights = {name: weight for name, _, weight in _weighted(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weighted(header: str) -> list[tuple[str, dict[str, str], float]]:
    """The items of an Accept header with parameters and weight. What cannot be read weighs nothing."""
    items = []
    for item in header.split(","):
        name, *pieces = (piece.strip() for piece in item.lower().split(";"))
        pairs = (piece.partition("=") for piece in pieces)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        items.append((name, parameters, weight if 0.0 <= weight <= 1.0 else 0.0))
    return items
