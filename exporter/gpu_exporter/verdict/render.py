"""A verdict as text, as JSON, and as a Nagios plugin writes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.simulated import SIMULATED
from gpu_exporter.config.parsers import printable
from gpu_exporter.model import Snapshot
from gpu_exporter.verdict.judge import CODES, Complaint, GpuVerdict, Status, Verdict

FailOn: TypeAlias = Literal["warning", "critical"]

# What node-problem-detector keeps of a plugin's output by default (max_output_length); it also fits a line of sinfo -R.
REASON_LENGTH: Final = 80
_NAGIOS: Final[dict[Status, str]] = {
    "healthy": "OK",
    "warning": "WARNING",
    "critical": "CRITICAL",
    "unknown": "UNKNOWN",
}


def exit_code(verdict: Verdict, fail_on: FailOn) -> int:
    """0 healthy, 1 warning, 2 critical, 3 unknown; with ``critical`` a warning is 0 as well."""
    return CODES[_effective(verdict.status, fail_on)]


def reason(verdict: Verdict) -> str:
    """What is wrong, in one line of at most 80 printable ASCII characters; worst first, the rest is counted."""
    reasons = [_plain(text) for _, text in verdict.reasons]
    if not reasons:
        return f"{len(verdict.gpus)} of {_expected(verdict)} GPUs healthy"
    line, kept = reasons[0], 1
    while kept < len(reasons):
        more = f"; {reasons[kept]}"
        left = len(reasons) - kept - 1
        if len(line) + len(more) + len(_rest(left)) > REASON_LENGTH:
            break
        line, kept = line + more, kept + 1
    rest = _rest(len(reasons) - kept)
    if len(line) + len(rest) > REASON_LENGTH:
        line = line[: REASON_LENGTH - len(rest) - 3].rstrip() + "..."
    return line + rest


def text(verdict: Verdict) -> str:
    """The reason on a line of its own, then a table of the GPUs with everything that is wrong with each."""
    lines = [f"{verdict.status}: {reason(verdict)}"]
    lines += [f"  {line}" for complaint in verdict.complaints for line in _told(complaint)]
    width = max((len(gpu.device.model or "unknown") for gpu in verdict.gpus), default=0)
    for gpu in verdict.gpus:
        first = f"GPU {gpu.device.index:<3} {printable(gpu.device.model or 'unknown'):<{width}}  {gpu.status:<8}"
        lines.append(f"{first}  {gpu.device.uuid}".rstrip())
        lines += [f"  {line}" for complaint in gpu.complaints for line in _told(complaint)]
    if verdict.simulated:
        lines.append(SIMULATED)
    return "\n".join(lines)


def document(verdict: Verdict, *, host: str, fail_on: FailOn) -> str:
    """Everything, as one JSON object."""
    body = {
        "status": verdict.status,
        "code": exit_code(verdict, fail_on),
        "reason": reason(verdict),
        "host": host,
        "source": verdict.source,
        "simulated": verdict.simulated,
        "driver_version": verdict.driver_version,
        "gpus_found": len(verdict.gpus),
        "gpus_expected": verdict.expected,
        "findings": [_finding(complaint) for complaint in verdict.complaints],
        "gpus": [_gpu(gpu) for gpu in verdict.gpus],
    }
    return json.dumps(body, indent=2)


def nagios(verdict: Verdict, snapshot: Snapshot | None, fail_on: FailOn) -> str:
    """One line of state, reason and performance data; further lines have every reason."""
    state = _NAGIOS[_effective(verdict.status, fail_on)]
    data = " ".join(_performance(verdict, snapshot))
    more = [f"{status}: {_nagios_plain(words)}" for status, words in verdict.reasons]
    return "\n".join([f"GPU {state} - {_nagios_plain(reason(verdict))} | {data}", *more])


def _effective(status: Status, fail_on: FailOn) -> Status:
    return "healthy" if status == "warning" and fail_on == "critical" else status


def _performance(verdict: Verdict, snapshot: Snapshot | None) -> Iterator[str]:
    counts = Counter(gpu.status for gpu in verdict.gpus)
    yield f"gpus={len(verdict.gpus)}"
    yield from (f"{status}={counts[status]}" for status in CODES)
    readings = snapshot.readings if snapshot is not None else ()
    for reading in readings:
        temperature = reading.values.get(by_name("gpu_temperature_celsius"))
        if temperature is not None:
            slowdown, shutdown = (
                reading.values.get(by_name("gpu_temperature_limit_celsius", limit=limit))
                for limit in ("slowdown", "shutdown")
            )
            bounds = [
                "" if limit is None else f"{limit - margin:g}" for limit, margin in ((slowdown, 5), (shutdown, 3))
            ]
            yield f"gpu{reading.device.index}_temperature={temperature:g};{';'.join(bounds)}".rstrip(";")


def _told(complaint: Complaint) -> Iterator[str]:
    alert = f" ({complaint.alert})" if complaint.alert else ""
    yield f"{complaint.status}: {printable(complaint.reason)}{alert}"
    if complaint.advice:
        yield f"  -> {printable(complaint.advice)}"


def _gpu(gpu: GpuVerdict) -> dict[str, Any]:
    device = gpu.device
    return {
        "gpu": str(device.index),
        "uuid": device.uuid,
        "model": device.model,
        "pci_bus_id": device.pci_bus_id,
        "status": gpu.status,
        "findings": [_finding(complaint) for complaint in gpu.complaints],
    }


def _finding(complaint: Complaint) -> dict[str, str]:
    told = {
        "status": complaint.status,
        "reason": complaint.reason,
        "alert": complaint.alert,
        "runbook_url": complaint.runbook,
        "advice": complaint.advice,
    }
    return {name: text for name, text in told.items() if text}


def _expected(verdict: Verdict) -> int:
    return len(verdict.gpus) if verdict.expected is None else max(verdict.expected, len(verdict.gpus))


def _rest(count: int) -> str:
    return f"; +{count} more" if count else ""


def _plain(words: str) -> str:
    """Printable ASCII without what shells read inside double quotes, as it goes through scripts and JSON of others."""
    return "".join(char if " " <= char <= "~" and char not in '"`$\\' else "?" for char in words)


def _nagios_plain(words: str) -> str:
    """Behind a | Nagios looks for performance data."""
    return _plain(words).replace("|", "/")
