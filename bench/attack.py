"""Clients that mean no good: ``python -m bench.attack KIND PORT …``, until standard input ends.

``readers PATH COUNT``   ask for a page again and again, on connections that they keep
``slow PATH COUNT``      ask for a page, and take 1 KiB of it a second
``half COUNT RATE``      so many connections a second that never send a whole request, COUNT of them open at most
``guesses COUNT``        wrong passwords, from COUNT addresses, two connections each

All come from 127.0.0.2, or from there on; those that are cut come back. A process of its own, so that its work does not
slow down the scraper beside it.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial

_AGAIN = 0.2  # seconds until a client that was cut comes back
_RECEIVES = 4096  # bytes: a slow reader's machine takes no more by itself
_GONE = (OSError, asyncio.IncompleteReadError, ValueError)


async def _connect(port: int, address: str = "127.0.0.2") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVES)
        sock.bind((address, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=sock, limit=_RECEIVES)
    except BaseException:
        sock.close()
        raise


def _request(path: str, extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode()


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while left > 0 and (chunk := await reader.read(min(left, 1 << 16))):
        left -= len(chunk)


async def _again(once: Callable[[], Coroutine[None, None, None]]) -> None:
    while True:
        with suppress(*_GONE):
            await once()
        await asyncio.sleep(_AGAIN)


async def _reads(port: int, path: str) -> None:
    reader, writer = await _connect(port)
    try:
        while True:
            writer.write(_request(path))
            await _answer(reader)
    finally:
        writer.close()


async def _reads_slowly(port: int, path: str) -> None:
    reader, writer = await _connect(port)
    try:
        writer.write(_request(path))
        taken = await reader.read(1024)
        while taken:
            await asyncio.sleep(1)
            taken = await reader.read(1024)
    finally:
        writer.close()


async def _guesses(port: int, address: str) -> None:
    reader, writer = await _connect(port, address)
    try:
        for number in range(10**9):
            wrong = base64.b64encode(f"prometheus:{address} {number}".encode()).decode()
            writer.write(_request("/metrics", f"Authorization: Basic {wrong}\r\n"))
            await _answer(reader)
    finally:
        writer.close()


async def _half_open(port: int, most: int, rate: float) -> None:
    kept: deque[asyncio.StreamWriter] = deque()
    while True:
        with suppress(*_GONE):
            _, writer = await _connect(port)
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            kept.append(writer)
        while len(kept) > most:
            kept.popleft().close()
        await asyncio.sleep(1 / rate)


async def _attack(kind: str, port: int, rest: list[str]) -> None:
    loop = asyncio.get_running_loop()
    if kind == "half":
        attacks = [_half_open(port, int(rest[0]), float(rest[1]))]
    elif kind == "guesses":
        addresses = [f"127.0.1.{number}" for number in range(1, int(rest[0]) + 1)]
        attacks = [_again(partial(_guesses, port, address)) for address in addresses for _ in range(2)]
    else:
        once = {"readers": _reads, "slow": _reads_slowly}[kind]
        attacks = [_again(partial(once, port, rest[0])) for _ in range(int(rest[1]))]
    tasks = [loop.create_task(attack) for attack in attacks]
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(_attack(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
