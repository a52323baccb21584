"""A process that runs the real pynvml on the stand-in: the library is loaded once a process, by name.

The tests' side is ``Agent``; run as a program, this module is the other side. It evaluates expressions in which
pynvml's names stand, each in a thread of its own, so that a call that hangs does not keep others from being made.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

import pynvml
from tools.lab import ROOT
from tools.lab.wait import patience


class NvmlError(Exception):
    """An NVML error in the agent; ``code`` is NVML's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Agent:
    """Evaluates expressions in a process with pynvml; a context manager that ends the process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.lab.nvml_stub.agent"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: list[Future[Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Agent:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reply = json.loads(line)
            future = self._answers[reply["number"]]
            if "error" in reply:
                future.set_exception(NvmlError(reply["error"]))
            elif "failure" in reply:
                future.set_exception(AssertionError(reply["failure"]))
            else:
                future.set_result(reply["value"])

    def start(self, expression: str) -> Future[Any]:
        """Evaluate in the background."""
        assert self._process.stdin is not None
        future: Future[Any] = Future()
        self._answers.append(future)
        self._process.stdin.write(json.dumps([len(self._answers) - 1, expression]) + "\n")
        self._process.stdin.flush()
        return future

    def __call__(self, expression: str) -> Any:
        """Evaluate and return the value, as JSON has it."""
        return self.start(expression).result(timeout=patience())

    def error(self, expression: str) -> int:
        """Evaluate and return the code of the NVML error that this raises."""
        try:
            value = self(expression)
        except NvmlError as error:
            return error.code
        raise AssertionError(f"no error but {value!r}: {expression}")

    def close(self) -> None:
        """End the process, even while a call hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=patience())
        self._reader.join()
        self._process.stdout.close()


# --- the other side ---------------------------------------------------------------------------------------------------

_PARTS: Final = {1: "uiVal", 3: "ullVal", 5: "siVal"}
_handles: Final[dict[int, Any]] = {}


def handle(index: int) -> Any:
    """Return the handle that was taken first, as a daemon keeps it."""
    if index not in _handles:
        _handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
    return _handles[index]


def fields(index: int, *wanted: int | tuple[int, int]) -> list[tuple[int, int | None, int]]:
    """Read field values as (status, value, value type)."""
    answers = pynvml.nvmlDeviceGetFieldValues(handle(index), list(wanted))
    return [
        (each.nvmlReturn, None if each.nvmlReturn else getattr(each.value, _PARTS[each.valueType]), each.valueType)
        for each in answers
    ]


def gpm(index: int, metric: int) -> float:
    """Read one profiling metric."""
    samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
    for sample in samples:
        pynvml.nvmlGpmSampleGet(handle(index), sample)
    request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=1, sample1=samples[0], sample2=samples[1])
    request.metrics[0].metricId = metric
    pynvml.nvmlGpmMetricsGet(request)
    for sample in samples:
        pynvml.nvmlGpmSampleFree(sample)
    return float(request.metrics[0].value)


def _serve() -> None:
    names = {**vars(pynvml), "byref": ctypes.byref, "handle": handle, "fields": fields, "gpm": gpm, "kept": {}}
    lock = threading.Lock()

    def answer(number: int, expression: str) -> None:
        reply: dict[str, Any] = {"number": number}
        try:
            reply["value"] = eval(expression, names)  # noqa: S307 - the tests' own
        except pynvml.NVMLError as error:
            reply["error"] = error.value
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            reply["failure"] = repr(error)
        text = json.dumps(reply, default=str)
        with lock:
            print(text, flush=True)

    for line in sys.stdin:
        threading.Thread(target=answer, args=json.loads(line), daemon=True).start()


if __name__ == "__main__":
    _serve()
