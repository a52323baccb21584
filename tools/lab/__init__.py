"""What tests, bench and demo share: a GPU machine without GPUs, the programs around it, waiting, clocks and ports.

Nothing here imports pytest, which the demo's environment has not.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
