"""What one H200 told beside known loads, as a recording."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recorded import RECORDED

IDLE = Path(__file__).parents[1] / "sources/recorded/h200-580.159.04.nvml-idle.json"
PID = 463
# Functions of the capture with arguments that are numbers: the capture's name, NVML's.
_NUMBERED = {
    "Threshold": "nvmlDeviceGetTemperatureThreshold",
    "Clock": "nvmlDeviceGetClockInfo",
    "MaxClock": "nvmlDeviceGetMaxClockInfo",
    "EccCounter": "nvmlDeviceGetMemoryErrorCounter",
}
_TEMPERATURE_V = 16777228  # version 1 of its structure, of 12 bytes
_BUFFER = 71  # samples that the driver's buffer holds
_UINT, _ULL = 1, 3  # NVML_VALUE_TYPE_...


def truth() -> list[dict[str, Any]]:
    """What the load really did, segment by segment."""
    text = (RECORDED / "h200-580.159.04.known-loads.truth.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rows() -> list[dict[str, Any]]:
    """What was told once a second."""
    text = (RECORDED / "h200-580.159.04.known-loads.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write(path: Path) -> None:
    """Write the recording: what stands still from the idle GPU's answers, the rest from the run."""
    header = {"recording": "gpu-exporter", "version": 1, "source": "nvml", "interval": 1.0, "names": False}
    told = rows()
    lines = [header]
    buffers: dict[str, list[Any]] = {"s1": [], "s2": []}
    for row in told:
        answers = dict(_idle()) if row is told[0] else {}
        answers |= dict(_moment(row, buffers))
        processes = {str(pid): {"process": "python3", "user": "user-1"} for pid, _ in row["procs"]}
        lines.append({"t": row["t"] - told[0]["t"], "answers": answers, "processes": processes})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _idle() -> Iterator[tuple[str, Any]]:
    told = json.loads(IDLE.read_text("utf-8"))
    yield "- nvmlDeviceGetCount_v2", [0, 1]
    yield "- nvmlDeviceGetHandleByIndex_v2 0", [0, None]
    yield "- nvmlEventSetCreate", [0, None]
    yield "0 nvmlDeviceRegisterEvents 8", [0]
    yield "- nvmlGpmSampleAlloc", [0, None]
    yield "0 nvmlGpmSampleGet", [0]
    yield "0 nvmlGpmMetricsGet", [0]
    yield "- nvmlGpmMetricsGet", [0]
    yield "0 nvmlGpmQueryDeviceSupport version=1", _answer(told["gpm"]["support"])
    yield "0 nvmlDeviceGetFieldValues", [0]
    for name, answer in (*told["calls"].items(), *told["special"].items()):
        function = name.partition(":")[0]
        version = answer["v"].get("version") if isinstance(answer.get("v"), dict) else None
        owner = "-" if name.startswith("nvmlSystem") else "0"
        if name.startswith("nvml") and not name.endswith(("RunningProcesses_v3", "Serial")):
            yield f"{owner} {function}{f' version={version}' if version else ''}", _answer(answer)
    for name, answer in told["special"].items():
        letters = name.rstrip("0123456789")
        if letters in _NUMBERED:
            yield f"0 {_NUMBERED[letters]} {' '.join(name[len(letters) :])}", _answer(answer)
    memory = told["special"]["MemoryInfo_v2"]["v"]
    yield f"0 nvmlDeviceGetMemoryInfo_v2 version={memory['version']}", [0, memory]
    for question, answer in told["fields"].items():
        kind, value = answer["v"][:2] if "v" in answer else (0, 0)
        yield f"0 nvmlDeviceGetFieldValues {question}", [answer.get("err", 0), kind, value]
    for name in ("Graphics", "MPSCompute"):
        yield f"0 nvmlDeviceGet{name}RunningProcesses_v3", [0, 0, {"hex": ""}]


def _answer(told: dict[str, Any]) -> list[Any]:
    if "err" in told:
        return [told["err"]]
    return [0, *told["v"]] if isinstance(told["v"], list) else [0, told["v"]]


def _moment(row: dict[str, Any], buffers: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    busy, memory_io = row["util"]
    yield "0 nvmlDeviceGetUtilizationRates", [0, {"gpu": busy, "memory": memory_io}]
    for field in (185, 186):
        yield f"0 nvmlDeviceGetFieldValues {field}:0", [0, _UINT, row["power"]]
    yield "0 nvmlDeviceGetFieldValues 83:0", [0, _ULL, row["energy"]]
    told = {"version": _TEMPERATURE_V, "sensorType": 0, "temperature": row["temp"]}
    yield f"0 nvmlDeviceGetTemperatureV version={_TEMPERATURE_V}", [0, told]
    total, reserved = 150754820096, 644939776
    memory = {"total": total, "reserved": reserved, "free": total - reserved - row["mem"], "used": row["mem"]}
    yield "0 nvmlDeviceGetMemoryInfo_v2 version=33554472", [0, {"version": 33554472, **memory}]
    for number, (name, buffer) in enumerate(buffers.items(), 1):
        buffer.extend(row[name])
        del buffer[:-_BUFFER]
        yield f"0 nvmlDeviceGetSamples {number}", [0, _UINT, list(buffer)]
    for number, value in row["gpm"].items():
        yield f"0 nvmlGpmMetricsGet {number}", [0, value]
    data = b"".join(struct.pack("@IxxxxQII", pid, memory, 2**32 - 1, 2**32 - 1) for pid, memory in row["procs"])
    yield "0 nvmlDeviceGetComputeRunningProcesses_v3", [0, len(row["procs"]), {"hex": data.hex()}]
    if isinstance(row["pu"], int):  # an error code
        yield "0 nvmlDeviceGetProcessUtilization 0", [row["pu"]]
    else:
        used = b"".join(struct.pack("@IxxxxQIIII", *each, 0, 0) for each in row["pu"])
        yield "0 nvmlDeviceGetProcessUtilization 0", [0, {"hex": used.hex()}, len(row["pu"])]
