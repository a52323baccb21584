"""Settings in the environment: ``GPU_EXPORTER_…`` variables."""

from __future__ import annotations

from collections.abc import Mapping

from gpu_exporter.config.settings import settings


def from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What goes over the file: key -> (variable, its text). An empty variable counts as one that is not set."""
    return {
        setting.key: (setting.variable, environment[setting.variable])
        for setting in settings()
        if environment.get(setting.variable)
    }
