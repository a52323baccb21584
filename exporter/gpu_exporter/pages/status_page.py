"""The page for people at /: one table, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from gpu_exporter.catalog import CLOCK_EVENTS, XID_ERRORS, by_name
from gpu_exporter.catalog.row import Metric
from gpu_exporter.model import Device, Reading, Snapshot
from gpu_exporter.pages.failures import WORDS
from gpu_exporter.pages.trail import MINUTES
from gpu_exporter.sampling.tenancy import holder_memory

_UTILIZATION: Final = by_name("gpu_utilization_ratio")
_MEMORY_USED: Final = by_name("gpu_memory_used_bytes")
_MEMORY_TOTAL: Final = by_name("gpu_memory_total_bytes")
_TEMPERATURE: Final = by_name("gpu_temperature_celsius")
_POWER: Final = by_name("gpu_power_watts")
_POWER_LIMIT: Final = by_name("gpu_power_limit_watts")
_LIMITS: Final = {limit: by_name("gpu_temperature_limit_celsius", limit=limit) for limit in ("slowdown", "shutdown")}
# What holds the clocks down, in a person's words. Several reasons are one cause; an idle GPU is not throttled.
_CAUSES: Final[dict[str, tuple[str, ...]]] = {
    "too hot": ("sw_thermal_slowdown", "hw_thermal_slowdown"),
    "power brake": ("hw_power_brake_slowdown",),
    "hardware slowdown": ("hw_slowdown",),
    "power limit": ("sw_power_cap",),
    "clock setting": ("applications_clocks_setting", "display_clock_setting"),
    "sync boost": ("sync_boost",),
}
# A busy GPU at its power limit, or at clocks that somebody chose, is as it should be.
_NORMAL: Final = frozenset({"power limit", "clock setting", "sync boost"})
_WARM: Final = 5.0  # °C below its slowdown limit
_GIB: Final = 2**30
_MIB: Final = 2**20
_HOLDERS: Final = 3  # names in a cell
_SPARK: Final = 20  # height of a sparkline, in its own units
_NAMED: Final = 8  # GPUs that are named above the table
_ABSENT: Final = '<span class="na">n/a</span>'

_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5d6670;--line:#d9dee3;--bar:#dfe5ea;--fill:#2f74c0;
--ok:#18703a;--bad:#b3261e;--badbg:#fdecea;--warn:#7a4a00;--warnbg:#fff1cc}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e4e8ec;--dim:#98a2ad;--line:#2e353c;--bar:#2e353c;
--fill:#5b9be0;--ok:#63c58a;--bad:#ff8a80;--badbg:#3a1b1a;--warn:#ffcf70;--warnbg:#3b2e0c}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.25rem;max-width:88rem;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,sans-serif}
header{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;align-items:baseline;margin-bottom:1rem}
h1{font-size:1.25rem;margin:0}
.dim,.na{color:var(--dim)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin-top:1.2rem;padding-top:.8rem;border-top:1px solid var(--line)}
a{color:var(--fill)}
.note{padding:.6rem .9rem;border-radius:.4rem;margin:0 0 1rem;border-left:.3rem solid}
.sim{background:var(--warnbg);color:var(--warn);font-weight:700}
.trouble{background:var(--badbg);color:var(--bad)}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.5rem .9rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim);font-size:.85rem;white-space:nowrap}
td small{color:var(--dim);display:block;overflow-wrap:anywhere}
.id{font-family:ui-monospace,monospace;font-size:.7rem}
.number,.id{white-space:nowrap}.who{overflow-wrap:anywhere}
.sick td{background:var(--badbg)}.sick td:first-child{box-shadow:inset .25rem 0 var(--bad)}
.sick small{color:inherit}
tbody td:first-child,thead th:first-child{padding-left:.7rem}
.up{color:var(--ok);font-weight:600}.down,.hot,.bad{color:var(--bad);font-weight:600}
.warm{color:var(--warn);font-weight:600}
.spark{display:block;width:100%;max-width:9rem;height:1.3rem;margin-top:.3rem;overflow:visible;
border-bottom:1px solid var(--line)}
.spark path{fill:none;stroke:var(--fill);stroke-width:1.5;vector-effect:non-scaling-stroke}
.spark .minutes{fill:var(--fill);stroke:none;opacity:.3}
.bar{height:.35rem;border-radius:.2rem;background:var(--bar);margin-top:.3rem;min-width:4.5rem;max-width:9rem}
.bar i{display:block;height:100%;border-radius:.2rem;background:var(--fill)}
@media(max-width:64rem){body{padding:.8rem}thead{display:none}.id{white-space:normal}
table{display:block}tbody{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:.8rem}
tr{display:block;border:1px solid var(--line);border-radius:.4rem;padding:.3rem .8rem}
tr.sick{background:var(--badbg);border-left:.25rem solid var(--bad)}.sick td:first-child{box-shadow:none}
td{display:flex;gap:.8rem;padding:.3rem 0;border:0}td:before{content:attr(data-th);flex:0 0 6.5rem;color:var(--dim)}
tbody td:first-child{padding-left:0}td>div{flex:1;min-width:0}}
"""


def render(
    snapshot: Snapshot,
    *,
    live: str | None,
    ready: str | None,
    now: float,
    telemetry_path: str,
    host: str = "",
    trail: Callable[[Device], Sequence[float | None]] = lambda _: (),
) -> str:
    """The whole page; ``now`` is Unix time, ``trail`` has a GPU's utilization of each of the last minutes."""
    notes = []
    if snapshot.simulated:
        notes.append(f'<p class="note sim">SIMULATED DATA: no real GPU is read (source: {escape(snapshot.source)})</p>')
    notes += [f'<p class="note trouble">{escape(why)}</p>' for why in dict.fromkeys((live, ready)) if why]
    down = snapshot.gpus_found - snapshot.gpus_up
    count = f"{snapshot.gpus_found} GPU{'' if snapshot.gpus_found == 1 else 's'}"
    hot = [reading for reading in snapshot.readings if reading.failure is None and _heat(reading) == "hot"]
    failed = [reading for reading in snapshot.readings if reading.failure is not None]
    summary = ", ".join(
        (
            count,
            *((f"{down} down{_named(failed)}",) if down else ()),
            *((f"{len(hot)} hot{_named(hot)}",) if hot else ()),
        )
    )
    title = f"{host}: {summary}" if host else summary
    facts = [_age(snapshot, now)]
    if snapshot.driver is not None and snapshot.driver.driver_version:
        facts.append(f"driver {snapshot.driver.driver_version}")
    if snapshot.driver is not None and snapshot.driver.cuda_version:
        facts.append(f"CUDA {snapshot.driver.cuda_version}")
    facts.append(f"source {snapshot.source}")
    links = (
        (telemetry_path, "metrics"),
        ("/livez", "alive" if live is None else "not alive"),
        ("/readyz", "ready" if ready is None else "not ready"),
        ("/api/v1/gpus", "JSON"),
        ("/api/v1/openapi.json", "OpenAPI"),
    )
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)} - gpu-exporter</title><style>{_STYLE}</style></head><body>",
            f"<header><h1>{escape(host or 'gpu-exporter')}</h1>",
            f'<span class="{"down" if down or hot else "dim"}">{escape(summary)}</span>',
            *(f'<span class="dim">{escape(fact)}</span>' for fact in facts),
            "</header><main>",
            *notes,
            _table(snapshot.readings, trail),
            "</main><nav>",
            *(f'<a href="{escape(path)}">{escape(text)}</a>' for path, text in links),
            f'<span class="dim">gpu-exporter {escape(snapshot.build.version)}, refreshes every 5 s</span>',
            "</nav></body></html>\n",
        )
    )


def _named(readings: Sequence[Reading]) -> str:
    """Which GPUs these are, so that nobody has to scroll to find them."""
    indices = sorted(reading.device.index for reading in readings)
    more = ", ..." if len(indices) > _NAMED else ""
    return f" (GPU {', '.join(map(str, indices[:_NAMED]))}{more})" if indices else ""


def _table(readings: Sequence[Reading], trail: Callable[[Device], Sequence[float | None]]) -> str:
    if not readings:
        return "<p>There is no fresh reading of any GPU.</p>"
    heads = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    rows = "".join(
        _row_of(reading, trail(reading.device))
        for reading in sorted(readings, key=lambda reading: reading.device.index)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _row_of(reading: Reading, minutes: Sequence[float | None]) -> str:
    texts = {name: cell(reading) for name, cell in _COLUMNS.items()}
    texts["Utilization"] += _sparkline(minutes)
    cells = "".join(f'<td data-th="{name}"><div>{text}</div></td>' for name, text in texts.items())
    return f"<tr>{cells}</tr>" if reading.failure is None else f'<tr class="sick">{cells}</tr>'


def _age(snapshot: Snapshot, now: float) -> str:
    if snapshot.timestamp is None:
        return "no successful sample yet"
    return f"last successful sample {_span(max(0.0, now - snapshot.timestamp))} ago"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


# --- cells: HTML from a reading --------------------------------------------------------------------------------------


def _model(reading: Reading) -> str:
    return f'{escape(reading.device.model) or _ABSENT}<small class="id">{escape(reading.device.uuid)}</small>'


def _state(reading: Reading) -> str:
    state = '<span class="up">up</span>'
    if reading.failure is not None:
        state = f'<span class="down">down</span><small>{escape(WORDS[reading.failure.reason].meaning)}</small>'
    elif reading.partial:
        state += f"<small>{escape(WORDS['partial'].meaning)}</small>"
    xids = sorted((len(text), text) for (row, (text, *_)) in reading.labelled if row is XID_ERRORS)
    return f"{state}<small>XID {escape(', '.join(text for _, text in xids))}</small>" if xids else state


def _utilization(reading: Reading) -> str:
    ratio = reading.values.get(_UTILIZATION)
    return _ABSENT if ratio is None else f"{_number(f'{ratio:.0%}')}{_bar(ratio)}"


def _memory(reading: Reading) -> str:
    return _share(reading, _MEMORY_USED, _MEMORY_TOTAL, lambda value: f"{value / 2**30:.1f}", "GiB")


def _temperature(reading: Reading) -> str:
    celsius = reading.values.get(_TEMPERATURE)
    if celsius is None:
        return _ABSENT
    heat = _heat(reading)
    if not heat:
        return _number(f"{celsius:.0f} °C")
    limits = {"slows down": "slowdown", "shuts down": "shutdown"}
    told = [
        f"{verb} at {value:.0f}"
        for verb, limit in limits.items()
        if (value := reading.values.get(_LIMITS[limit])) is not None
    ]
    return f'<span class="number {heat}">{celsius:.0f} °C</span><small>{escape(", ".join(told))}</small>'


def _heat(reading: Reading) -> str:
    """How near the GPU is to its own limits: hot (or slowed down by heat, wherever it arises), warm, or neither."""
    if any(reading.values.get(CLOCK_EVENTS[reason]) for reason in _CAUSES["too hot"]):
        return "hot"
    celsius = reading.values.get(_TEMPERATURE)
    limits = [reading.values.get(row) for row in _LIMITS.values()]
    lowest = min((limit for limit in limits if limit is not None), default=None)
    if celsius is None or lowest is None or celsius < lowest - _WARM:
        return ""
    return "hot" if celsius >= lowest else "warm"


def _power(reading: Reading) -> str:
    return _share(reading, _POWER, _POWER_LIMIT, lambda value: f"{value:.0f}", "W")


def _holders(reading: Reading) -> str:
    """Who has a process on it, or was given it; those with the most memory first."""
    held = holder_memory(reading)
    if held is None:
        return _ABSENT
    shown = [_holder(name, memory) for name, memory in held[:_HOLDERS]]
    more = f'<span class="dim">and {len(held) - _HOLDERS} more</span>' if len(held) > _HOLDERS else ""
    text = "<br>".join([*shown, *([more] if more else [])])
    return f'<span class="who">{text}</span>' if text else '<span class="dim">nobody</span>'


def _holder(name: str, memory: float) -> str:
    text = escape(name) if name else '<span class="dim">unknown</span>'
    if memory < _MIB:
        return text
    amount = f"{memory / _GIB:.1f} GiB" if memory >= _GIB / 10 else f"{memory / _MIB:.0f} MiB"
    return f'{text} <span class="dim number">{amount}</span>'


def _throttled(reading: Reading) -> str:
    known = {reason: value for reason, row in CLOCK_EVENTS.items() if (value := reading.values.get(row)) is not None}
    if not known:
        return _ABSENT
    causes = [cause for cause, reasons in _CAUSES.items() if any(known.get(reason) for reason in reasons)]
    if "hardware slowdown" in causes and {"too hot", "power brake"} & set(causes):
        causes.remove("hardware slowdown")  # the driver raises it with either of them
    classes = {cause: "dim" if cause in _NORMAL else "bad" for cause in causes}
    told = ", ".join(f'<span class="{css}">{escape(cause)}</span>' for cause, css in classes.items())
    return told or '<span class="dim">none</span>'


def _sparkline(minutes: Sequence[float | None]) -> str:
    """The last hour, a mean a minute, newest on the right; nothing before there are two minutes.

    Below the line each minute is a column: one that stands between gaps has no line, and is seen all the same. What
    the line stands on is as wide as the hour, so that its first minutes are seen to be that.
    """
    known = [(MINUTES - len(minutes) + place, ratio) for place, ratio in enumerate(minutes) if ratio is not None]
    if len(known) < 2:
        return ""
    mean = sum(ratio for _, ratio in known) / len(known)
    words = f"the last {len(minutes)} minutes: {mean:.0%} on average, {max(ratio for _, ratio in known):.0%} at most"
    path, columns = "", ""
    for number, (at, ratio) in enumerate(known):
        # A gap is a new beginning, not a line across it.
        joined = number > 0 and known[number - 1][0] == at - 1
        height = f"{_SPARK * (1 - min(max(ratio, 0.0), 1.0)):.1f}"
        path += f"{'L' if joined else 'M'}{at} {height}"
        left, right = max(at - 0.5, 0), min(at + 0.5, MINUTES - 1)
        columns += f"M{left:g} {_SPARK}V{height}H{right:g}V{_SPARK}"
    return (
        f'<svg class="spark" viewBox="0 0 {MINUTES - 1} {_SPARK}" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}"><path d="{path}"></path><path class="minutes" d="{columns}"></path></svg>'
    )


def _share(reading: Reading, part: Metric, whole: Metric, show: Callable[[float], str], unit: str) -> str:
    value, total = reading.values.get(part), reading.values.get(whole)
    if value is None and total is None:
        return _ABSENT
    texts = [_ABSENT if number is None else show(number) for number in (value, total)]
    bar = _bar(value / total) if value is not None and total else ""
    return _number(f"{texts[0]} / {texts[1]} {unit}") + bar


def _number(html: str) -> str:
    return f'<span class="number">{html}</span>'


def _bar(ratio: float) -> str:
    return f'<div class="bar"><i style="width:{min(max(ratio, 0.0), 1.0):.0%}"></i></div>'


_COLUMNS: Final[dict[str, Callable[[Reading], str]]] = {
    "GPU": lambda reading: str(reading.device.index),
    "Model": _model,
    "State": _state,
    "Utilization": _utilization,
    "Memory": _memory,
    "Temp.": _temperature,
    "Power": _power,
    "Held by": _holders,
    "Throttled by": _throttled,
}
