"""The API of the past: history, results, control."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_exporter.config.parsers import RefusedError, duration_between, moment, quoted
from gpu_exporter.hub.archive import CHARTS, GpuKey
from gpu_exporter.hub.control import delivery_document
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.packing import as_json
from gpu_exporter.hub.past import Past
from gpu_exporter.hub.results import log_document, results_document, stats_document
from gpu_exporter.hub.state import Gpu

NOTHING_KEPT: Final = "nothing is kept: start the hub with --history.path FILE, or with --prometheus.url URL"
WINDOW: Final = duration_between(600, 400 * 86400)
_POINTS: Final = 360  # of a curve, unless a step is asked for
_LARGEST_BODY: Final = 4096
_BODY_SECONDS: Final = 5.0


def past_routes(past: Past, fleet: Fleet) -> Sequence[Route]:
    """The routes over what is kept."""
    api = _PastApi(past, fleet)
    pages: dict[str, Callable[[Request], Any]] = {
        "/api/v1/history": api.history,
        "/api/v1/results": api.results,
        "/api/v1/results/low": api.low,
        "/api/v1/results/stats": api.stats,
        "/api/v1/results/log": api.log,
        "/api/v1/control": api.control,
    }
    return [
        *(Route(path, page, methods=["GET"]) for path, page in pages.items()),
        Route("/api/v1/analyze", api.analyse, methods=["POST"]),
    ]


class _PastApi:
    """One method a path."""

    def __init__(self, past: Past, fleet: Fleet) -> None:
        self._past = past
        self._fleet = fleet

    async def history(self, request: Request) -> Response:
        query = request.query_params
        gpu = self._gpu(query.get("gpu", ""), query.get("node", ""))
        metric = query.get("metric", "gpu_utilization_ratio")
        now = time.time()
        end = _moment(query.get("to"), "to", now)
        start = _moment(query.get("from"), "from", end - 3600)
        if not start < end:
            raise HTTPException(400, "from, to: the window ends before it begins")
        step = _step(query.get("step"), start, end)
        curve = await asyncio.to_thread(
            self._past.archive.curve, GpuKey(gpu.node, gpu.index, gpu.uuid), metric, start=start, end=end, step=step
        )
        return as_json(
            request,
            {
                "node": gpu.node,
                "gpu": gpu.index,
                "uuid": gpu.uuid,
                "metric": metric,
                "title": CHARTS.get(metric, metric),
                "unit": curve.unit,
                "start_timestamp_seconds": curve.start,
                "step_seconds": curve.step,
                "means": curve.means,
                "highs": curve.highs,
            },
        )

    async def results(self, request: Request) -> Response:
        analysis = await self._past.results.of(window_of(request))
        return as_json(request, results_document(analysis, (*analysis.holds, *analysis.gpus)))

    async def low(self, request: Request) -> Response:
        analysis = await self._past.results.of(window_of(request))
        return as_json(request, results_document(analysis, analysis.low))

    async def stats(self, request: Request) -> Response:
        config = self._past.config
        analysis = await self._past.results.of(window_of(request))
        return as_json(request, stats_document(analysis, price=config.price, currency=config.currency))

    async def log(self, request: Request) -> Response:
        return as_json(request, log_document(self._past.results))

    async def control(self, request: Request) -> Response:
        controller = self._past.controller
        deliveries = [delivery_document(one) for one in reversed(controller.log)]
        return as_json(
            request,
            {
                "enabled": controller.config.url is not None,
                "dry_run": controller.config.dry_run,
                "deliveries": deliveries,
            },
        )

    async def analyse(self, request: Request) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise HTTPException(403, "another site may not ask for that")
        window = await _asked_window(request)
        config = self._past.config
        analysis = await self._past.analyse(window)
        return as_json(request, stats_document(analysis, price=config.price, currency=config.currency))

    def _gpu(self, name: str, node: str) -> Gpu:
        """A GPU by its UUID, or by index on a machine."""
        for gpu in self._fleet.gpus():
            if (not node or gpu.node == node) and (gpu.uuid == name if not node or not name.isdecimal() else False):
                return gpu
            if node and gpu.node == node and name == str(gpu.index):
                return gpu
        if not name:
            raise HTTPException(400, "gpu: is missing; write a UUID, or an index with node=")
        raise HTTPException(404, "there is no such GPU; /api/v1/gpus lists them")


def window_of(request: Request) -> float | None:
    """The window that was asked for; None for the usual one."""
    return _window(request.query_params.get("window"))


def _window(text: Any) -> float | None:
    if text in (None, ""):
        return None
    try:
        return WINDOW(text)
    except RefusedError as error:
        raise HTTPException(400, f"window: {error}") from None


def _moment(text: str | None, name: str, default: float) -> float:
    if not text:
        return default
    try:
        return moment(text)
    except RefusedError as error:
        raise HTTPException(400, f"{name}: {error}") from None


def _step(text: str | None, start: float, end: float) -> float:
    """Whole minutes, so that a chart of any length has about as many points."""
    if not text:
        return max(60.0, math.ceil((end - start) / _POINTS / 60) * 60.0)
    try:
        return duration_between(60, 400 * 86400)(text)
    except RefusedError as error:
        raise HTTPException(400, f"step: {error}") from None


async def _asked_window(request: Request) -> float | None:
    """The window of a body, which may be empty, or ``{"window": "7d"}``."""
    body = b""

    async def read() -> None:
        nonlocal body
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_BODY:
                raise HTTPException(413, 'the body is too large; write {} or {"window": "7d"}')

    try:
        await asyncio.wait_for(read(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, "the body did not come") from None
    if not body.strip():
        return window_of(request)
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise HTTPException(400, 'the body is not JSON; write {} or {"window": "7d"}') from None
    if not isinstance(asked, dict):
        raise HTTPException(400, 'the body is no object; write {} or {"window": "7d"}')
    for key in asked:
        if key != "window":
            raise HTTPException(400, f"{quoted(key)[1:-1]}: unknown key; write window")
    return _window(asked.get("window"))
