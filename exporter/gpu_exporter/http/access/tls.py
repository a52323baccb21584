"""TLS as the web configuration wants it: the context, and the names that a client's certificate must have."""

from __future__ import annotations

import ipaddress
import os
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from gpu_exporter.config import ConfigError, TooLargeError, read_file
from gpu_exporter.http.access.file import Pem, TlsConfig

_LARGEST: Final = 1024 * 1024  # bytes; a chain has a few thousand
_MISMATCH: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"})


class _Socket(ssl.SSLSocket):
    """A connection whose client must have one of the allowed names, where there are any."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        if not admits(self.context, self.getpeercert()):
            raise ssl.SSLCertVerificationError("the client's certificate has none of client_allowed_sans")


class _Context(ssl.SSLContext):
    """A context that knows the names allowed to clients."""

    sslsocket_class = _Socket
    allowed: frozenset[str] = frozenset()


def admits(context: ssl.SSLContext, certificate: Any) -> bool:
    """Whether a client's certificate (as ``getpeercert`` has it) has one of the names that the context allows."""
    allowed = context.allowed if isinstance(context, _Context) else frozenset()
    return not allowed or not allowed.isdisjoint(_names(certificate))


def make_context(config: TlsConfig, *, file: Path) -> ssl.SSLContext:
    """The context for the configuration of this file. Raises ConfigError where a certificate or key cannot be used."""
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.allowed = frozenset(_normal(name) for name in config.allowed_sans)
    context.minimum_version, context.maximum_version = config.minimum, config.maximum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if config.server_order:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    if config.ciphers:
        context.set_ciphers(":".join(config.ciphers))
    if len(config.curves) == 1:
        try:
            context.set_ecdh_curve(config.curves[0])
        except (ssl.SSLError, ValueError):
            # Before Python 3.12 with OpenSSL 3 the call knows NIST's curves only.
            key = "tls_server_config.curve_preferences"
            why = f"'{config.curves[0]}' is not known to this Python's OpenSSL; write CurveP256, or leave the key out"
            raise ConfigError(f"{file}: {key}: {why}") from None
    elif config.curves:
        context.set_groups(":".join(config.curves))  # type: ignore[attr-defined] # Python 3.15
    _load_identity(context, config, file)
    if config.client_ca is not None:
        _load_client_ca(context, config.client_ca, file)
        context.verify_mode = config.verify
    return context


def _load_identity(context: ssl.SSLContext, config: TlsConfig, file: Path) -> None:
    cert, key = _read(config.cert, file), _read(config.key, file)
    if b"-----BEGIN CERTIFICATE-----" not in cert:
        raise _unusable(config.cert, file, "holds no certificate; write one in PEM")
    if b"PRIVATE KEY-----" not in key:
        raise _unusable(config.key, file, "holds no private key; write one in PEM")
    with ExitStack() as stack:
        # Through memory: a file that is replaced between two looks at it would be half old, half new.
        cert_path, key_path = (stack.enter_context(_InMemory(pem)).path for pem in (cert, key))
        try:
            context.load_cert_chain(cert_path, key_path, password=_no_password)
        except ssl.SSLError as error:
            if error.reason in _MISMATCH:
                raise _unusable(config.key, file, "is not the key of the certificate") from None
            why = (error.reason or "unknown reason").lower().replace("_", " ")
            raise _unusable(config.cert, file, f"certificate and key cannot be used: {why}") from None
        except _EncryptedError:
            raise _unusable(config.key, file, "is encrypted; write a key without a passphrase") from None


def _load_client_ca(context: ssl.SSLContext, pem: Pem, file: Path) -> None:
    try:
        context.load_verify_locations(cadata=_read(pem, file).decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise _unusable(pem, file, "holds no certificate; write those of the CAs in PEM") from None
    # As in Go, an intermediate CA in the file is trusted by itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def _read(pem: Pem, file: Path) -> bytes:
    if pem.path is None:
        return pem.text.encode()
    try:
        return read_file(pem.path, largest=_LARGEST)
    except TooLargeError as error:
        raise _unusable(pem, file, error.why) from None
    except OSError as error:
        raise _unusable(pem, file, f"cannot be read: {error.strerror}") from None


def _unusable(pem: Pem, file: Path, why: str) -> ConfigError:
    return ConfigError(f"{file}: {pem.key}: {why}" if pem.path is None else f"{file}: {pem.key}: '{pem.path}' {why}")


class _InMemory:
    """Bytes as a file without a name: OpenSSL takes certificates from files only."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("pem")
        self.path = f"/proc/self/fd/{self._descriptor}"
        os.write(self._descriptor, content)

    def __enter__(self) -> _InMemory:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


class _EncryptedError(Exception):
    """A passphrase was asked for."""


def _no_password() -> str:
    raise _EncryptedError  # OpenSSL would otherwise ask the terminal


def _names(certificate: Any) -> set[str]:
    """The certificate's subject alternative names."""
    return {_normal(name) for _, name in (certificate or {}).get("subjectAltName", ())}


def _normal(name: str) -> str:
    """Addresses have many spellings."""
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name
