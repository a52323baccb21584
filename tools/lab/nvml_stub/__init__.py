"""A stand-in for NVIDIA's management library, so that the real pynvml runs without a GPU.

``build`` compiles it, ``Stub`` owns the state that it shows. A change reaches running processes at their next call::

    library = build(directory)
    stub = Stub(directory, ["h100", "a100"])
    subprocess.run(command, env={**os.environ, **stub.env(library)})
    stub.set(0, "temperature", 91)
    stub.lose(1)
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.lab.nvml_stub.compiler import FUNCTIONS, build
from tools.lab.nvml_stub.gpu import SETTINGS, Gpu, Mig, Process, ProcessKind, Usage, microseconds
from tools.lab.nvml_stub.presets import FIELDS, GPM, MODELS, Answer, Setting

__all__ = ["FIELDS", "FUNCTIONS", "MODELS", "SETTINGS", "Mig", "Process", "Stub", "Usage", "build"]

_MAX_GPUS: Final = 64
_MAX_EVENTS: Final = 256
_GROUPS: Final = {"power": ("power_instant", "power_average", "power_usage")}
_COUNTER: Final = struct.Struct("=56sQ")
_XID: Final = 0x8
_CHARGED: Final = "charged_us"
_DOUBLE: Final = 0
_PRICES: Final = Path(__file__).with_name("h200-prices.json")
_NOT_SUPPORTED: Final = 3
_LOST: Final = 15


def _known_function(name: str) -> str:
    if name not in FUNCTIONS:
        raise ValueError(f"not in functions.h: {name}")
    return name


def prices() -> Iterator[tuple[str, str]]:
    """What the calls of a recorded H200 took, as the state file tells it: key and microseconds."""
    recorded = json.loads(_PRICES.read_text())
    yield "open", str(recorded["open"])
    for prefix, group in (("", "functions"), ("samples.", "samples"), ("field.", "fields")):
        for name, (first, again) in recorded[group].items():
            yield f"{prefix}{name}", f"{first}:{again}"


class Stub:
    """The GPUs that the stand-in shows, and what is wrong with them.

    ``models`` names one of ``MODELS`` for each GPU. A function that takes an error code clears the error with 0.

    The machine has a clock of its own for what NVML stamps and samples. It stands still at ``now``, by default the
    second of now, so that no answer depends on when it is asked for; ``live`` lets it go with the real one.

    Calls are answered at once; with ``priced`` each keeps the CPU busy for as long as the driver of an H200 did.
    """

    def __init__(
        self,
        directory: Path,
        models: Sequence[str] = ("h100",),
        *,
        driver_version: str = "590.48.01",
        cuda_version: int = 13010,
        now: float | None = None,
        live: bool = False,
        priced: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.state_file = directory / "nvml-state"
        self.calls_file = directory / "nvml-calls"
        self._gpus: list[Gpu] = []
        self._count = 0
        self._driver_version = driver_version
        self._cuda_version = cuda_version
        self._stands_at = None if live else float(int(time.time())) if now is None else now
        self._listed: int | None = None
        self._module_version = ""
        self._clock_steps: list[tuple[int, int]] = []
        self._init_error = 0
        self._init_hang = False
        self._failure = (0, 0)
        self._function_errors: dict[str, int] = {}
        self._function_delays: dict[str, int] = {}
        self._events: list[tuple[int, int, int, int]] = []
        self._event_number = 0
        self._batches = 0
        self._prices = tuple(prices()) if priced else ()
        with self.batch():
            for model in models:
                self.add(model)

    # --- the file -----------------------------------------------------------------------------------------------------

    def env(self, library: Path, *, count_calls: bool = True) -> dict[str, str]:
        """Return the variables that lead a process to this stub."""
        paths = (str(library), os.environ.get("LD_LIBRARY_PATH", ""))
        variables = {"LD_LIBRARY_PATH": ":".join(filter(None, paths)), "NVML_STUB_STATE": str(self.state_file)}
        return {**variables, "NVML_STUB_CALLS": str(self.calls_file)} if count_calls else variables

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make several changes visible at once."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            self._write()

    def _write(self) -> None:
        if self._batches:
            return
        scratch = self.state_file.with_name(f".{self.state_file.name}.{os.getpid()}")
        scratch.write_text("".join(f"{line}\n" for line in self._lines()), "utf-8", "surrogateescape")
        scratch.replace(self.state_file)

    def _lines(self) -> Iterator[str]:
        yield f"count {self._count}"
        yield f"driver_version {self._driver_version}"
        yield f"nvml_version 13.{self._driver_version}"
        yield f"cuda_version {self._cuda_version}"
        yield f"listed {-1 if self._listed is None else self._listed}"
        if self._module_version:
            yield f"module_version {self._module_version}"
        if self._stands_at is not None:
            yield f"now_us {microseconds(self._stands_at)}"
        if self._clock_steps:
            yield f"clock_steps {','.join(f'{at}:{ahead}' for at, ahead in self._clock_steps)}"
        yield f"init_error {self._init_error}"
        yield f"init_hang {int(self._init_hang)}"
        yield f"driver_failure {self._failure[0]} {self._failure[1]}"
        yield from (f"error.{name} {code}" for name, code in self._function_errors.items())
        yield from (f"delay_us.{name} {delay}" for name, delay in self._function_delays.items())
        yield from (f"price.{key} {price}" for key, price in self._prices)
        yield from (f"event {' '.join(map(str, event))}" for event in self._events)
        for index, gpu in enumerate(self._gpus):
            yield from (f"gpu.{index}.{line}" for line in gpu.lines())

    # --- the clock ----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """What the machine's clock shows, Unix time; set, it stands there."""
        return time.time() if self._stands_at is None else self._stands_at

    @now.setter
    def now(self, seconds: float) -> None:
        self._stands_at = seconds
        self._write()

    def set_clock(self, seconds: float) -> None:
        """Set the clock that stamps samples, forwards or back; samples that are in the buffers keep their stamps."""
        ahead = self._clock_steps[-1][1] if self._clock_steps else 0
        self._clock_steps.append((microseconds(self.now), ahead + microseconds(seconds)))
        self._write()

    # --- the driver ---------------------------------------------------------------------------------------------------

    @property
    def driver_version(self) -> str:
        """The driver's release; field numbers follow it from the next nvmlInit on."""
        return self._driver_version

    @driver_version.setter
    def driver_version(self, version: str) -> None:
        self._driver_version = version
        self._write()

    @property
    def count(self) -> int:
        """How many of the GPUs the next nvmlInit finds."""
        return self._count

    @count.setter
    def count(self, count: int) -> None:
        if not 0 <= count <= len(self._gpus):
            raise ValueError(f"there are {len(self._gpus)} GPUs")
        self._count = count
        self._write()

    def list(self, count: int | None) -> None:
        """Let nvmlDeviceGetCount answer so many, whatever the session has; None goes back to those of the session."""
        self._listed = count
        self._write()

    def load_module(self, version: str) -> None:
        """Load the kernel module of that version: a library built for another one is refused as it is opened."""
        self._module_version = version
        self._write()

    def fail_init(self, code: int) -> None:
        """Let nvmlInit answer ``code``: 9 driver not loaded, 12 library not found, 18 version mismatch."""
        self._init_error = code
        self._write()

    def hang_init(self, *, hang: bool = True) -> None:
        """Let nvmlInit block until ``hang_init(hang=False)``."""
        self._init_hang = hang
        self._write()

    def fail_driver(self, code: int) -> None:
        """Let every call of the sessions of now answer ``code``, until they shut down and initialize again."""
        self._failure = (self._failure[0] + 1, code)
        self._write()

    def fail(self, function: str, code: int, device: int | None = None) -> None:
        """Let one function answer ``code``, for one device or all."""
        errors = self._function_errors if device is None else self._gpus[device].function_errors
        errors[_known_function(function)] = code
        self._write()

    def unsupported(self, function: str, device: int | None = None) -> None:
        """Let one function answer NOT_SUPPORTED, for one device or all."""
        self.fail(function, _NOT_SUPPORTED, device)

    def slow_function(self, function: str, seconds: float) -> None:
        """Let one function take longer; 0 ends it, for calls under way too."""
        self._function_delays[_known_function(function)] = round(seconds * 1e6)
        self._write()

    # --- a device's health --------------------------------------------------------------------------------------------

    def error(self, device: int, code: int, *, lookup: bool = False) -> None:
        """Let every call for the device answer ``code``; with ``lookup``, handle look-ups still work."""
        gpu = self._gpus[device]
        gpu.error, gpu.lookup = code, lookup
        self._write()

    def lose(self, device: int, *, lookup: bool = False) -> None:
        """Let the device fall off the bus: GPU_IS_LOST."""
        self.error(device, _LOST, lookup=lookup)

    def hang(self, device: int, *, lookup: bool = False) -> None:
        """Let every call for the device block until ``recover``; with ``lookup``, handle look-ups still work."""
        gpu = self._gpus[device]
        gpu.hang, gpu.lookup = True, lookup
        self._write()

    def slow(self, device: int, seconds: float) -> None:
        """Let every call for the device take longer."""
        self._gpus[device].delay_us = round(seconds * 1e6)
        self._write()

    def recover(self, device: int) -> None:
        """End ``error``, ``lose``, ``hang`` and ``slow``."""
        gpu = self._gpus[device]
        gpu.error, gpu.hang, gpu.lookup, gpu.delay_us = 0, False, False, 0
        self._write()

    def event(self, device: int, kind: int, data: int) -> None:
        """Deliver an event to the event sets that are registered for it by now."""
        self._event_number += 1
        self._events.append((self._event_number, device, kind, data))
        del self._events[:-_MAX_EVENTS]
        self._write()

    def xid(self, device: int, code: int) -> None:
        """Deliver an XID event."""
        self.event(device, _XID, code)

    # --- a device's values --------------------------------------------------------------------------------------------

    def add(self, model: str) -> int:
        """Plug in one more GPU, which the next nvmlInit finds, and return its index."""
        index = len(self._gpus)
        if index == _MAX_GPUS:
            raise ValueError(f"at most {_MAX_GPUS} GPUs")
        gpu = Gpu(
            {"minor_number": index, "pci_bus": 0x10 + index, "uuid": f"GPU-5eed{index:04x}-0000-4000-8000-{index:012x}"}
        )
        for name, value in MODELS[model].items():
            gpu.set(name, value.format(index=index) if isinstance(value, str) else value, at=self.now)
        gpu.gpm_of_busy.update(GPM.get(model, {}))
        for number, answer in FIELDS.get(model, {}).items():
            gpu.answer(number, answer)
        self._gpus.append(gpu)
        self._count = len(self._gpus)
        self._write()
        return index

    def unplug(self, device: int) -> None:
        """Take one GPU out; those behind it move up. To be seen right only by sessions that begin later."""
        del self._gpus[device]
        self._count -= 1
        self._write()

    def get(self, device: int, name: str) -> Setting | None:
        """Return a setting, None where the device does not support it."""
        return self._gpus[device].settings.get(name)

    def set(self, device: int, name: str, value: Setting | None) -> None:
        """Change one of ``SETTINGS``, in NVML's units; None makes it unsupported. "power" sets every reading of it."""
        for each in _GROUPS.get(name, (name,)):
            if each not in SETTINGS:
                raise ValueError(f"not in values.h: {each}")
            self._gpus[device].set(each, value, at=self.now)
        self._write()

    def field(
        self, device: int, number: int | tuple[int, int], value: float = 0, *, kind: int = 3, error: int = 0
    ) -> None:
        """Fix the answer for one field, by its number or (number, scope), as ``FIELDS`` of presets.py does.

        A float is told as NVML's double.
        """
        whole = value if isinstance(value, int) else int.from_bytes(struct.pack("<d", value), "little", signed=True)
        self._gpus[device].answer(number, Answer(whole, kind if isinstance(value, int) else _DOUBLE, error))
        self._write()

    def processes(self, device: int, processes: Iterable[Process], *, kind: ProcessKind = "compute") -> None:
        """Replace the processes of a kind."""
        self._gpus[device].processes[kind] = tuple(processes)
        self._write()

    def process_layout(self, device: int, size: int) -> None:
        """Let version 3 of the lists write so many bytes a process: 16, 24 or 32."""
        self._gpus[device].process_bytes = size
        self._write()

    def process_utilization(self, device: int, usage: Iterable[Usage]) -> None:
        """Replace what processes use of the device."""
        self._gpus[device].usage = tuple(usage)
        self._write()

    def samples(self, device: int, kind: int, samples: Iterable[tuple[int, int]] | None) -> None:
        """List the exact (microseconds, value) samples of a kind; None goes back to those of the settings' history."""
        if samples is None:
            self._gpus[device].samples.pop(kind, None)
        else:
            self._gpus[device].samples[kind] = tuple(samples)
        self._write()

    def buffer(self, device: int, samples: int) -> None:
        """Let the buffers of the device hold so many samples: six are a second, 120 the most."""
        self._gpus[device].buffer_samples = samples
        self._write()

    def mig(self, device: int, devices: Iterable[Mig]) -> None:
        """Partition the device; an empty list leaves MIG mode on with no MIG device."""
        gpu = self._gpus[device]
        gpu.mig = tuple(devices)
        gpu.set("mig_mode", 1, at=self.now)
        self._write()

    def gpm(self, device: int, metrics: Mapping[int, float]) -> None:
        """Replace the profiling metrics; with none, the device does not support them."""
        self._gpus[device].gpm, self._gpus[device].gpm_of_busy = dict(metrics), {}
        self._write()

    # --- calls --------------------------------------------------------------------------------------------------------

    def calls(self) -> dict[str, int]:
        """Return how often each function was called by all processes so far."""
        if not self.calls_file.exists():
            return {}
        counts = _COUNTER.iter_unpack(self.calls_file.read_bytes())
        told = {name.rstrip(b"\0").decode(): count for name, count in counts if count}
        told.pop(_CHARGED, None)
        return told

    def charged(self) -> float:
        """Return the seconds that calls have kept CPUs busy for, of all processes so far."""
        if not self.calls_file.exists():
            return 0.0
        counts = _COUNTER.iter_unpack(self.calls_file.read_bytes())
        microseconds: int = sum(count for name, count in counts if name.rstrip(b"\0").decode() == _CHARGED)
        return microseconds / 1e6

    def reset_calls(self) -> None:
        """Count from zero again, in running processes too."""
        if not self.calls_file.exists():
            return
        with self.calls_file.open("r+b") as file:
            for end in range(_COUNTER.size, self.calls_file.stat().st_size + 1, _COUNTER.size):
                file.seek(end - 8)
                file.write(bytes(8))
