"""Clients that send half a request and wait: ``python -m bench.half_open PORT COUNT``, until standard input ends.

Those that the server cuts come back a second later, all at once: it is never rid of them.

A process of its own, so that its work does not slow down the scraper beside it.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time

_HALF = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_PAUSE = 1.0  # before what the server has cut comes back; without one this would be a flood


def main() -> None:
    port, count = int(sys.argv[1]), int(sys.argv[2])
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        for _ in range(count):
            _open(selector, port)
        print("open", flush=True)
        while True:
            selector.select()
            time.sleep(_PAUSE)
            # All that were cut meanwhile come back at once.
            cut = [key.fileobj for key, _ in selector.select(0)]
            if sys.stdin in cut:
                return
            for client in cut:
                selector.unregister(client)
                if isinstance(client, socket.socket):
                    client.close()
                _open(selector, port)


def _open(selector: selectors.BaseSelector, port: int) -> None:
    try:
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.sendall(_HALF)
    except OSError:
        return
    selector.register(client, selectors.EVENT_READ)


if __name__ == "__main__":
    main()
