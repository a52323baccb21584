"""The server: grpcio's own, and one that sends whatever bytes a test wants."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tools.lab.wait import patience

from podresources.api import Api


class Kubelet:
    """Answers List with ``answer`` until told otherwise.

    ``fail`` is a (status name, message) that every List ends with. While ``hold`` is set, List does not answer;
    ``asked`` counts the calls of List.
    """

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
        self.path = path
        self.answer: Any = api.answer()
        self.fail: tuple[str, str] | None = None
        self.hold = threading.Event()
        self.asked = 0
        self._let_go = threading.Event()
        self._server: Any = None

    def __enter__(self) -> Kubelet:  # noqa: PYI034 - typing has Self from Python 3.11 on
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on a socket made anew, as a kubelet does that starts."""
        self.path.unlink(missing_ok=True)
        grpc = self.api.grpc
        behaviours = {"List": self._list}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                behaviours[name], request_deserializer=asked.FromString, response_serializer=_serialize
            )
            for name, (asked, _) in self.api.calls.items()
        }
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers)])
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """End, and take the socket along."""
        self._let_go.set()
        self._server.stop(None).wait()
        self._let_go.clear()
        self.path.unlink(missing_ok=True)

    def _list(self, request: Any, context: Any) -> Any:
        assert request == self.api.messages["ListPodResourcesRequest"]()
        self.asked += 1
        if self.hold.is_set():
            self._let_go.wait()
        if self.fail is not None:
            context.abort(getattr(self.api.grpc.StatusCode, self.fail[0]), self.fail[1])
        return self.answer


def _serialize(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


@contextmanager
def raw_server(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Listen on the path and let ``serve`` do as it likes with every connection; it is closed afterwards."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    accepted: list[socket.socket] = []

    def run() -> None:
        with suppress(OSError):  # the listener or the client went away
            while True:
                connection, _ = listener.accept()
                accepted.append(connection)
                with connection, suppress(OSError):
                    serve(connection)

    thread = threading.Thread(target=run, name="raw server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(patience())
        listener.close()
        path.unlink()


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder for sockets: their paths must be shorter than most of pytest's."""
    with tempfile.TemporaryDirectory(prefix="kubelet") as folder:
        yield Path(folder)


def record(api: Api, answer: Any) -> bytes:
    """All that grpcio's server sends in one call of List."""
    from gpu_exporter.owners.kubernetes.client import exchange  # noqa: PLC0415 - needs h2, which may not be installed

    sent = bytearray()

    class Recording(socket.socket):
        def recv(self, *arguments: Any) -> bytes:
            chunk = super().recv(*arguments)
            sent.extend(chunk)
            return chunk

    with socket_folder() as folder, Kubelet(api, folder / "kubelet.sock") as kubelet:
        kubelet.answer = answer
        with Recording(socket.AF_UNIX) as connection:
            connection.connect(str(kubelet.path))
            exchange(connection, method="List", timeout=patience())
    return bytes(sent)
