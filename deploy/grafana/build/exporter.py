"""Exporter: does the watching itself work, and what does it cost."""

from __future__ import annotations

from typing import Final

from build.dashboard import Dashboard, Row
from build.looks import BAD_ABOVE_ZERO, GREEN, ORANGE, RED, UP, WARN_ABOVE_ZERO, YELLOW
from build.panels import Panel, series, stat, timeline
from build.parts import ADDRESS, ROW_TO_NODE, SERIES_TO_NODE, per_host
from build.promql import HOST_LEGEND, NODE, host, most, share
from build.tables import Column, table

_AGE: Final = ((None, GREEN), (60, YELLOW), (300, RED))  # 300 s: GPUCollectionStale
_MAILS: Final = '{integration="email"}'
_SUCCESS: Final = {"0": ("failing", RED), "1": ("ok", GREEN)}
_PAUSED: Final = {"0": ("no", GREEN), "1": ("PAUSED", ORANGE)}
_RELOAD: Final = {"0": ("refused", ORANGE), "1": ("ok", GREEN)}

_STATE = [
    stat(
        "Exporters up",
        "Exporters that Prometheus can scrape.",
        f"sum(up{{{NODE}}})",
        width=3,
    ),
    stat(
        "Exporters down",
        "Exporters that Prometheus cannot scrape.",
        f"count(up{{{NODE}}} == 0) or 0 * count(up{{{NODE}}})",
        steps=BAD_ABOVE_ZERO,
        width=3,
    ),
    stat(
        "Collection failing",
        "Exporters whose latest reading reached no GPU, and that are not paused.",
        f"count(gpu_exporter_last_sample_success{{{NODE}}} == 0 unless on (cluster, instance) "
        f"gpu_exporter_paused{{{NODE}}} == 1) or 0 * count(gpu_exporter_last_sample_success{{{NODE}}})",
        steps=BAD_ABOVE_ZERO,
        width=3,
    ),
    stat(
        "Oldest reading",
        "Age of the oldest latest reading.",
        f"max(time() - gpu_exporter_last_sample_timestamp_seconds{{{NODE}}})",
        unit="s",
        steps=_AGE,
        width=3,
        decimals=0,
    ),
    stat(
        "Driver calls that hang",
        "Calls that have not returned. Do not kill such an exporter with -9: the GPU may freeze.",
        f"sum(gpu_exporter_stuck_reads{{{NODE}}})",
        steps=BAD_ABOVE_ZERO,
        width=3,
    ),
    stat(
        "Paused",
        "Exporters that SIGUSR1 holds off the driver, for a reset or an upgrade.",
        f"sum(gpu_exporter_paused{{{NODE}}})",
        steps=WARN_ABOVE_ZERO,
        width=3,
    ),
    stat(
        "Configuration refused",
        "Exporters that refused their changed configuration and go on with the last good one.",
        f"sum(1 - gpu_exporter_config_reload_success{{{NODE}}})",
        steps=WARN_ABOVE_ZERO,
        width=3,
    ),
    stat(
        "Simulated",
        "Exporters whose readings are not of their machine (--source fake or replay).",
        f'count(gpu_exporter_source_info{{{NODE}, source=~"fake|replay"}}) '
        f"or 0 * count(gpu_exporter_source_info{{{NODE}}})",
        steps=WARN_ABOVE_ZERO,
        width=3,
    ),
]

_EXPORTERS = table(
    "Exporters",
    "One row a machine.",
    {
        "scraped": per_host(f"up{{{NODE}}}"),
        "success": per_host(f"gpu_exporter_last_sample_success{{{NODE}}}"),
        "age": per_host(f"time() - gpu_exporter_last_sample_timestamp_seconds{{{NODE}}}"),
        "duration": per_host(f"gpu_exporter_sample_duration_seconds{{{NODE}}}"),
        "stuck": per_host(f"gpu_exporter_stuck_reads{{{NODE}}}"),
        "paused": per_host(f"gpu_exporter_paused{{{NODE}}}"),
        "reload": per_host(f"gpu_exporter_config_reload_success{{{NODE}}}"),
        "found": per_host(f'gpu_exporter_gpus{{{NODE}, state="found"}}'),
        "series": per_host(f"scrape_samples_scraped{{{NODE}}}"),
        "uptime": per_host(f"time() - process_start_time_seconds{{{NODE}}}"),
    },
    {
        "host": Column(name="Host", link=ROW_TO_NODE),
        "scraped": Column(name="Scraped", values=UP, show="color", width=90),
        "success": Column(name="Collection", values=_SUCCESS, show="color", width=105),
        "age": Column(name="Reading's age", unit="s", steps=_AGE, show="color", width=130),
        "duration": Column(name="Reading takes", unit="s", width=125),
        "stuck": Column(name="Calls that hang", steps=BAD_ABOVE_ZERO, show="color", width=130),
        "paused": Column(name="Paused", values=_PAUSED, show="color", width=90),
        "reload": Column(name="Configuration", values=_RELOAD, show="color", width=125),
        "found": Column(name="GPUs found", width=110),
        "series": Column(name="Series", width=90),
        "uptime": Column(name="Up for", unit="dtdurations", width=190),
        "instance": ADDRESS,
    },
    sort="scraped",
    descending=False,
)

_VERSIONS = [
    table(
        "Versions",
        "Exporter, Python and source of each machine.",
        {
            "build": host(
                f"gpu_exporter_build_info{{{NODE}}}\n"
                f"* on (cluster, instance) group_left (source) gpu_exporter_source_info{{{NODE}}}"
            ),
        },
        {
            "host": Column(name="Host"),
            "version": Column(name="Exporter"),
            "python_version": Column(name="Python"),
            "source": Column(name="Source"),
            "instance": ADDRESS,
        },
        sort="host",
        descending=False,
        width=12,
    ),
    timeline(
        "Scraped",
        "Whether Prometheus could scrape each exporter; of a large fleet the thirty that it could least often.",
        (f"up{{{NODE}}} and on (cluster, instance) bottomk(30, avg_over_time(up{{{NODE}}}[$__range]))", HOST_LEGEND),
        values=UP,
        width=12,
        show="never",
        links=[SERIES_TO_NODE],
    ),
]


def _lines(title: str, description: str, expr: str, unit: str) -> Panel:
    """One line an exporter, of the twenty with the largest values."""
    return series(title, description, (most(expr), HOST_LEGEND), unit=unit, width=8, links=[SERIES_TO_NODE])


_COURSE = [
    _lines(
        "Reading all GPUs takes",
        "How long the latest reading of all GPUs took. Above the interval (5 s) readings are skipped.",
        f"gpu_exporter_sample_duration_seconds{{{NODE}}}",
        "s",
    ),
    _lines(
        "Readings skipped",
        "Readings that were skipped in a minute because the one before took too long.",
        f"60 * rate(gpu_exporter_sample_overruns_total{{{NODE}}}[$__rate_interval])",
        "cpm",
    ),
    _lines(
        "Age of the readings",
        "How old the newest reading is at each moment; it falls with every reading.",
        f"time() - gpu_exporter_last_sample_timestamp_seconds{{{NODE}}}",
        "s",
    ),
    _lines(
        "A scrape takes",
        "How long Prometheus waited for the page, the mean of five minutes.",
        f"avg_over_time(scrape_duration_seconds{{{NODE}}}[5m])",
        "s",
    ),
    _lines(
        "Series a scrape",
        "What one scrape brings; some 130 a GPU, and the processes.",
        f"scrape_samples_scraped{{{NODE}}}",
        "none",
    ),
    _lines("Failed scrapes", "Share of scrapes that failed.", f"1 - avg_over_time(up{{{NODE}}}[5m])", "percentunit"),
    _lines(
        "CPU",
        "CPU time of the exporter, as a share of one core; at most all of it.",
        share(f"rate(process_cpu_seconds_total{{{NODE}}}[$__rate_interval])"),
        "percentunit",
    ),
    _lines("Memory", "Resident memory of the exporter.", f"process_resident_memory_bytes{{{NODE}}}", "bytes"),
    _lines("Open files", "File descriptors of the exporter.", f"process_open_fds{{{NODE}}}", "none"),
]

_CLOCKS = series(
    "Clocks that are off",
    "How far the clock of each machine is from Prometheus's, of the twenty furthest; a reading is some seconds old.",
    (
        most(
            f"abs(timestamp(gpu_exporter_last_sample_timestamp_seconds{{{NODE}}})"
            f" - gpu_exporter_last_sample_timestamp_seconds{{{NODE}}})"
        ),
        HOST_LEGEND,
    ),
    unit="s",
    width=24,
    links=[SERIES_TO_NODE],
)

_MAIL = [
    series(
        "Mails",
        "Mails that Alertmanager sent, and those that failed, in an hour. These belong to Alertmanager and follow no "
        "variable above.",
        (
            f"3600 * sum by (instance) (rate(alertmanager_notifications_total{_MAILS}[$__rate_interval]))",
            "{{instance}} tried",
        ),
        (
            f"3600 * sum by (instance) (rate(alertmanager_notifications_failed_total{_MAILS}[$__rate_interval]))",
            "{{instance}} failed",
        ),
        unit="none",
        width=12,
    ),
    series(
        "Alerts on their way",
        "Alerts that Prometheus could not hand to an Alertmanager, in an hour: nobody hears of these.",
        ("3600 * sum by (instance) (rate(prometheus_notifications_dropped_total[$__rate_interval]))", "{{instance}}"),
        unit="none",
        width=12,
    ),
]

DASHBOARD: Final = Dashboard(
    uid="gpu-exporter",
    description="Whether the watching itself works: exporters, their readings and scrapes, and the way of the mails.",
    rows=[
        Row("Is everything watched?", [(4, _STATE), (7, [_EXPORTERS]), (6, _VERSIONS)]),
        Row("Readings and scrapes", [(8, _COURSE[:3]), (8, _COURSE[3:6]), (7, [_CLOCKS])]),
        Row("What it costs", [(8, _COURSE[6:])]),
        Row("Mail", [(8, _MAIL)]),
    ],
)
