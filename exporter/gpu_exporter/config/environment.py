"""Settings in the environment: ``GPU_EXPORTER_…`` variables, and the refusal of those that nobody would read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

from gpu_exporter.config.parsers import quoted
from gpu_exporter.config.sections import ConfigError
from gpu_exporter.config.settings import settings

PREFIX: Final = "GPU_EXPORTER_"


def from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What goes over the file: key -> (variable, its text). An empty variable counts as one that is not set."""
    return {
        setting.key: (setting.variable, environment[setting.variable])
        for setting in settings()
        if environment.get(setting.variable)
    }


def refuse_unknown(environment: Mapping[str, str], known: Collection[str]) -> None:
    """Raise ConfigError where a variable has our prefix and is not ``known``: mistyped, an allow-list would be lost.

    What a container platform sets by itself for a service of our name is passed over.
    """
    for name, value in sorted(environment.items()):
        # In small letters other programs may have variables, but hardly one with the very name of ours.
        if name in known or not (name.startswith(PREFIX) or name.upper() in known) or _links(name, value, environment):
            continue
        from difflib import get_close_matches  # noqa: PLC0415 - a hundred KiB for a mistake

        shown = quoted(name)[1:-1]
        # Without the prefix, which would make all names alike.
        own = {candidate.removeprefix(PREFIX): candidate for candidate in known}
        near = get_close_matches(name.upper().removeprefix(PREFIX), own, n=1)
        if near:
            raise ConfigError(f"{shown}: unknown variable; did you mean {own[near[0]]}?")
        raise ConfigError(
            f"{shown}: unknown variable; each is named after its flag, as {PREFIX}WEB_ALLOW is after --web.allow"
        )


# --- variables of container platforms ---------------------------------------------------------------------------------


def _links(name: str, value: str, environment: Mapping[str, str]) -> bool:
    """Whether Kubernetes (or Docker's --link) sets this variable for a service called gpu-exporter or gpu-exporter-….

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables; the kubelet makes them in
    pkg/kubelet/envvars. The value tells them from what a person means by ``GPU_EXPORTER_PORT=9435``. Docker hands on
    the other container's environment too (https://docs.docker.com/engine/network/links/#environment-variables).
    """
    if handed_on := re.match(rf"({PREFIX}(?:[A-Z0-9_]+_)?)ENV_", name):
        return _is_link(environment.get(f"{handed_on[1]}NAME", ""))
    return any(
        re.fullmatch(rf"{PREFIX}(?:[A-Z0-9_]+_)?{form}", name) and accepts(value) for form, accepts in _LINKS.items()
    )


def _is_link(value: str) -> bool:
    return bool(re.fullmatch("/[^/]+/[^/]+", value))


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", value)) and int(value) <= 65535


def _is_url(value: str) -> bool:
    match = re.fullmatch(r"(?:tcp|udp|sctp)://(?:\[(.+)\]|([^:]+)):([0-9]+)", value)
    return match is not None and _is_address(match[1] or match[2]) and _is_port(match[3])


_LINKS: Final[Mapping[str, Callable[[str], bool]]] = MappingProxyType(
    {
        "NAME": _is_link,
        "SERVICE_HOST": _is_address,
        "SERVICE_PORT(?:_[A-Z0-9_]+)?": _is_port,
        "PORT": _is_url,
        "PORT_[0-9]+_(?:TCP|UDP|SCTP)": _is_url,
        "PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO": {"tcp", "udp", "sctp"}.__contains__,
        "PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT": _is_port,
        "PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR": _is_address,
    }
)
