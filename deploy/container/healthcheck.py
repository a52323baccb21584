"""Whether the exporter of this container is alive: status 0, or 1 and one line.

The port comes from the same environment and configuration file that the exporter reads. What flags said cannot be seen
from here: in a container, move the port with GPU_EXPORTER_WEB_LISTEN_ADDRESS. Runs twice a minute: imports little.
"""  # noqa: INP001 - a program of the image, no package

from __future__ import annotations

import os
import socket
import sys

_DEFAULT = ":9435"
_TIMEOUT = 3.0  # seconds


def main() -> int:
    """Ask for /livez. An answer that wants a password or a certificate is a sign of life as well."""
    listen, tls = _place()
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    # An exporter on all addresses is asked on the loopback one.
    address = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with
    try:
        status = _ask(address, int(port), tls)
    except (OSError, ValueError, IndexError) as error:
        print(f"{address}:{port} does not answer: {error}")  # noqa: T201 - docker inspect shows it
        return 1
    if status in {200, 401, 429}:
        return 0
    print(f"{address}:{port}/livez answers {status}")  # noqa: T201
    return 1


def _place() -> tuple[str, dict[str, str]]:
    """The first listen address (one loop serves them all), and how TLS is spoken there; empty where it is not."""
    listen = os.environ.get("GPU_EXPORTER_WEB_LISTEN_ADDRESS")
    web = os.environ.get("GPU_EXPORTER_WEB_CONFIG_FILE")
    if file := os.environ.get("GPU_EXPORTER_CONFIG_FILE"):
        settings = _yaml(file).get("web") or {}
        listen = listen or settings.get("listen_address")
        web = web or settings.get("config_file")
    addresses = (listen or _DEFAULT).replace(",", " ").split() if not isinstance(listen, list) else listen
    return addresses[0], (_yaml(web).get("tls_server_config") or {}) if web else {}


def _yaml(path: str) -> dict[str, dict[str, str]]:
    import yaml  # noqa: PLC0415 - most containers have no such file

    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes a fifth of the time
        return yaml.safe_load(file) or {}


def _ask(address: str, port: int, tls: dict[str, str]) -> int:
    """The status of /livez. Raises OSError, ValueError or IndexError where there is none."""
    with socket.create_connection((address, port), _TIMEOUT) as plain:
        if not tls:
            return _status(plain)
        import ssl  # noqa: PLC0415 - see _yaml

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Our own process is asked, by a name that no certificate has.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with context.wrap_socket(plain) as wrapped:
                return _status(wrapped)
        except TimeoutError:
            raise
        except (OSError, ValueError, IndexError):
            # Turned away: with an alert, or cut off before the alert was read.
            if tls.get("client_auth_type", "").startswith("Require"):
                return 401
            raise


def _status(connection: socket.socket) -> int:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = b""
    while b"\r\n" not in answer:
        if not (more := connection.recv(1024)):
            break
        answer += more
    return int(answer.split(b" ", 2)[1])


if __name__ == "__main__":
    sys.exit(main())
