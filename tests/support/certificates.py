"""Certificates that tests make for themselves, and clients that use them."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import bcrypt
import trustme
from tools.lab.wait import patience


class Site:
    """A folder with a web configuration file, a server's certificate and the CA that signs everybody's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "web.yml"
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        self.issue()

    def issue(self, common_name: str = "first") -> None:
        """A certificate for 127.0.0.1, in place of the one before."""
        issued = self.ca.issue_cert("127.0.0.1", "localhost", common_name=common_name)
        # The key last: what lies between has a key that is not the certificate's.
        issued.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        key = self.folder / "key.pem"
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)

    def client(self, *names: str, ca: trustme.CA | None = None) -> ssl.SSLContext:
        """A client that trusts this CA; with a certificate of these names, if there are any."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if names:
            (ca or self.ca).issue_cert(*names).configure_cert(context)
        return context

    def write(self, tls: str = "", rest: str = "") -> Path:
        """The web configuration: TLS with more of its keys, and more sections."""
        extra = "".join(f"  {line}\n" for line in tls.splitlines())
        self.path.write_text(f"tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n{extra}{rest}")
        return self.path


def hashed(password: str, cost: int = 4) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def fetch(
    port: int, context: ssl.SSLContext, path: str = "/metrics", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text by HTTPS, on a connection of its own."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=patience(), context=context)
    with closing(connection):
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()


def presented(port: int, context: ssl.SSLContext) -> str:
    """The common name of the certificate that the server shows."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=patience()) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        certificate: Any = secured.getpeercert()
    return str(next(pairs[0][1] for pairs in certificate["subject"] if pairs[0][0] == "commonName"))
