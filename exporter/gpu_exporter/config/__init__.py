"""Settings, and the kit for every file that people write.

``settings`` is the table; ``environment`` reads its variables and refuses others of our prefix; ``load`` lays file,
environment and flags over its defaults; ``files`` reads what is regular and not too large; ``yaml`` has limits of its
own and tells mistakes in one line; ``parsers`` turn text into values; ``watch`` tells which files have changed.
``installed`` says what brings a library that is missing.
"""

from __future__ import annotations

from gpu_exporter.config.environment import from_environment, refuse_unknown
from gpu_exporter.config.files import TooLargeError, read_file
from gpu_exporter.config.load import changed, load
from gpu_exporter.config.parsers import Address
from gpu_exporter.config.sections import ConfigError, Section, read_yaml
from gpu_exporter.config.settings import (
    MODELS,
    SOURCES,
    AccountingConfig,
    CollectionConfig,
    Config,
    HostConfig,
    LogConfig,
    OwnersConfig,
    ProcessesConfig,
    Setting,
    settings,
)
from gpu_exporter.config.watch import Watch

__all__ = [
    "MODELS",
    "SOURCES",
    "AccountingConfig",
    "Address",
    "CollectionConfig",
    "Config",
    "ConfigError",
    "HostConfig",
    "LogConfig",
    "OwnersConfig",
    "ProcessesConfig",
    "Section",
    "Setting",
    "TooLargeError",
    "Watch",
    "changed",
    "from_environment",
    "load",
    "read_file",
    "read_yaml",
    "refuse_unknown",
    "settings",
]
