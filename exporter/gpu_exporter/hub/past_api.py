"""The API of the past: history, results, control."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpu_exporter.catalog.simulated import is_simulated
from gpu_exporter.config.parsers import RefusedError, duration_between, moment, quoted
from gpu_exporter.hub.archive import CHARTS, GpuKey
from gpu_exporter.hub.control import delivery_document
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.packing import as_json
from gpu_exporter.hub.past import Past
from gpu_exporter.hub.results import log_document, results_document, stats_document

NOTHING_KEPT: Final = "nothing is kept: start the hub with --history.path FILE, or with --prometheus.url URL"
WINDOW: Final = duration_between(600, 400 * 86400)
_EARLIEST: Final = 946_684_800.0  # 2000-01-01
_LATEST: Final = 4_102_444_800.0  # 2100-01-01
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
        gpu = await self._gpu(query.get("gpu", ""), query.get("node", ""))
        metric = query.get("metric", "gpu_utilization_ratio")
        end = _moment(query.get("to"), "to", time.time())
        start = _moment(query.get("from"), "from", end - 3600)
        step = _step(query.get("step"), start, end)
        curve = await asyncio.to_thread(self._past.archive.curve, gpu, metric, start=start, end=end, step=step)
        return as_json(
            request,
            {
                "node": gpu.node,
                "gpu": gpu.number,
                "uuid": gpu.uuid,
                "simulated": is_simulated(gpu.uuid),
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

    async def _gpu(self, name: str, node: str) -> GpuKey:
        """A GPU by its UUID, or by index on a machine: of those that are there, or were."""
        if not name:
            raise HTTPException(400, "gpu: is missing; write a UUID, or an index with node=")
        for gpu in self._fleet.gpus():
            if (not node or gpu.node == node) and name in ((gpu.uuid, str(gpu.index)) if node else (gpu.uuid,)):
                return GpuKey(gpu.node, gpu.index, gpu.uuid)
        if found := await asyncio.to_thread(self._past.archive.find, node, name):
            return found
        if name.isdecimal() and not node:
            raise HTTPException(400, f"gpu: {quoted(name)} is an index; write node= as well, or a UUID")
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
        # The + of a zone is a space in a URL, unless it is written %2B.
        told = moment(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
    except RefusedError as error:
        raise HTTPException(400, f"{name}: {error}") from None
    if not _EARLIEST <= told <= _LATEST:
        raise HTTPException(400, f"{name}: {quoted(text)} is out of range; write a time from 2000 to 2099")
    return told


def _step(text: str | None, start: float, end: float) -> float:
    """Seconds; without a wish whole minutes, so that a chart of any length has about as many points."""
    if not text:
        return max(60.0, math.ceil((end - start) / _POINTS / 60) * 60.0)
    try:
        return duration_between(60, 400 * 86400)(f"{text}s" if re.fullmatch(r"[0-9]{1,8}", text) else text)
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
    if asked and asked["window"] in (None, ""):
        raise HTTPException(400, "window: is empty; write 24h or 7d, or leave it out")
    return _window(asked.get("window"))
