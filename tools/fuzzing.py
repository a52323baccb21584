"""``make fuzz``: the tests of tests/sources/test_any_bytes.py, led by coverage instead of by chance (atheris).

python -m tools.fuzzing [--seconds 60] [TARGET...], in an environment that has atheris. What it found is in .build/fuzz.
"""

from __future__ import annotations

import argparse
import os
import site
import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / ".build/fuzz/corpus"
# What is fuzzed, and the test whose values the fuzzer chooses; the recording's bytes are the fuzzer's own.
TARGETS = {
    "smi": "test_anything_from_nvidia_smi",
    "smi-table": "test_a_table_of_nvidia_smi_with_anything_in_its_cells_and_cut_anywhere",
    "dcgmi": "test_anything_from_dcgmi",
    "dcgmi-table": "test_a_table_of_dcgmi_with_anything_in_its_cells",
    "replay": "",
}


def fuzz(target: str, seconds: int) -> None:
    """Until the time is over; ends the process, with a status other than 0 where an input was found that fails."""
    site.addsitedir(sysconfig.get_path("purelib", vars={"base": str(ROOT / ".venv")}))
    sys.path[:0] = [str(ROOT / "exporter"), str(ROOT / "tests/support"), str(ROOT / "tests/sources"), str(ROOT)]
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["gpu_exporter"]):
        tests = import_module("test_any_bytes")
    one: Any
    if name := TARGETS[target]:
        one = getattr(tests, name).hypothesis.fuzz_one_input
    else:
        path = Path(tempfile.mkdtemp()) / "recording.jsonl"

        def one(data: bytes) -> None:
            path.write_bytes(data)
            tests.play(path)

    corpus = CORPUS / target
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={corpus}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """Each target in a process of its own, for as long as each may take."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzzing", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--here", choices=TARGETS, help=argparse.SUPPRESS)
    wishes = parser.parse_args()
    if wishes.here:
        fuzz(wishes.here, wishes.seconds)
    if unknown := set(wishes.targets) - TARGETS.keys():
        parser.error(f"{min(unknown)} is not known; write some of {', '.join(TARGETS)}")
    failed = [
        target
        for target in wishes.targets or TARGETS
        if subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-m", "tools.fuzzing", f"--here={target}", f"--seconds={wishes.seconds}"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        ).returncode
    ]
    print(f"inputs that fail were found for {', '.join(failed)}" if failed else "nothing was found")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
