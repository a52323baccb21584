"""One question to one machine: its snapshot, or one sentence about why there is none."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import re
import ssl
import zlib
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar
from urllib.parse import urlencode

import aiohttp

from gpu_exporter import __version__
from gpu_exporter.config import ConfigError, read_file
from gpu_exporter.hub.document import Document, DocumentError, decode, shown
from gpu_exporter.hub.names import Names, is_address
from gpu_exporter.hub.nodes import Node
from gpu_exporter.hub.settings import HttpConfig, secret

T = TypeVar("T")
PATH: Final = "/api/v1/snapshot"
_LARGEST: Final = 16 * 1024**2  # bytes, unpacked: 64 GPUs with 64 processes each need 2 MiB
_FREELY: Final = 4 * 1024**2  # bytes, unpacked, that every machine may answer at the same time
_MOST_LARGE: Final = 4  # machines whose larger answers are read at once
_PIECE: Final = 256 * 1024  # bytes that are unpacked in one go
_LARGEST_PEM: Final = 1024 * 1024  # bytes; all CAs of a distribution are a quarter of that
_LARGEST_OF_HUB: Final = 256 * 1024**2  # bytes: 8 000 GPUs with a process each are 6 MiB
_LOOKED_AT: Final = 64 * 1024  # bytes of /metrics that tell an old exporter
_NO_TLS: Final = "does it speak HTTP? Then write scheme: http, or the label __scheme__: http"
_WANTS_OURS: Final = "wants a certificate of ours: hub.yml has it in http_config.tls_config"
_NO_PEM: Final = "holds no certificate; write those of the CAs in PEM"
_GZIP: Final = 16 + zlib.MAX_WBITS

Reason: TypeAlias = Literal[
    "refused", "unreachable", "timeout", "dns", "certificate", "tls", "login", "forbidden", "redirect", "not_exporter",
    "version", "garbage", "too_large", "broken", "error",
]  # fmt: skip


class FetchError(Exception):
    """There is no snapshot; the message goes on after the machine's name."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot that has changed since the one of the ETag, with the bytes it came in."""

    document: Document
    packed: bytes
    etag: str
    address: str

    def body(self) -> bytes:
        """The whole document again, which nobody keeps unpacked."""
        return zlib.decompress(self.packed, _GZIP)


@dataclass(frozen=True, slots=True)
class Access:
    """How machines are asked, with secrets and certificates read."""

    headers: Mapping[str, str]
    context: ssl.SSLContext
    server_name: str | None
    certificate: bool
    scheme: str
    timeout: float


def access(
    config: HttpConfig, *, scheme: str, timeout: float, beside: Path | None, place: str = "http_config"
) -> Access:
    """Read what the configuration names. Raises ConfigError."""
    headers = {"User-Agent": f"gpu-exporter-hub/{__version__}"}
    basic, token = config.basic_auth, config.authorization
    username = secret(beside, f"{place}.basic_auth.username_file", basic.username, basic.username_file)
    if username is not None:
        password = secret(beside, f"{place}.basic_auth.password_file", basic.password, basic.password_file)
        login = base64.b64encode(f"{username}:{password or ''}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    credentials = secret(beside, f"{place}.authorization.credentials_file", token.credentials, token.credentials_file)
    if credentials is not None:
        headers["Authorization"] = f"{token.type} {credentials}"
    return Access(
        headers,
        _context(config, beside, place),
        config.tls_config.server_name,
        config.tls_config.cert_file is not None,
        scheme,
        timeout,
    )


class Fetcher:
    """Asks machines, each on a connection that is kept. ``access`` may be replaced at any time."""

    def __init__(self, how: Access, names: Names) -> None:
        self.access = how
        self._names = names
        self._large = asyncio.Semaphore(_MOST_LARGE)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=names, use_dns_cache=False, keepalive_timeout=25.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def fetch(self, node: Node, etag: str = "") -> Fetched | None:
        """The machine's snapshot; None where it is still that of the ETag. Raises FetchError."""
        how = self.access
        return await self._bounded(self._ask(node, how, etag), node, how)

    async def body(self, hub: Node, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """What a hub answers there. Raises FetchError."""
        how = self.access
        return await self._bounded(self._ask_hub(hub, how, path, query), hub, how)

    async def _bounded(self, question: Coroutine[Any, Any, T], node: Node, how: Access) -> T:
        try:
            # Of a name look-up, a handshake and an answer together: no other deadline bounds what trickles.
            return await asyncio.wait_for(question, how.timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise FetchError("timeout", f"did not answer within {how.timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise _told(error, node, how) from None
        except (OSError, ssl.SSLError) as error:
            raise _told_os(error) from None
        except ValueError:  # an address that aiohttp cannot write as a URL
            raise FetchError("dns", "has an address that cannot be asked") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _ask(self, node: Node, how: Access, etag: str) -> Fetched | None:
        scheme = node.scheme or how.scheme
        headers = {**how.headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
        if etag:
            headers["If-None-Match"] = etag
        base = f"{scheme}://{node.address}"
        async with self._get(base + PATH, headers, how) as response:
            if response.status == 304 and etag:
                return None
            if response.status != 200:
                await self._refused(response, base, how)
            kind = response.content_type
            if kind != "application/json":
                raise FetchError(
                    "not_exporter", f"answered {shown(kind or 'something')} where a gpu-exporter answers JSON"
                )
            address = _peer(response) or (await self._names.addresses(node.host))[0]
            body, packed = await _read(response, large=self._large)
            tag = response.headers.get("ETag", "")
        try:
            return Fetched(decode(body), packed, tag if len(tag) <= 256 and tag.isprintable() else "", address)
        except DocumentError as error:
            reason: Reason = "version" if "version" in str(error) else "garbage"
            failed = FetchError(reason, str(error))
        # Not from within: an error's frames are let go of late, and they would keep what is of no use to anybody.
        del body, packed
        raise failed

    async def _ask_hub(self, hub: Node, how: Access, path: str, query: Mapping[str, str] | None) -> bytes:
        url = f"{hub.scheme or how.scheme}://{hub.address}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {**how.headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
        async with self._get(url, headers, how) as response:
            if response.status == 404:
                raise FetchError("not_exporter", f"has no {path}: it is no hub of gpu-exporter, or keeps no history")
            if response.status != 200:
                await self._refused(response, url.removesuffix(path), how)
            if response.content_type != "application/json":
                raise FetchError("not_exporter", "is no hub of gpu-exporter: it does not answer JSON")
            return (await _read(response, _LARGEST_OF_HUB))[0]

    def _get(self, url: str, headers: Mapping[str, str], how: Access) -> Any:
        return self._session.get(
            url, headers=headers, ssl=how.context, server_hostname=how.server_name, allow_redirects=False
        )

    async def _refused(self, response: aiohttp.ClientResponse, base: str, how: Access) -> NoReturn:
        status = response.status
        said = f"{status} {shown(response.reason or '')}".strip()
        if status == 401:
            wants = "does not accept the login" if "Authorization" in how.headers else "wants a login"
            raise FetchError("login", f"{wants} (401): hub.yml has it in http_config")
        if status == 403:
            raise FetchError("forbidden", "does not let this hub in (403): its web.allow lists who may ask")
        if status == 429:
            raise FetchError("error", "is asked too often (429): its rate_limit, or raise interval")
        if 300 <= status < 400:
            where = shown(response.headers.get("Location", "")) or "elsewhere"
            raise FetchError("redirect", f"sends us on to {where} ({status}); write its own address")
        if status == 404:
            # As long as the answer is, it is not read: the connection is given up instead.
            response.close()
            if await self._is_exporter(base, how):
                raise FetchError("version", f"runs a gpu-exporter that is too old: it has no {PATH}; upgrade it")
            raise FetchError("not_exporter", f"is no gpu-exporter: it has no {PATH} ({said})")
        if status == 400 and b"HTTPS" in await response.content.read(200):
            raise FetchError("tls", "speaks HTTPS: write scheme: https, or the label __scheme__: https")
        raise FetchError("error", f"answered {said}")

    async def _is_exporter(self, base: str, how: Access) -> bool:
        async with self._get(f"{base}/metrics", {**how.headers, "Accept": "text/plain"}, how) as response:
            begin = b""
            while len(begin) < _LOOKED_AT and (chunk := await response.content.readany()):
                begin += chunk
            response.close()
            return b"gpu_exporter_build_info" in begin


async def _read(
    response: aiohttp.ClientResponse, largest: int = _LARGEST, large: asyncio.Semaphore | None = None
) -> tuple[bytes, bytes]:
    """The body, unpacked and packed; nothing that is too large is read to its end.

    Of those that are ``large`` only so many are read at once: what each may take must not add up.
    """
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"gzip", "identity"}:
        raise FetchError("garbage", f"answered in an encoding that was not asked for ({shown(encoding)})")
    unpacker = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
    pieces: list[bytes] = []
    came: list[bytes] = []
    size = 0
    if (response.content_length or 0) > largest:
        _too_large(response, largest)
    async with AsyncExitStack() as held:
        try:
            while chunk := await response.content.readany():
                came.append(chunk)
                for text in _unpacked(unpacker, chunk):
                    size += len(text)
                    if size > largest:
                        _too_large(response, largest)
                    if size > _FREELY and large is not None:
                        await held.enter_async_context(large)
                        large = None
                    pieces.append(text)
        except BaseException:
            pieces.clear()  # an error's frames are let go of late
            came.clear()
            raise
    if unpacker is not None and not unpacker.eof:
        raise FetchError("broken", "broke off in the middle of an answer")
    body = b"".join(pieces)
    return body, b"".join(came) if unpacker is not None else gzip.compress(body, 1)


def _unpacked(unpacker: Any, chunk: bytes) -> Iterator[bytes]:
    """What the chunk comes to, in pieces of bounded size. Raises FetchError."""
    if unpacker is None:
        yield chunk
        return
    while True:
        try:
            text = unpacker.decompress(chunk, _PIECE)
        except zlib.error:
            raise FetchError("garbage", "answered gzip that cannot be unpacked") from None
        if text:
            yield text
        chunk = unpacker.unconsumed_tail
        if not chunk and len(text) < _PIECE:
            return


def _too_large(response: aiohttp.ClientResponse, largest: int) -> NoReturn:
    response.close()
    raise FetchError("too_large", f"answered more than {largest // 1024**2} MiB")


def _peer(response: aiohttp.ClientResponse) -> str:
    """The other end of the connection; empty where the whole answer is here already, and the connection put back."""
    connection = response.connection
    name = (
        None if connection is None or connection.transport is None else connection.transport.get_extra_info("peername")
    )
    return str(name[0]) if name else ""


# --- what went wrong, in words ----------------------------------------------------------------------------------------


def _told(error: aiohttp.ClientError, node: Node, how: Access) -> FetchError:
    secure = (node.scheme or how.scheme) == "https"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return FetchError("certificate", _certificate(error.certificate_error))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        why = "" if is_address(node.host) else shown(str(error.os_error).partition("] ")[2] or str(error.os_error))
        return FetchError("dns", f"cannot be looked up: {why}" if why else "cannot be looked up")
    if isinstance(error, aiohttp.ClientSSLError):
        return _told_os(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return FetchError("broken", "ended the connection without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("broken", "broke off in the middle of an answer")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionError) and not isinstance(error.os_error, ConnectionRefusedError):
            return FetchError("tls", f"ended the TLS handshake; {_NO_TLS}")
        return _told_os(error.os_error)
    if isinstance(error, aiohttp.ClientOSError):
        return _told_os(error, anonymous=secure and not how.certificate)
    if isinstance(error, aiohttp.ClientResponseError):
        hint = "" if secure else "; does it speak HTTPS?"
        return FetchError("not_exporter", f"does not speak HTTP{hint}")
    return FetchError("error", f"cannot be asked: {shown(type(error).__name__)}")


def _told_os(error: OSError, *, anonymous: bool = False) -> FetchError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError("certificate", _certificate(error))
    if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
        reason = str(getattr(error, "reason", None) or getattr(error.__cause__, "reason", None) or "")
        if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}:
            return FetchError("tls", f"does not speak HTTPS; {_NO_TLS}")
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
            return FetchError("certificate", _WANTS_OURS)
        words = reason.lower().replace("_", " ") or "unknown reason"
        return FetchError("tls", f"no TLS connection could be made: {shown(words)}")
    number = error.errno
    if number == errno.ECONNREFUSED:
        return FetchError("refused", "refused the connection: nothing listens there")
    if number in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}:
        return FetchError("unreachable", "cannot be reached: no route to it, or it is switched off")
    if number in {errno.ECONNRESET, errno.EPIPE}:
        if anonymous:  # the alert that says so may be lost with the connection
            return FetchError("certificate", f"reset the connection; perhaps it {_WANTS_OURS}")
        return FetchError("broken", "reset the connection")
    if number == errno.ETIMEDOUT:
        return FetchError("timeout", "did not answer the connection")
    words = error.strerror or re.sub(r"^\[[^]]*\] *", "", str(error)) or type(error).__name__
    return FetchError("unreachable", f"cannot be reached: {shown(words.lower())}")


def _certificate(error: BaseException) -> str:
    words = getattr(error, "verify_message", "") or "it cannot be verified"
    return f"has a certificate that is not trusted: {shown(words.lower())}"


def _pem(path: Path) -> bytes:
    """Raises OSError."""
    return read_file(path, largest=_LARGEST_PEM)


def _context(config: HttpConfig, beside: Path | None, place: str) -> ssl.SSLContext:
    tls = config.tls_config
    folder = beside.parent if beside is not None else Path()
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.ca_file is not None or tls.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            text = tls.ca if tls.ca_file is None else _pem(folder / tls.ca_file).decode("ascii", "ignore")
            context.load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:  # ValueError: there is no certificate in it at all
        what = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else _NO_PEM
        raise ConfigError(f"{beside}: {place}.tls_config.ca_file: '{tls.ca_file}' {what}") from None
    if tls.cert_file is not None and tls.key_file is not None:
        try:
            for name in (tls.cert_file, tls.key_file):  # OpenSSL would wait for a pipe
                _pem(folder / name)
            context.load_cert_chain(folder / tls.cert_file, folder / tls.key_file, password="")
        except OSError as error:
            what = error.strerror if not isinstance(error, ssl.SSLError) else "cannot be used with its key"
            raise ConfigError(f"{beside}: {place}.tls_config.cert_file: '{tls.cert_file}' {what}") from None
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
