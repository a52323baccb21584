"""The stand-in by hand: a shell of yours sees these GPUs.

usage: eval "$(python -m tools.lab.nvml_stub FOLDER MODEL [MODEL...])"; gpu-exporter sample --source nvml
       python -m tools.lab.nvml_stub FOLDER MODEL [MODEL...] --set GPU NAME=VALUE [NAME=VALUE...]

The second form shows other values of one of them to whatever reads them already; names are those of values.h, in NVML's
units (temperature=91).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tools.lab.nvml_stub import MODELS, Stub, build


def main() -> int:
    """Show the GPUs; 2 where it is not understood."""
    words = sys.argv[1:]
    split = words.index("--set") if "--set" in words else len(words)
    shown, changes = words[:split], words[split + 1 :]
    try:
        folder, *models = shown
        Path(folder).mkdir(parents=True, exist_ok=True)
        stub = Stub(Path(folder), models, live=True)
        if changes:
            gpu, *values = changes
            for name, value in (pair.split("=", 1) for pair in values):
                stub.set(int(gpu), name, int(value))
    except (KeyError, ValueError) as error:
        print(f"{__doc__}\n{error}; models are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    if not changes:
        for name, value in stub.env(build(Path(folder)), count_calls=False).items():
            print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
