"""The pages for people: rendered here, whole without JavaScript; the templates escape every text from a machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gpu_exporter import __version__
from gpu_exporter.config.parsers import RefusedError
from gpu_exporter.hub import documents, selection, words
from gpu_exporter.hub.alerts import Alert, Alerts
from gpu_exporter.hub.archive import CHARTS, ArchiveError, GpuKey
from gpu_exporter.hub.charts import RANGES, Chart
from gpu_exporter.hub.document import shown, whole
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.groups import by_holder, by_node, holders, oldest_idle
from gpu_exporter.hub.openapi import openapi_document
from gpu_exporter.hub.packing import packed
from gpu_exporter.hub.past import Past
from gpu_exporter.hub.past_api import NOTHING_KEPT, window_of
from gpu_exporter.hub.results import stats_document
from gpu_exporter.hub.selection import Selection, SelectionError
from gpu_exporter.hub.sheets import Sheet, sheet
from gpu_exporter.hub.state import STATES, Gpu, Holder, NodeState, Person, disk_share
from gpu_exporter.hub.tiles import gpu_url, machine_url, tile

T = TypeVar("T")
_NAV: Final = (("/", "Machines"), ("/free", "Free now"), ("/people", "People"), ("/waste", "Waste"))
_CSP_HTML: Final = "text/html; charset=utf-8"
_SORTS: Final[Mapping[str, Callable[[NodeState], Any]]] = {
    "name": lambda state: state.node.name.casefold(),
    "free": lambda state: -sum(gpu.state == "free" for gpu in state.gpus),
    "cpu": lambda state: -(state.host.cpu_utilization_ratio or 0.0),
    "memory": lambda state: -(_memory_share(state) or 0.0),
    "disk": lambda state: -((disk_share(state.disk) or 0.0) if state.disk is not None else 0.0),
    "status": lambda state: (state.status != "offline", not state.trouble, state.status != "starting"),
}
_OFFLINE_SHOWN: Final = 6
_DOWN_SHOWN: Final = 6
_FREE_SHOWN: Final = 60  # machines of a model
_WEEK: Final = 7 * 86400.0
_WINDOWS: Final = (("24h", "day"), ("7d", "week"), ("30d", "month"))


@dataclass(frozen=True, slots=True)
class Option:
    """A choice of a filter."""

    value: str
    text: str
    chosen: bool


class Pages:
    """One method a page."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        past: Past | None = None,
        alerts: Alerts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._alerts = alerts
        self._past = past
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("gpu_exporter.hub"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._templates.filters.update(
            size=words.size,
            gib=words.gib,
            percent=words.percent,
            span=words.span,
            iso=words.moment,
            shown=shown,
            model=words.short_model,
            called=words.called,
            disk_share=disk_share,
        )
        self._templates.globals.update(
            nav=_NAV, version=__version__, state_words=words.STATE_WORDS, states=STATES, machine_url=machine_url,
            gpu_url=gpu_url, user_url=user_url, tile=tile,
        )  # fmt: skip

    async def machines(self, request: Request) -> Response:
        """Every machine, in the order of nodes.yml unless another is asked for."""
        asked = _selection(request)
        chosen = [
            state for state in self._fleet
            if asked.node(state) and (not asked.of_gpus or any(map(asked.gpu, state.gpus)))
        ]  # fmt: skip
        sort = request.query_params.get("sort", "")
        if key := _SORTS.get(sort):
            chosen.sort(key=key)
        offline = [state for state in self._fleet if state.status == "offline"]
        down = [gpu for gpu in self._fleet.gpus() if gpu.state == "down"]
        return self._page(
            request,
            "machines.html",
            title="Machines",
            sheet=_sheet(request, chosen),
            sheet_url=partial(_changed, request, "page"),
            offline=offline[:_OFFLINE_SHOWN],
            more_offline=len(offline) - _OFFLINE_SHOWN,
            down=down[:_DOWN_SHOWN],
            more_down=len(down) - _DOWN_SHOWN,
            asked=asked,
            fits=asked.gpu,
            sort=sort,
            sort_url=partial(_changed, request, "sort"),
            counts=self._fleet.counts(),
            filters=self._filters(asked),
            holders=holders,
            memory_share=_memory_share,
            unfiltered=not request.query_params,
        )

    async def free(self, request: Request) -> Response:
        """Free GPUs by model, on the machines with most of them first."""
        asked = _selection(request)
        free: dict[str, list[Gpu]] = {}
        for gpu in asked.gpus(self._fleet):
            if gpu.state == "free":
                free.setdefault(gpu.model, []).append(gpu)
        groups = sorted(free.items(), key=lambda group: (-(group[1][0].memory_total or 0.0), group[0]))
        counts = self._fleet.counts()
        return self._page(
            request,
            "free.html",
            title="Free now",
            groups=[(model, len(gpus), by_node(gpus)) for model, gpus in groups],
            shown=_FREE_SHOWN,
            total=sum(len(gpus) for gpus in free.values()),
            counts=counts,
            filters=self._filters(asked, without=("user", "state")),
            idle=by_holder(gpu for gpu in asked.gpus(self._fleet) if gpu.state == "idle"),
            unfiltered=not request.query_params,
        )

    async def people(self, request: Request) -> Response:
        """Whoever holds GPUs, with where, and since when they do nothing."""
        asked = _selection(request)
        fits = set(map(id, asked.gpus(self._fleet)))
        people = [
            (person, [gpu for gpu in person.gpus if id(gpu) in fits])
            for person in self._fleet.people()
            if not asked.users or {person.key[1], person.key[2]} & set(asked.users)
        ]
        sort = request.query_params.get("sort", "")
        people = [(person, gpus) for person, gpus in people if gpus]
        if sort == "idle":
            people.sort(key=lambda entry: -sum(gpu.state == "idle" for gpu in entry[1]))
        elif sort == "name":
            people.sort(key=lambda entry: entry[0].key[1].casefold())
        return self._page(
            request,
            "people.html",
            title="People",
            sheet=_sheet(request, people),
            sheet_url=partial(_changed, request, "page"),
            by_node=by_node,
            holder_of=_holder_of,
            sort=sort,
            sort_url=partial(_changed, request, "sort"),
            filters=self._filters(asked, without=("state",)),
            oldest_idle=oldest_idle,
            unfiltered=not request.query_params,
        )

    async def machine(self, request: Request) -> Response:
        """One machine: the host, its GPUs, its processes."""
        state = self._state(request)
        return self._page(
            request,
            "machine.html",
            title=state.node.name,
            state=state,
            processes=[documents.process_document(state, process) for process in state.processes],
            memory_share=_memory_share(state),
        )

    async def gpu(self, request: Request) -> Response:
        """One GPU: what it does, who is on it, and everything that its exporter tells."""
        state = self._state(request)
        wanted = request.path_params["gpu"]
        found = next((gpu for gpu in state.gpus if gpu.index == wanted), None)
        if found is None:
            raise HTTPException(404, "this machine has no such GPU")
        processes = [
            documents.process_document(state, process) for process in state.processes if process.get("gpu") == wanted
        ]
        return self._page(
            request,
            "gpu.html",
            title=f"{state.node.name}, GPU {wanted}",
            state=state,
            gpu=found,
            processes=processes,
            metrics=_all_metrics(state, wanted),
            **await self._charts(request, found),
        )

    async def waste(self, request: Request) -> Response:
        """Who let GPUs idle within a window, worst first."""
        analysis, trouble = None, "" if self._past is not None else NOTHING_KEPT
        asked = request.query_params.get("window", "7d")
        if self._past is not None:
            try:
                analysis = await self._past.results.of(window_of(request) or _WEEK)
            except ArchiveError as error:
                trouble = str(error)
        past = self._past
        return self._page(
            request,
            "waste.html",
            title="Waste",
            analysis=analysis,
            trouble=trouble,
            wasters=[] if analysis is None or past is None else analysis.wasters(past.results.thresholds),
            stats=None
            if analysis is None or past is None
            else stats_document(analysis, price=past.config.price, currency=past.config.currency),
            config=None if past is None else past.config,
            asked=asked,
            windows=_WINDOWS,
            holder_of=lambda owner: Holder(owner.kind, owner.name, owner.namespace, None),
            log=[] if past is None else list(past.results.log)[:-11:-1],
            deliveries=[] if past is None else list(past.controller.log)[:-11:-1],
            known={state.node.name for state in self._fleet},
        )

    async def _charts(self, request: Request, gpu: Gpu) -> dict[str, Any]:
        """Curves of a GPU over the range that was asked for, and why there are none."""
        asked = request.query_params.get("range", "hour")
        if asked not in RANGES:
            raise HTTPException(400, f"range: '{shown(asked)}' is not known; write one of {', '.join(RANGES)}")
        told: dict[str, Any] = {"ranges": RANGES, "range": asked, "charts": [], "no_charts": ""}
        if self._past is None:
            return {**told, "no_charts": NOTHING_KEPT}
        now, (length, step) = self._clock(), RANGES[asked]
        key = GpuKey(gpu.node, gpu.index, gpu.uuid)
        ask = partial(self._past.archive.curve, key, start=now - length, end=now, step=step)
        try:
            curves = [(metric, title, await asyncio.to_thread(ask, metric)) for metric, title in CHARTS.items()]
        except ArchiveError as error:
            return {**told, "no_charts": str(error)}
        return {**told, "charts": [Chart.of(metric, title, curve) for metric, title, curve in curves]}

    async def docs(self, request: Request) -> Response:
        """The API for people who write programs."""
        return self._page(request, "docs.html", title="API", document=openapi_document())

    def refusal(self, request: Request, status: int, why: str, headers: Mapping[str, str]) -> Response:
        """Why there is nothing, and the ways back."""
        title = "Not here" if status == 404 else "That did not work"
        answer = self._page(request, "refusal.html", status, title=title, why=why)
        answer.headers.update(headers)
        return answer

    # --- parts --------------------------------------------------------------------------------------------------------

    def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        now = self._clock()
        fleet = self._fleet
        text = self._templates.get_template(template).render(
            path=request.url.path,
            now=now,
            clock=partial(words.clock, now=now),
            since=lambda timestamp: words.span(now - timestamp),
            fleet=fleet,
            alerts_of=self._alerts.of if self._alerts is not None else _no_alerts,
            alerts_trouble="" if self._alerts is None else self._alerts.trouble,
            history_trouble="" if self._past is None else self._past.trouble() or "",
            simulated=fleet.simulated(),
            reload_url=str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
            **values,
        )
        return packed(request, text.encode("utf-8", "replace"), _CSP_HTML, status)

    def _state(self, request: Request) -> NodeState:
        state = self._fleet.get(request.path_params["name"])
        if state is None:
            raise HTTPException(404, "there is no machine of that name")
        return state

    def _filters(self, asked: Selection, *, without: Sequence[str] = ()) -> list[tuple[str, str, list[Option]]]:
        """Name, words and choices of every filter that has a choice."""
        filters: list[tuple[str, str, list[tuple[str, str]], Sequence[str]]] = [
            ("state", "State", [(state, words.STATE_WORDS[state]) for state in STATES], asked.states),
            ("user", "Held by", [(user, user) for user in selection.users(self._fleet)], asked.users),
            (
                "model",
                "Model",
                [(model, words.short_model(model)) for model in selection.models(self._fleet)],
                asked.models,
            ),
            (
                "label",
                "Label",
                [(label, label) for label in selection.labels(self._fleet)],
                tuple(f"{name}={value}" for name, value in asked.labels),
            ),
        ]
        return [
            (name, text, [Option(value, what, value in chosen) for value, what in choices])
            for name, text, choices, chosen in filters
            if choices and name not in without
        ]


def _no_alerts(_state: NodeState) -> list[Alert]:
    return []


# --- for the templates ------------------------------------------------------------------------------------------------


def user_url(name: str) -> str:
    """The machines on which somebody holds something."""
    return f"/?{urlencode({'user': name})}"


def _selection(request: Request) -> Selection:
    try:
        return selection.parse(request.query_params.multi_items())
    except SelectionError as error:
        raise HTTPException(400, str(error)) from None


def _sheet(request: Request, entries: Sequence[T]) -> Sheet[T]:
    try:
        return sheet(entries, request.query_params.get("page", ""))
    except RefusedError as error:
        raise HTTPException(400, f"page: {error}") from None


def _changed(request: Request, key: str, value: str) -> str:
    """This page with one thing asked for otherwise; from its beginning."""
    pairs = [(name, text) for name, text in request.query_params.multi_items() if name not in {key, "page"} and text]
    query = urlencode([*pairs, (key, value)] if value else pairs)
    return f"{request.url.path}?{query}" if query else request.url.path


def _holder_of(person: Person) -> Holder:
    kind, name, namespace = person.key
    return Holder(kind, name, namespace, None)


def _memory_share(state: NodeState) -> float | None:
    used, total = state.host.memory_used_bytes, state.host.memory_total_bytes
    return min(used / total, 1.0) if used is not None and total and used >= 0 else None


def _all_metrics(state: NodeState, index: int) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Every metric of a GPU by name: its labels in words, its value."""
    if state.fetched is None:
        return []
    for gpu in whole(state.fetched.body()).get("gpus", ()):
        if isinstance(gpu, dict) and gpu.get("gpu") == index and isinstance(gpu.get("metrics"), dict):
            return [(shown(str(name)), _values(value)) for name, value in sorted(gpu["metrics"].items())]
    return []


def _values(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, list):
        return [("", value)]
    return [
        (", ".join(f"{shown(str(k))}={shown(str(v))}" for k, v in one.get("labels", {}).items()), one.get("value"))
        for one in value
        if isinstance(one, dict) and isinstance(one.get("labels", {}), dict)
    ]
