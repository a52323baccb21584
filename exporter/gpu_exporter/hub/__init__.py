"""``gpu-exporter hub``: every machine on one page, without a Prometheus.

``nodes`` and ``settings`` are what people write; ``fetching`` asks one machine, ``poller`` all of them, each on its
own; ``fleet`` keeps what they said; ``documents`` and ``pages`` show it; ``application`` routes; ``server`` accepts;
``service`` is all of it together. Everything but the history runs on one event loop, so that nothing here is locked.
"""
