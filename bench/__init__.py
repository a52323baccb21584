"""What the exporter costs, beside another one on the same stand-in for NVIDIA's library; ``make bench`` runs it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The stand-in lives with the tests, which are no package; this is the one place that makes it importable.
sys.path.insert(0, str(ROOT / "tests"))
