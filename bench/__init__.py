"""What the exporter costs, beside another one on the same stand-in for NVIDIA's library; ``make bench`` runs it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
