"""A lean Prometheus exporter for NVIDIA GPUs: which GPU is sick, which is wasted, and who holds it."""

__version__ = "0.1.0"
