"""The command line: the only reader of arguments and environment."""

from __future__ import annotations

from gpu_exporter.cli.group import cli, main

__all__ = ["cli", "main"]
