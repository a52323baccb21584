"""The bytes of the pod-resources API: HTTP/2, gRPC and protobuf as they should be, and as a fuzzer makes them."""

from __future__ import annotations

import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tools.lab.wait import patience

from podresources import Api, load, raw_server, record, require, socket_folder

require("h2")
from hpack import Encoder  # noqa: E402 - only where it is installed
from hyperframe import frame as frames  # noqa: E402

from gpu_exporter.owners.kubernetes import messages  # noqa: E402
from gpu_exporter.owners.kubernetes.client import LARGEST, Client, exchange  # noqa: E402
from gpu_exporter.owners.kubernetes.messages import Allocation, PodResourcesError, allocations  # noqa: E402

GPU = "GPU-5eed0000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def api() -> Api:
    return load()


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder / "kubelet.sock"


@pytest.fixture(scope="module")
def recorded(api: Api) -> bytes:
    """All that grpcio's server sends in one call."""
    return record(api, api.answer(api.pod("train", api.container("main", gpu=[GPU]))))


def assert_refused_in_one_line(action: Callable[[], object]) -> None:
    """It works, or ends in one of our errors; OSError is what Client puts into words."""
    refused: Exception = OSError()
    try:
        action()
    except (PodResourcesError, OSError) as error:
        refused = error
    assert isinstance(refused, OSError) or str(refused).isprintable()


def server_frames(*, body: bytes = b"\0\0\0\0\0", status: str = "200", trailers: dict[str, str] | None = None) -> bytes:
    """A whole answer, frame by frame, as grpc-go would send it."""
    encoder = Encoder()
    head = frames.HeadersFrame(1, encoder.encode([(":status", status)]), flags=["END_HEADERS"])
    tail = encoder.encode(list(({"grpc-status": "0"} if trailers is None else trailers).items()))
    end = frames.HeadersFrame(1, tail, flags=["END_HEADERS", "END_STREAM"])
    sent = [frames.SettingsFrame(0), head, frames.DataFrame(1, body), end]
    return b"".join(part.serialize() for part in sent)


def talk(served: bytes, *, timeout: float = 5.0, then_close: bool = True) -> bytes:
    """A call to a server that sends just these bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(served)
        if then_close:
            theirs.shutdown(socket.SHUT_WR)
        return exchange(ours, method="List", timeout=timeout)


def test_reads_a_plain_answer() -> None:
    assert talk(server_frames(body=b"\0\0\0\0\3abc")) == b"abc"


@pytest.mark.parametrize(
    ("served", "trouble"),
    [
        (b"", "the connection ended before"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the connection ended before"),
        (bytes(99), "this is no HTTP/2"),
        (server_frames()[:40], "the connection ended before"),
        (server_frames(status="503"), "HTTP status 503"),
        (server_frames(trailers={}), "status missing"),
        (
            server_frames(trailers={"grpc-status": "8", "grpc-message": "a%20b%0A"}),
            r"status RESOURCE_EXHAUSTED: a b\\n",
        ),
        (server_frames(trailers={"grpc-status": "99"}), "status 99$"),
        (server_frames(body=b""), "not one whole message"),
        (server_frames(body=b"\0\0\0\0\3ab"), "not one whole message"),
        (server_frames(body=bytes(10)), "not one whole message"),
        (server_frames(body=b"\1\0\0\0\1a"), "compressed"),
        (server_frames(body=b"\0\1\0\0\1"), "larger than 16 MiB"),
        (frames.SettingsFrame(0).serialize() + frames.RstStreamFrame(1, 2).serialize(), "RST_STREAM INTERNAL_ERROR"),
        (frames.SettingsFrame(0).serialize() + frames.RstStreamFrame(1, 99).serialize(), "RST_STREAM 99"),
        (frames.SettingsFrame(0).serialize() + frames.GoAwayFrame(0, 0, 0).serialize(), "GOAWAY NO_ERROR"),
    ],
)
def test_an_answer_that_is_wrong(served: bytes, trouble: str) -> None:
    with pytest.raises(PodResourcesError, match=trouble):
        talk(served)


def test_every_point_to_die_at(recorded: bytes) -> None:
    assert decode(talk(recorded)) == [Allocation("train", "lab", "main", "nvidia.com/gpu", GPU)]
    for cut in range(len(recorded)):
        with pytest.raises(PodResourcesError, match="ended before"):
            talk(recorded[:cut])


@settings(max_examples=300)
@given(data=st.data())
def test_bytes_of_a_broken_server(recorded: bytes, data: st.DataObject) -> None:
    served = bytearray(recorded)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(served)))
        served[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    assert_refused_in_one_line(lambda: talk(bytes(served)))


@settings(max_examples=100)
@given(served=st.binary(max_size=200))
def test_any_bytes(served: bytes) -> None:
    with pytest.raises((PodResourcesError, OSError)):
        talk(frames.SettingsFrame(0).serialize() + served)


@settings(max_examples=15)
@given(cut=st.integers(0, 100))
def test_silence_ends_at_the_deadline(recorded: bytes, cut: int) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        talk(recorded[: len(recorded) * cut // 101], timeout=0.03, then_close=False)
    # Never sooner; how much later is for the machine to say, as long as it does not hang.
    assert 0.03 <= time.monotonic() - began < patience()


@pytest.mark.parametrize(
    "flood",
    [
        frames.PingFrame(0, b"8 bytes!").serialize() * 1000,
        frames.SettingsFrame(0, {1: 4096}).serialize() * 1000,
        frames.WindowUpdateFrame(0, 1).serialize() * 1000,
        b"\0\x40\0\xf0\0\0\0\0\0" + bytes(16384),
        b"\0\0\0\xf0\0\0\0\0\0" * 10_000,
        b"\xff\xff\xff\0\0\0\0\0\1" + bytes(2**24),
        frames.HeadersFrame(1, Encoder().encode([(":status", "103")]), flags=["END_HEADERS"]).serialize() * 1000,
        frames.HeadersFrame(1, Encoder().encode([("x", "y" * 9999)])).serialize()
        + frames.ContinuationFrame(1, bytes(9999)).serialize() * 1000,
        server_frames(trailers={"x": "y"})[:-14] + frames.DataFrame(1, b"x" * 9999).serialize() * 1000,
    ],
    ids=["ping", "settings", "window", "unknown", "small", "overlong", "informational", "headers", "data"],
)
def test_a_flood_ends_and_fills_no_memory(flood: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(patience())

    def pour() -> None:
        with suppress(OSError):  # hung up on
            theirs.sendall(frames.SettingsFrame(0).serialize())
            while True:
                theirs.sendall(flood)

    thread = threading.Thread(target=pour, name="flood")
    tracemalloc.start()
    with theirs:
        thread.start()
        began = time.monotonic()
        with ours, pytest.raises((PodResourcesError, OSError)):
            exchange(ours, method="List", timeout=0.4)
        assert time.monotonic() - began < patience(), "it ends, though the flood does not"
        thread.join(patience())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * LARGEST  # h2 waits for the whole of a frame before it refuses its size


def decode(message: bytes) -> list[Allocation]:
    return list(allocations(message, wanted=lambda resource: resource.startswith("nvidia.com/")))


@settings(max_examples=300)
@given(message=st.binary(max_size=300))
@example(b"\x08" + b"\x80" * 10)
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x0d\x00")
@example(b"\x00\x00")
def test_decoder_takes_any_bytes(message: bytes) -> None:
    assert_refused_in_one_line(lambda: list(decode(message)))


TEXT = st.text(max_size=12)
DEVICES = st.lists(
    st.tuples(st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-1g", "nic"]), st.lists(TEXT)), max_size=3
)
CLAIMS = st.lists(st.tuples(st.lists(TEXT, max_size=3), TEXT, TEXT), max_size=2)
PODS = st.lists(st.tuples(TEXT, TEXT, st.lists(st.tuples(TEXT, DEVICES, CLAIMS), max_size=3)), max_size=4)


@settings(max_examples=150)
@given(pods=PODS, noise=st.binary(max_size=4))
def test_decoder_reads_what_protobuf_writes(
    api: Api, pods: list[tuple[str, str, list[tuple[str, list[tuple[str, list[str]]], list[Any]]]]], noise: bytes
) -> None:
    message = api.answer()
    expected = []
    for name, namespace, containers in pods:
        pod = message.pod_resources.add(name=name, namespace=namespace)
        for container_name, devices, claims in containers:
            container = pod.containers.add(name=container_name, cpu_ids=[1, 2**40, -1])
            container.memory.add(size=2**63, topology=api._topology())
            for resource, ids in devices:
                container.devices.add(resource_name=resource, device_ids=ids, topology=api._topology())
                if resource != "nic":
                    expected += [Allocation(name, namespace, container_name, resource, device) for device in ids]
            for cdi, driver, device in claims:
                container.dynamic_resources.append(api.claim(*cdi, device=device, driver=driver))
                told = "\n".join([*cdi, device])
                expected.append(Allocation(name, namespace, container_name, driver, told, dynamic=True))
    later_versions = b"\x9a\x06" + bytes([len(noise)]) + noise + b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4)
    assert decode(message.SerializeToString() + later_versions) == expected


def test_decoder_bounds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MOST_FIELDS", 200_000)  # a tenth, for tracemalloc is slow
    million = 1024 * 1024
    for hostile in (b"\x0a\x00" * million, b"\x0a\x80\x80\x80\x01" + b"\x1a\x00" * million):
        tracemalloc.start()
        with pytest.raises(PodResourcesError, match="fields"):
            decode(hostile)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * LARGEST / 10
    with pytest.raises(PodResourcesError, match="a name of 5000 bytes"):
        decode(b"\x0a\x8b\x27\x0a\x88\x27" + bytes(5000) + b"\x1a\x00")


def test_the_client_is_used_by_one_and_closed_by_any(path: Path) -> None:
    entered = threading.Event()

    def serve(connection: socket.socket) -> None:
        entered.set()
        while connection.recv(4096):
            pass

    def close() -> None:
        entered.wait()
        client.close()

    client = Client(path=path, timeout=3600)
    with raw_server(path, serve), closing(client):
        threading.Thread(target=close, name="closer").start()
        with pytest.raises(PodResourcesError, match=r"ended before|closed|Broken pipe"):
            client.call("List")


def test_says_who_may_ask(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(PodResourcesError, match="nobody listens on it"):
            Client(path=path, timeout=patience()).call("List")
        listener.listen()
        path.chmod(0)
        path.parent.chmod(0o755)
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(PodResourcesError, match=r"permission denied; .* uid 0 only"):
                Client(path=path, timeout=patience()).call("List")
        finally:
            os.seteuid(uid)
