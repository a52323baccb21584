"""``python -m gpu_exporter``."""

from gpu_exporter.cli import main

main()
