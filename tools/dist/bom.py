"""What is in each thing that is shipped, as CycloneDX: what is locked in requirements/, with versions and hashes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tools.dist.environment import environment
from tools.dist.made import Made, RefusedError
from tools.lab import ROOT

from gpu_exporter import __version__

# What is shipped with which set.
OF = {"pyz": "pyz and deb", "image": "image"}


def lists(folder: Path) -> Iterable[Made]:
    """One list a set, checked against the schema of CycloneDX; the same sources give the same bytes."""
    program = environment("bom") / "cyclonedx-py"
    for name, of in OF.items():
        target = folder / f"gpu-exporter-{__version__}.{name}.cdx.json"
        done = subprocess.run(
            [
                *(program, "requirements", "--pyproject=pyproject.toml", "--mc-type=application"),
                *("--output-reproducible", "--spec-version=1.6", "--output-format=JSON", "--validate"),
                *(f"--output-file={target}", f"requirements/{name}.txt"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RefusedError(f"cyclonedx-py: {done.stderr.strip()}")
        document = json.loads(target.read_text())
        # pyproject.toml has no version, but the package has.
        document["metadata"]["component"]["version"] = __version__
        target.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        yield Made("parts list", target, f"CycloneDX 1.6 of {of}: {len(document['components'])} packages")
