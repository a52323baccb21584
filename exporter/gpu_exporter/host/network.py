"""The machine's own addresses, from /proc/net: no packet is sent and nobody is asked."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

_MOST: Final = 16
# Bridges and pairs of container engines: the same addresses on every machine, and no way to reach one.
_INNER: Final = re.compile(r"(docker|br-|veth|virbr|cni|flannel|cali|cilium|lxc|lxd|podman|nerdctl|kube-)")
_GLOBAL: Final = "00"  # the scope of an address that is neither link-local nor the loopback's


def addresses(proc: Path) -> tuple[str, ...]:
    """IPv4 first; the address of the default route's interface before all others. Empty where nothing is told."""
    routes = _routes(proc)
    default = next((interface for interface, network, mask, _ in routes if not network and not mask), "")
    ranked = []
    for address in _ipv4(proc):
        interface = _interface(address, routes)
        if not _INNER.match(interface):
            ranked.append((interface != default, int(address), str(address)))
    return tuple([text for *_, text in sorted(ranked)] + _ipv6(proc))[:_MOST]


def _ipv4(proc: Path) -> set[IPv4Address]:
    """The addresses that /proc/net/fib_trie has as local hosts."""
    found = set()
    leaf = ""
    for line in _lines(proc / "net/fib_trie"):
        if match := re.fullmatch(r"\s*\|-- ([0-9.]{7,15})", line):
            leaf = match[1]
        elif line.strip() == "/32 host LOCAL":
            try:
                address = IPv4Address(leaf)
            except ValueError:
                continue
            if not address.is_loopback and not address.is_link_local:
                found.add(address)
    return found


def _ipv6(proc: Path) -> list[str]:
    found = set()
    for line in _lines(proc / "net/if_inet6"):
        match = re.fullmatch(r"([0-9a-f]{32}) [0-9a-f]+ [0-9a-f]+ ([0-9a-f]{2}) [0-9a-f]+ +(\S+)", line)
        if match and match[2] == _GLOBAL and not _INNER.match(match[3]):
            found.add(IPv6Address(bytes.fromhex(match[1])))
    return [str(address) for address in sorted(found)]


def _routes(proc: Path) -> list[tuple[str, int, int, bool]]:
    """Interface, network, mask and whether it leads to a gateway; numbers with the least byte first."""
    routes = []
    for line in _lines(proc / "net/route")[1:]:
        columns = line.split()
        try:
            interface, network, gateway, mask = columns[0], *(int(columns[at], 16) for at in (1, 2, 7))
        except (IndexError, ValueError):
            continue
        routes.append((interface, network, mask, gateway != 0))
    return routes


def _interface(address: IPv4Address, routes: list[tuple[str, int, int, bool]]) -> str:
    number = int.from_bytes(address.packed, "little")
    near = [route for route in routes if not route[3] and route[2] and number & route[2] == route[1]]
    return max(near, key=lambda route: route[2].bit_count(), default=("",))[0]


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return file.read(4 * 1024 * 1024).decode("ascii", "replace").splitlines()
    except OSError:
        return []
