"""A real DNS server of this test, on a free port of 127.0.0.1."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from gpu_exporter.config import Address


class DnsServer:
    """Answers by UDP for the names that it has; a name without addresses hangs. ``asked`` has what was asked.

    ``services`` are SRV records by the whole name, as "host port"; ``addresses`` may be changed at any time. With a
    ``group`` it hears what is sent to that multicast address, and says nothing of what it has not.
    """

    def __init__(
        self, *, group: str = "", services: Mapping[str, list[str]] | None = None, **addresses: list[str]
    ) -> None:
        self.addresses = addresses
        self.group = group
        self.services = dict(services or {})
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("" if group else "127.0.0.1", 0))
        self.address = Address(group or "127.0.0.1", self._socket.getsockname()[1])
        if group:
            joined = socket.inet_aton(group) + socket.inet_aton("0.0.0.0")  # noqa: S104 - the usual interface
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.address.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            packet, client = self._socket.recvfrom(4096)
            if not packet:
                return
            query = dns.message.from_wire(packet)
            question = query.question[0]
            host = question.name.to_text(omit_final_dot=True).lower()
            self.asked.append(host)
            reply = dns.message.make_response(query)
            if question.rdtype == dns.rdatatype.SRV and host in self.services:
                found = [f"0 0 {port} {name}." for name, port in map(str.split, self.services[host])]
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "SRV", *found))
                with suppress(OSError):
                    self._socket.sendto(reply.to_wire(), client)
                continue
            known = self.addresses.get(host.partition(".")[0])
            if known == [] or (known is None and self.group):
                continue
            fitting = [one for one in known or () if (":" in one) == (question.rdtype == dns.rdatatype.AAAA)]
            if self.group and not fitting:
                continue
            if known is None:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            elif fitting:
                kind = dns.rdatatype.to_text(question.rdtype)
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *fitting))
            with suppress(OSError):
                self._socket.sendto(reply.to_wire(), client)
