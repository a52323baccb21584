"""The hub's own /metrics: what it watches, not what they have; Prometheus asks the exporters themselves."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpu_exporter import __version__
from gpu_exporter.hub.fleet import Fleet


class _Measures(Collector):
    def __init__(self, fleet: Fleet, viewers: int) -> None:
        self._fleet = fleet
        self._viewers = viewers

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("gpu_hub_build_info", "Version of this hub.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        up = GaugeMetricFamily("gpu_hub_node_up", "1 where the machine's exporter answers.", labels=["node", "address"])
        seen = GaugeMetricFamily(
            "gpu_hub_node_last_seen_timestamp_seconds", "When it last answered (Unix time).", labels=["node", "address"]
        )
        for state in self._fleet:
            names = [state.node.name, state.node.address]
            up.add_metric(names, float(state.online))
            if state.seen is not None:
                seen.add_metric(names, state.seen)
        yield up
        yield seen
        gpus = GaugeMetricFamily("gpu_hub_gpus", "GPUs in each state, on all machines.", labels=["state"])
        for name, count in self._fleet.counts().items():
            gpus.add_metric([name], count)
        yield gpus
        polls = CounterMetricFamily("gpu_hub_polls", "How often machines were asked.", labels=["outcome"])
        for outcome, times in self._fleet.polls.items():
            polls.add_metric([outcome], times)
        yield polls
        yield GaugeMetricFamily("gpu_hub_viewers", "Pages that are open.", value=self._viewers)
        yield GaugeMetricFamily(
            "gpu_hub_config_reload_success",
            "0 while a changed nodes.yml or hub.yml could not be taken.",
            value=float(not self._fleet.complaint),
        )


def exposition(fleet: Fleet, *, viewers: int) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry()
    registry.register(_Measures(fleet, viewers))
    return generate_latest(registry)
