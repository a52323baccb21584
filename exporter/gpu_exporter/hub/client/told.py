"""What a hub's API tells, as the machines that it tells of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gpu_exporter.hub.document import Exporter, Host, amount, celsius, share, shown, watts, within
from gpu_exporter.hub.document import Holder as ToldHolder
from gpu_exporter.hub.nodes import Node
from gpu_exporter.hub.state import Gpu, GpuState, Holder, NodeState, NodeStatus


class ToldError(Exception):
    """The answer is not a hub's; the message goes on after the hub's address."""


class _Node(msgspec.Struct, frozen=True):
    name: str
    state: NodeStatus
    address: str = ""
    labels: dict[str, str] = {}
    ip: str = ""
    since_timestamp_seconds: float = 0.0
    reason: str = ""
    message: str = ""
    last_seen_timestamp_seconds: float | None = None
    driver_version: str = ""
    host: Host = Host()
    exporter: Exporter | None = None


class _Gpu(msgspec.Struct, frozen=True):
    node: str
    gpu: int
    state: GpuState
    uuid: str = ""
    model: str = ""
    reason: str = ""
    state_since_timestamp_seconds: float = 0.0
    state_since_known: bool = False
    utilization_ratio: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    temperature_limit_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    sm_active_ratio: float | None = None
    fan_speed_ratio: float | None = None
    mig_mode_enabled: bool = False
    xids: tuple[str, ...] = ()
    holders: tuple[ToldHolder, ...] | None = None


class _Nodes(msgspec.Struct, frozen=True):
    nodes: tuple[_Node, ...]


class _Gpus(msgspec.Struct, frozen=True):
    gpus: tuple[_Gpu, ...]


class _Processes(msgspec.Struct, frozen=True):
    processes: tuple[dict[str, Any], ...]


_nodes = msgspec.json.Decoder(_Nodes)
_gpus = msgspec.json.Decoder(_Gpus)
_processes = msgspec.json.Decoder(_Processes)


def machines(nodes: bytes, gpus: bytes, processes: bytes) -> tuple[NodeState, ...]:
    """The machines of three answers: /api/v1/nodes, /api/v1/gpus, /api/v1/processes. Raises ToldError."""
    try:
        told = _nodes.decode(nodes).nodes, _gpus.decode(gpus).gpus, _processes.decode(processes).processes
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ToldError(f"answered something that no hub would: {shown(str(error))}") from None
    states = {one.name: _state(one) for one in told[0]}
    for name, found in _by_node((gpu.node, _gpu(gpu)) for gpu in told[1]).items():
        if name in states:
            states[name].gpus = tuple(found)
    for name, processes_there in _by_node((str(one.get("node", "")), one) for one in told[2]).items():
        if name in states and states[name].online:
            states[name].processes = tuple(processes_there)
    return tuple(states.values())


def _by_node(pairs: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, one in pairs:
        found.setdefault(name, []).append(one)
    return found


def _state(told: _Node) -> NodeState:
    host, _, port = told.address.rpartition(":")
    node = Node(
        shown(told.name),
        host.strip("[]"),
        int(port) if port.isdecimal() else 0,
        labels={shown(name): shown(value) for name, value in told.labels.items()},
    )
    online = told.state == "online"
    return NodeState(
        node,
        told.state,
        told.since_timestamp_seconds,
        reason=shown(told.reason),
        message="" if online else shown(told.message),
        seen=told.last_seen_timestamp_seconds,
        address=shown(told.ip),
        host=told.host,
        exporter=told.exporter,
        driver=shown(told.driver_version),
        trouble=shown(told.message) if online else "",
    )


def _gpu(told: _Gpu) -> Gpu:
    total = amount(told.memory_total_bytes)
    return Gpu(
        node=shown(told.node),
        index=told.gpu,
        uuid=shown(told.uuid),
        model=shown(told.model),
        state=told.state,
        why=shown(told.reason),
        since=told.state_since_timestamp_seconds,
        since_known=told.state_since_known,
        utilization=share(told.utilization_ratio),
        memory_used=within(told.memory_used_bytes, total),
        memory_total=total,
        temperature=celsius(told.temperature_celsius),
        temperature_limit=celsius(told.temperature_limit_celsius),
        power=watts(told.power_watts),
        power_limit=watts(told.power_limit_watts),
        sm_active=share(told.sm_active_ratio),
        fan=amount(told.fan_speed_ratio, 2.0),
        mig=told.mig_mode_enabled,
        xids=tuple(shown(xid) for xid in told.xids),
        holders=None if told.holders is None else _holders(told.holders),
    )


def _holders(told: Sequence[ToldHolder]) -> tuple[Holder, ...]:
    return tuple(
        Holder(shown(one.owner_kind), shown(one.owner), shown(one.namespace), amount(one.memory_used_bytes))
        for one in told
    )
