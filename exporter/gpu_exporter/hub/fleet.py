"""What is known of every machine now. Belongs to the event loop's one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gpu_exporter.hub import document
from gpu_exporter.hub.document import Document, Host, shown
from gpu_exporter.hub.fetching import Fetched, FetchError
from gpu_exporter.hub.nodes import Nodes
from gpu_exporter.hub.state import Gpu, GpuState, Holder, Looks, NodeState, unseen

_STATES: Final[Mapping[str, GpuState]] = {
    "active": "held",
    "idle_held": "idle",
    "idle_free": "free",
    "down": "down",
    "unknown": "unknown",
}
_FAILURES: Final = 2  # in a row, for a machine that has answered before: one lost packet is no news
_STALE: Final = 3.0  # intervals, the exporter's and ours, after which readings that stay the same are old
_FAILED_WORDS: Final = {
    "lost": "lost: the driver cannot reach it",
    "timeout": "the driver does not answer for it",
    "reset_required": "it needs a reset",
    "permission": "its exporter may not read it",
    "unknown": "the driver reports an unknown error",
}


class Fleet(Looks):
    """All machines in the order of nodes.yml. ``generation`` grows with every change."""

    def __init__(self, *, interval: float, clock: Callable[[], float] = time.time) -> None:
        self.interval = interval
        self.began = clock()
        self.generation = 0
        self.polls = {"answered": 0, "failed": 0}
        self.notes: tuple[str, ...] = ()
        self.complaint = ""  # why a changed nodes.yml or hub.yml was not taken
        self._clock = clock
        self._states: dict[str, NodeState] = {}
        self._since: dict[tuple[str, str], tuple[GpuState, tuple[Any, ...], float, bool]] = {}
        self._remembered: Mapping[str, float] = {}

    # --- changes ------------------------------------------------------------------------------------------------------

    def remember(self, seen: Mapping[str, float]) -> None:
        """When machines answered last before this hub began, by name (Unix time)."""
        self._remembered = seen

    def replace(self, nodes: Nodes) -> None:
        """Look at these machines; what is known of those that stay is kept."""
        self.notes = nodes.notes
        old, self._states = self._states, {}
        for node in nodes.nodes:
            before = old.get(node.name)
            same = before is not None and (before.node.address, before.node.scheme) == (node.address, node.scheme)
            if same and before is not None:
                state = before
            else:
                seen = before.seen if before is not None else None
                state = NodeState(node, since=self._clock(), seen=seen or self._remembered.get(node.name))
            state.node = node
            self._states[node.name] = state
        for key in [key for key in self._since if key[0] not in self._states]:
            del self._since[key]
        self.generation += 1

    def answered(self, name: str, fetched: Fetched | None) -> None:
        """A machine has answered; None means with the same as before."""
        state = self._states.get(name)
        if state is None:
            return
        now = self._clock()
        fresh = fetched or state.fetched
        if fresh is None:
            return
        self.polls["answered"] += 1
        if not state.online:
            state.status, state.since = "online", now
        state.seen, state.failures, state.reason, state.message = now, 0, "", ""
        state.fetched = fresh
        if fetched is not None:
            state.address = fetched.address or state.address
        self._take(state, fresh.document, now)
        self.generation += 1

    def failed(self, name: str, error: FetchError) -> None:
        """A machine could not be asked."""
        state = self._states.get(name)
        if state is None:
            return
        self.polls["failed"] += 1
        state.failures += 1
        state.reason, state.message = error.reason, str(error)
        if state.status == "offline" or (state.status == "online" and state.failures < _FAILURES):
            self.generation += 1
            return
        # It was last known to be well when it last answered.
        state.status, state.since = "offline", state.seen if state.seen is not None else self.began
        state.exporter, state.host, state.processes, state.fetched, state.trouble = None, Host(), (), None, ""
        state.gpus = tuple(unseen(gpu, "its machine is offline", state.since) for gpu in state.gpus)
        for gpu in state.gpus:
            self._since.pop((name, gpu.uuid or str(gpu.index)), None)
        self.generation += 1

    def complain(self, complaint: str) -> None:
        """Tell, or stop telling, that a changed file was not taken."""
        if complaint != self.complaint:
            self.complaint = complaint
            self.generation += 1

    def _take(self, state: NodeState, told: Document, now: float) -> None:
        state.exporter, state.host = told.exporter, told.host
        state.driver = shown(told.driver.get("driver_version", ""))
        state.processes = told.processes
        state.trouble = shown(told.exporter.live or told.exporter.ready or "")
        sampled = told.exporter.sample_timestamp_seconds
        if sampled != state.sampled[0]:
            state.sampled = (sampled, now)
        beat = (document.amount(told.exporter.interval_seconds, 86400.0) or self.interval) + self.interval
        stuck = not state.trouble and sampled is not None and now - state.sampled[1] > _STALE * beat
        if stuck:
            state.trouble = "its readings do not change any more"
        name = state.node.name
        gpus = [self._gpu(name, gpu, now) for gpu in told.gpus]
        if state.trouble and (stuck or not told.exporter.sample_success):
            gpus = [unseen(gpu, state.trouble, now) for gpu in gpus]
        state.gpus = tuple(gpus)

    def _gpu(self, node: str, told: document.Gpu, now: float) -> Gpu:
        holders = None if told.holders is None else tuple(
            Holder(
                shown(one.owner_kind), shown(one.owner), shown(one.namespace), document.amount(one.memory_used_bytes)
            )
            for one in told.holders
        )  # fmt: skip
        state = _STATES[told.state] if told.up else "down"
        if state == "free" and holders != ():
            state = "unknown" if holders is None else "idle"
        since, known = self._state_since(node, told, state, holders, now)
        if not told.up:
            why = _FAILED_WORDS.get(told.failure or "", shown(told.failure or ""))
            return Gpu(node, told.gpu, shown(told.uuid), shown(told.model), "down", why, since, known, xids=_xids(told))
        metrics = told.metrics
        total = document.amount(metrics.gpu_memory_total_bytes)
        return Gpu(
            node=node,
            index=told.gpu,
            uuid=shown(told.uuid),
            model=shown(told.model),
            state=state,
            why="it is not known what it does" if state == "unknown" else "",
            since=since,
            since_known=known,
            utilization=document.share(metrics.gpu_utilization_ratio),
            memory_used=document.within(metrics.gpu_memory_used_bytes, total),
            memory_total=total,
            temperature=document.celsius(metrics.gpu_temperature_celsius),
            temperature_limit=_hottest(metrics),
            power=document.watts(metrics.gpu_power_watts),
            power_limit=document.watts(metrics.gpu_power_limit_watts),
            sm_active=document.share(metrics.gpu_sm_active_ratio),
            fan=_fastest(metrics),
            mig=bool(metrics.gpu_mig_mode_enabled),
            xids=_xids(told),
            holders=holders,
        )

    def _state_since(
        self, node: str, told: document.Gpu, state: GpuState, holders: tuple[Holder, ...] | None, now: float
    ) -> tuple[float, bool]:
        """When this state with these holders began, and whether that was seen."""
        key = (node, shown(told.uuid) or str(told.gpu))
        who = tuple(sorted(holder.key for holder in holders or ()))
        before = self._since.get(key)
        if before is not None and before[:2] == (state, who):
            return before[2], before[3]
        # The first look tells what is, not since when.
        self._since[key] = (state, who, now, before is not None)
        return now, before is not None

    # --- looks --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[NodeState]:
        return iter(self._states.values())

    def get(self, name: str) -> NodeState | None:
        """A machine by its name."""
        return self._states.get(name)


def _xids(told: document.Gpu) -> tuple[str, ...]:
    return tuple(shown(one.labels.get("xid", "")) for one in told.metrics.gpu_xid_errors_total if one.value)


def _hottest(metrics: document.Metrics) -> float | None:
    """The temperature at which it slows down; where that is not told, at which it is shut down."""
    limits = {one.labels.get("limit", ""): document.celsius(one.value) for one in metrics.gpu_temperature_limit_celsius}
    return limits.get("slowdown") or limits.get("shutdown")


def _fastest(metrics: document.Metrics) -> float | None:
    """The speed of its fastest fan, as a share of the maximum."""
    speeds = [one.value for one in metrics.gpu_fan_speed_ratio if one.value is not None and 0 <= one.value <= 2]
    return max(speeds, default=None)
