"""The figures' files: two commands write one of them."""

from __future__ import annotations

import socket
import threading
from itertools import permutations
from pathlib import Path

import pytest
from bench import results
from bench.client import Scraper


@pytest.mark.parametrize("order", list(permutations(("exporter", "faces", "exporter again"))))
def test_each_command_leaves_the_other_s_part(tmp_path: Path, order: tuple[str, ...]) -> None:
    file = tmp_path / "RESULTS.md"
    for part in order:
        write = results.write_faces if part == "faces" else results.write_exporter
        write(f"# {part}\n\nfigures of {part}\n", file)
    exporter = [part for part in order if part != "faces"][-1]
    assert file.read_text() == (
        f"# {exporter}\n\nfigures of {exporter}\n\n{results.FACES}\n# faces\n\nfigures of faces\n"
    )


def test_the_figures_of_the_faces_are_there() -> None:
    text = results.RESULTS.read_text()
    assert text.count(results.FACES) == 1
    for gpus in (1, 8):
        for name in ("gpu-exporter top", "gpu-exporter desktop", "nvitop"):
            assert f"| {name} | {gpus} |" in text.partition(results.FACES)[2]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"4\r\nup 1\r\n1\r\n\n\r\n0\r\n\r\n", b"up 1\n"),
        (b"5;x=1\r\n\r\n0\r\n\r\n0\r\nTrailer: x\r\n\r\n", b"\r\n0\r\n"),
        (b"0\r\n\r\n", b""),
    ],
)
def test_a_page_that_comes_in_chunks_is_whole(sent: bytes, told: bytes) -> None:
    """As nvidia_gpu_exporter sends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + sent)

        thread = threading.Thread(target=answer)
        thread.start()
        with Scraper(listener.getsockname()[1]) as scraper:
            assert scraper.scrape().wire == told
        thread.join()
