"""Field values in one call, laid out once: what the driver leaves out is never an old answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
from tools.lab.exporter import parse, pick, run
from tools.lab.nvml_stub import Stub, build

from gpu_exporter.sources.nvml import fields
from gpu_exporter.sources.nvml.fields import FieldBatch


def test_a_call_that_fails_leaves_no_old_answer(here: Callable[[Stub], Stub], stub: Callable[..., Stub]) -> None:
    machine = here(stub("h100"))
    machine.field(0, 83, 7_000_000)
    pynvml.nvmlInit()
    try:
        batch = FieldBatch([(83, 0)])
        assert batch.ask(pynvml.nvmlDeviceGetHandleByIndex(0)) == [0]
        assert batch.value(0) == 7_000_000
        machine.fail("nvmlDeviceGetFieldValues", 999)
        with pytest.raises(pynvml.NVMLError):
            batch.ask(pynvml.nvmlDeviceGetHandleByIndex(0))
        assert batch.value(0) == 0
    finally:
        pynvml.nvmlShutdown()


def test_field_values_are_laid_out_as_the_binding_lays_them_out() -> None:
    def layout(structure: Any) -> list[tuple[str, int, int]]:
        return sorted(
            (name, getattr(structure, name).offset, getattr(structure, name).size) for name, *_ in structure._fields_
        )

    assert layout(fields._FieldValue) == layout(pynvml.c_nvmlFieldValue_t)
    assert layout(fields._Value) == layout(pynvml.c_nvmlValue_t)


def test_a_driver_without_field_values_has_everything_else(stub: Callable[..., Stub], tmp_path: Path) -> None:
    machine = stub("h100")
    older = build(tmp_path, without={"nvmlDeviceGetFieldValues"})
    done = run("sample", "--format=prometheus", extra=machine.env(older))
    assert (done.returncode, done.stderr) == (0, "")
    samples = parse(done.stdout)
    assert pick(samples, "gpu_up", gpu=0) == 1
    assert pick(samples, "gpu_temperature_celsius", gpu=0) == machine.get(0, "temperature")
    assert pick(samples, "gpu_power_watts", gpu=0) is not None, "by the older call"
    assert pick(samples, "gpu_memory_temperature_celsius", gpu=0) is None
