"""The HTTP API of Prometheus and of those that speak it (Thanos, Mimir, VictoriaMetrics): range queries."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Final, NoReturn, TypeVar

from gpu_exporter import __version__
from gpu_exporter.config.parsers import http_url, shown

_LARGEST: Final = 128 * 1024**2  # bytes of one answer, unpacked; a slice of a day of 5 000 GPUs has half of it
# What JSON becomes in memory depends on its lists and objects, some 100 bytes each. A point of Prometheus's is one list
# and has 17 bytes at least; a bomb is hardly more than brackets.
_BYTES_A_LIST: Final = 8
_PIECE: Final = 1024**2
_GZIP: Final = 16 + zlib.MAX_WBITS
T = TypeVar("T")


class ReportError(Exception):
    """There is no report; the message is one line for the person who asked."""


class _NoPostError(Exception):
    """The server takes no POST."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the server is and who asks. ``timeout`` (seconds) bounds each request from name lookup to last byte."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    token: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels without the name, and its (unix seconds, value) points."""

    labels: Mapping[str, str]
    points: list[tuple[float, float]]


class Client:
    """Asks one server. Every failure is a ReportError; what the server warns of gathers in ``warnings``."""

    def __init__(self, access: Access) -> None:
        self.warnings: list[str] = []
        self._access = access
        self._base, self._query = _split(access.url)
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"gpu-exporter/{__version__}",
            **dict(access.headers),
            **_login(access),
        }
        # Proxies are those of the environment (https_proxy, no_proxy); none leads back to this machine.
        proxies = urllib.request.ProxyHandler({} if _is_local(self._base) else None)
        handlers: list[urllib.request.BaseHandler] = [proxies, _NoRedirect()]
        if access.ca_file is not None or self._base.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_context(access.ca_file)))
        self._opener = urllib.request.build_opener(*handlers)
        if "Authorization" in self._headers and self._base.startswith("http:") and not _is_local(self._base):
            self.warnings.append("the login travels in the clear: write an https URL")
        self._post = True

    @property
    def url(self) -> str:
        """The server as it is named in messages."""
        return self._base

    def range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        """The expression's series from start to end (unix seconds) every ``step`` seconds."""
        form = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        if self._post:
            try:
                return self._series(self._deadline(lambda: self._exchange(form, post=True)))
            except _NoPostError:
                self._post = False
        return self._series(self._deadline(lambda: self._exchange(form, post=False)))

    def _deadline(self, call: Callable[[], T]) -> T:
        # A thread, because no socket timeout bounds a name lookup or an answer that trickles.
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            return answer.result(self._access.timeout)
        except FutureTimeoutError:
            self._fail(
                f"did not answer within {self._access.timeout:g} s; "
                "ask for less (--window, --match) or wait longer (--prometheus.timeout)"
            )

    def _exchange(self, form: Mapping[str, str], *, post: bool) -> tuple[str, bytes]:
        """Content type and text of the answer."""
        url, text = f"{self._base}/api/v1/query_range", urllib.parse.urlencode(form)
        query = "&".join(part for part in (self._query, "" if post else text) if part)
        request = urllib.request.Request(  # noqa: S310 - _split lets http and https pass
            f"{url}?{query}" if query else url, data=text.encode() if post else None, headers=self._headers
        )
        try:
            with self._opener.open(request, timeout=self._access.timeout) as response:
                return response.headers.get("Content-Type", ""), self._body(response, response.headers)
        except urllib.error.HTTPError as error:
            with error:
                if post and error.code in {405, 501}:
                    raise _NoPostError from None
                self._refused(error)
        except urllib.error.URLError as error:
            self._fail(_reason(error.reason))
        except (OSError, http.client.HTTPException, zlib.error) as error:
            self._fail(_reason(error))

    def _body(self, response: IO[bytes], headers: Message) -> bytes:
        packed = headers.get("Content-Encoding", "").lower() == "gzip"
        unpacker = zlib.decompressobj(_GZIP)
        pieces, size, arrived = [], 0, 0
        while piece := response.read(_PIECE):
            arrived += len(piece)
            text = unpacker.decompress(piece, _LARGEST - size + 1) if packed else piece
            size += len(text)
            if size > _LARGEST:
                self._fail(f"answered more than {_LARGEST // 1024**2} MiB; narrow it with --match")
            pieces.append(text)
        # http.client says nothing of a short answer that is read in pieces.
        announced = headers.get("Content-Length", "")
        if (packed and not unpacker.eof) or (announced.isdecimal() and arrived < int(announced)):
            self._fail("broke off in the middle of an answer")
        return b"".join(pieces)

    def _refused(self, error: urllib.error.HTTPError) -> NoReturn:
        status = f"{error.code} {error.reason}".strip()
        try:
            body = self._body(error, error.headers)
        except (OSError, http.client.HTTPException, zlib.error):
            body = b""
        said = _message(body)
        if error.code == 401 and (self._access.token or self._access.username):
            self._fail(f"{status}: does not accept the login{said}")
        if error.code == 401:
            self._fail(
                f"{status}: wants a login (--prometheus.bearer-token-file, or --prometheus.username and "
                f"--prometheus.password-file) or a tenant (--prometheus.header){said}"
            )
        if error.code == 403:
            self._fail(f"{status}: may not be asked with this login{said}")
        if 300 <= error.code < 400:
            self._fail(f"{status}: sends us on to {shown(error.headers.get('Location', ''))}; write the final URL")
        if error.code == 404:
            self._fail(
                f"{status}: has no Prometheus API here; write the URL up to what stands before /api/v1 "
                "(Mimir: http://HOST/prometheus)"
            )
        self._fail(f"{status}{said}")

    def _series(self, answer: tuple[str, bytes]) -> list[Series]:
        kind, text = answer
        if (text.count(b"[") + text.count(b"{")) * _BYTES_A_LIST > len(text) + _PIECE:
            self._fail("answered JSON that is not the Prometheus API's")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            what = f"answered {shown(kind.partition(';')[0] or 'something')} that is not JSON"
            self._fail(f"{what}: it is no Prometheus API, or a login page stands before it")
        try:
            if document["status"] != "success":
                self._fail(f"refused the query: {shown(str(document.get('error') or document['status']))}")
            data = document["data"]
            found = [
                Series(
                    {name: value for name, value in item["metric"].items() if name != "__name__"},
                    # A value that is not a number is no reading.
                    [(at, value) for at, value in ((float(at), float(text)) for at, text in item["values"])
                     if value - value == 0],
                )
                for item in data["result"]
            ]  # fmt: skip
            if data["resultType"] != "matrix":
                self._fail(f"answered a {shown(str(data['resultType']))} where a matrix was asked for")
            warnings = [str(warning) for warning in document.get("warnings") or ()]
        except (AttributeError, KeyError, TypeError, ValueError):
            self._fail("answered JSON that is not the Prometheus API's")
        if document.get("isPartial"):  # VictoriaMetrics with a storage node away
            warnings.append("some of its storage did not answer (isPartial)")
        self.warnings += [told for told in map(shown, warnings) if told not in self.warnings]
        return found

    def _fail(self, what: str) -> NoReturn:
        raise ReportError(f"{self._base}: {what}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a redirected POST loses its query, and a login must not travel to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _split(url: str) -> tuple[str, str]:
    """The URL up to what stands before /api/v1, and its query string."""
    example = "write http://HOST:9090, with the path prefix where there is one"
    parts = http_url(url)
    if parts is None:
        raise ReportError(f"--prometheus.url: '{shown(url.rpartition('@')[2])}' is not an http(s) URL; {example}")
    if "@" in parts.netloc:
        raise ReportError(
            "--prometheus.url: a login in the URL is read by everybody who sees the process; "
            "use --prometheus.username and --prometheus.password-file"
        )
    path = parts.path.rstrip("/").removesuffix("/query_range").removesuffix("/query").removesuffix("/api/v1")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}", parts.query


def _is_local(url: str) -> bool:
    """Whether it leads to this machine, however that is spelt: 127.1, localhost., [::ffff:127.0.0.1]."""
    host = (urllib.parse.urlsplit(url).hostname or "").lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _login(access: Access) -> dict[str, str]:
    if access.token is not None and access.username is not None:
        raise ReportError("--prometheus.username and a bearer token exclude each other; give one of them")
    if access.token is not None:
        return {"Authorization": f"Bearer {access.token}"}
    if access.username is not None:
        if access.password is None:
            raise ReportError(
                "--prometheus.username: wants a password; give --prometheus.password-file "
                "or the environment variable GPU_EXPORTER_PROMETHEUS_PASSWORD"
            )
        pair = f"{access.username}:{access.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    if access.password is not None:
        raise ReportError("a password wants --prometheus.username beside it")
    return {}


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ReportError(f"--prometheus.ca-file: {ca_file} holds no PEM certificate") from None
    except OSError as error:
        raise ReportError(f"--prometheus.ca-file: {ca_file} cannot be read: {error.strerror}") from None


def _reason(error: object) -> str:
    """Why there is no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"cannot be trusted: {error.verify_message}; --prometheus.ca-file names the CA that signed it"
    if isinstance(error, ssl.SSLError):
        return f"does not speak TLS as we do: {error.reason or error}; is it plain http?"
    if isinstance(error, socket.gaierror):
        return f"cannot be reached: no such host ({error.strerror})"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"cannot be reached: {error.strerror or error}"
    if isinstance(error, TimeoutError):
        return "cannot be reached: it does not answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "broke off in the middle of an answer"
    return f"does not answer as a web server does: {shown(str(error) or type(error).__name__)}"


def _message(body: bytes) -> str:
    """What a refusal says, as ``: text``; empty where it says nothing to a person."""
    text = body[:4096].decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
        text = str(document.get("error") or document.get("message") or "") if isinstance(document, dict) else ""
    except (ValueError, RecursionError):
        pass
    return "" if not text or text.startswith("<") else f": {shown(text.splitlines()[0])}"
