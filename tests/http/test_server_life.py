"""Who may connect to the server, how it closes, and the room it leaves for TLS. Where it listens: test_listening.py."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tools.lab.wait import patience, wait_for

from gpu_exporter.http import connections
from gpu_exporter.http.server import Server
from serving import (
    GET,
    answer,
    ask,
    dial,
    everything,
    fetch,
    serving,
    trickle_until_closed,
    workers,
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


# --- who may connect -------------------------------------------------------------------------------------------------


def test_allow_list_and_its_reload() -> None:
    with serving(allow=(ipaddress.ip_network("10.0.0.0/8"),)) as server:
        refused = ask(server, b"")  # before a byte was sent
        told = b"403 Forbidden: 127.0.0.1 is not in web.allow\n"
        assert refused.startswith(b"HTTP/1.1 403 Forbidden")
        assert b"\r\nContent-Length: %d\r\n" % len(told) in refused
        assert refused.endswith(b"\r\n\r\n" + told)
        server.allow = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("127.0.0.0/8"))
        with dial(server, GET) as client:
            assert answer(client)[0] == 200
            server.allow = (ipaddress.ip_network("fe80::/10"),)
            assert everything(client) == b""  # who was let in before has to leave
        assert fetch(server)[0] == 403
        server.allow = ()
        assert fetch(server)[0] == 200


# --- closing ---------------------------------------------------------------------------------------------------------


def test_close_ends_everything() -> None:
    """Within a second: half of one for answers under way, a quarter for the threads; what is left is cut at once."""
    with serving() as server, ExitStack() as stack:
        for data in (b"", b"GET /", GET, b"GET /big HTTP/1.1\r\n\r\n") * 5:
            stack.enter_context(dial(server, data))
        wait_for(lambda: sum(connection.busy for connection in server.connections.open) == 5)
        closing = threading.Thread(target=server.close, daemon=True)
        closing.start()
        closing.join(patience())
        assert not closing.is_alive(), "nobody reads, and no deadline passes"
        wait_for(lambda: not workers())
        with pytest.raises(ConnectionRefusedError):
            dial(server)
        server.close()  # a second time does no harm
    assert connections.GRACE * 1.5 < 1


def test_an_answer_under_way_is_finished_before_closing() -> None:
    begun, finish = threading.Event(), threading.Event()

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        begun.set()
        finish.wait(patience())
        start_response("200 OK", [])
        return [b"done"]

    with serving(app) as server, dial(server, 2 * GET) as client:
        begun.wait(patience())
        closer = threading.Thread(target=server.close)
        closer.start()
        wait_for(lambda: server.connections.closing)
        finish.set()
        assert answer(client) == (200, b"done")
        assert everything(client) == b"", "the second request came too late"
        closer.join()


# --- room for TLS ----------------------------------------------------------------------------------------------------


class Handshake(socket.socket):
    """Stands for a TLS socket: its handshake is one byte from the client."""

    def do_handshake(self) -> None:
        if self.recv(1) != b"!":
            raise ssl.SSLError("no handshake")


def wrap(plain: socket.socket) -> socket.socket:
    timeout = plain.gettimeout()
    wrapped = Handshake(fileno=plain.detach())
    wrapped.settimeout(timeout)
    return wrapped


def test_a_handshake_blocks_nobody_and_has_a_deadline() -> None:
    with serving(wrap=wrap, connections=4) as server, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(dial(server))
        with dial(server, b"!" + GET) as client:
            assert answer(client)[0] == 200
        assert ask(server, b"?") == b""
    with serving(wrap=wrap, header_deadline=0.2) as server, dial(server) as silent:
        assert trickle_until_closed(silent) == b""


def test_a_connection_in_its_handshake_is_evicted_like_others() -> None:
    with serving(wrap=wrap, connections=2) as server, ExitStack() as stack:
        silent = [stack.enter_context(dial(server)) for _ in range(6)]
        with dial(server, b"!" + GET) as client:
            assert answer(client)[0] == 200
        assert everything(silent[0]) == b""


def test_a_connection_evicted_while_it_is_being_wrapped_ends_at_once() -> None:
    gate = threading.Event()

    def slow(plain: socket.socket) -> socket.socket:
        descriptor = plain.detach()  # from here on the server has nothing to cut
        gate.wait(patience())
        return Handshake(fileno=descriptor)

    with serving(wrap=slow, connections=1) as server, dial(server) as first:
        wait_for(lambda: any(connection.sock.fileno() < 0 for connection in server.connections.open))
        with dial(server):
            wait_for(lambda: any(connection.cut for connection in server.connections.open))
            gate.set()
            assert everything(first) == b""
