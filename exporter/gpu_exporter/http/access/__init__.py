"""Who may talk to the exporter: TLS, client certificates, passwords and a rate limit, from a web configuration file."""

from __future__ import annotations

import logging
import socket
import ssl
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_exporter.config import ConfigError, Watch
from gpu_exporter.http.access import file, tls
from gpu_exporter.http.access.file import AccessConfig
from gpu_exporter.http.access.rate import Allowance
from gpu_exporter.http.wsgi import GONE, App, Environ, Headers, StartResponse, pieces, status_answer

if TYPE_CHECKING:
    from gpu_exporter.http.access.basic import Passwords

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    config: AccessConfig
    context: ssl.SSLContext | None
    allowance: Allowance | None


class Gate:
    """The web configuration in force. It is looked at for every connection and request, and read when it changed.

    The constructor raises ConfigError. Later mistakes leave the last good one in force and are logged once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._complaint = ""
        self._watch = Watch(path)
        self._checks: Passwords | None = None
        self._told: set[tuple[Path, int]] = set()
        self._state = self._read(None)

    @property
    def secure(self) -> bool:
        """Whether connections are TLS."""
        return self._state.context is not None

    @property
    def passwords(self) -> bool:
        """Whether a user's name and password are asked for."""
        return bool(self._state.config.users)

    def context(self) -> ssl.SSLContext | None:
        """The context in force, for whoever makes handshakes without ``wrap``; None where connections are plain."""
        return self._current().context

    def judge(self, authorization: str, *, peer: str) -> tuple[str | None, Mapping[str, str]]:
        """The status that a request is refused with, or None; and the headers that every answer has.

        A password's check may take seconds: not for an event loop's own thread.
        """
        state = self._current()
        return self._refusal(state, {"HTTP_AUTHORIZATION": authorization, "REMOTE_ADDR": peer}), state.config.headers

    def wrap(self, plain: socket.socket) -> socket.socket:
        """The socket to use for a connection; the handshake is still to come."""
        context = self._current().context
        if context is None:
            return plain
        return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)

    def reload(self) -> None:
        """Read everything again. Raises ConfigError where it cannot be used; the last good one then stays in force."""
        with self._lock:
            self._state = self._read(self._state)

    def protect(self, application: App) -> App:
        """The application behind the rate limit, the headers and the passwords."""

        def protected(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            state = self._current()
            headers = state.config.headers
            replaced = {name.lower() for name in headers}

            def start(status: str, fields: Headers, *rest: Any) -> Any:
                kept = [(name, value) for name, value in fields if name.lower() not in replaced]
                return start_response(status, [*kept, *headers.items()], *rest)

            refusal = self._refusal(state, environ)
            if refusal is None:
                return application(environ, start)
            asking = [("WWW-Authenticate", "Basic")] if refusal.startswith("401") else []
            status, fields, body = status_answer(refusal, *asking, path=environ["PATH_INFO"])
            start(status, fields)
            return list(pieces(body))

        return protected

    def _refusal(self, state: _State, environ: Environ) -> str | None:
        if state.allowance is not None and not state.allowance.take():
            return "429 Too Many Requests"
        if not state.config.users or self._checks is None:
            return None
        header = environ.get("HTTP_AUTHORIZATION", "")
        peer, gone = environ["REMOTE_ADDR"], environ.get(GONE, lambda: False)
        correct = self._checks.check(header, state.config.users, peer=peer, gone=gone)
        if correct is None:
            return "429 Too Many Requests"
        return None if correct else "401 Unauthorized"

    # --- changes ------------------------------------------------------------------------------------------------------

    def _current(self) -> _State:
        """The state in force, after checking whether the files changed; callers meanwhile get the old one."""
        if self._lock.acquire(blocking=False):
            try:
                if self._watch.changed():
                    self._replace()
            finally:
                self._lock.release()
        return self._state

    def _replace(self) -> None:
        try:
            self._state = self._read(self._state)
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("the web configuration stays as it was: %s", error)  # noqa: TRY400 - the line says it all
        except Exception as error:
            if repr(error) != self._complaint:
                self._complaint = repr(error)
                log.exception("the web configuration stays as it was: this is a bug in gpu-exporter")
        else:
            self._complaint = ""
            log.info("web configuration reloaded")

    def _tell_modes(self, config: AccessConfig) -> None:
        """Warn of secrets that everybody on this machine may read, and of files that others may change; once each."""
        secrets = [self._path] if config.users else []
        if config.tls is not None:
            key = config.tls.key
            secrets += [self._path] if key.path is None else [key.path]
        for path in dict.fromkeys((self._path, *_files(config))):
            try:
                mode = path.stat().st_mode
            except OSError:
                continue
            secret = path in secrets
            wrong = mode & (stat.S_IWGRP | stat.S_IWOTH | (stat.S_IROTH if secret else 0))
            if wrong and (path, wrong) not in self._told:
                self._told.add((path, wrong))
                what = (
                    "everybody may read this file, which has passwords or a key"
                    if wrong & stat.S_IROTH
                    else "others may change this file"
                )
                log.warning(what, extra={"file": str(path), "mode": f"{mode & 0o777:04o}"})

    def _read(self, old: _State | None) -> _State:
        self._watch.mark()
        config = file.load(self._path)
        self._watch.follow(self._path, *_files(config))
        if old is not None:
            # A file that is being written may be empty for a moment: what protects is never dropped on the way.
            for key, before, now in (
                ("tls_server_config", old.config.tls, config.tls),
                ("basic_auth_users", old.config.users, config.users),
            ):
                if bool(before) and not now:
                    raise ConfigError(f"{self._path}: {key}: is gone; to do without it needs a restart")
            if config.tls is not None and old.config.tls is None:
                raise ConfigError(f"{self._path}: tls_server_config: is new; to serve TLS needs a restart")
        context = None if config.tls is None else tls.make_context(config.tls, file=self._path)
        self._tell_modes(config)
        if config.users and self._checks is None:
            from gpu_exporter.http.access.basic import Passwords  # noqa: PLC0415 - bcrypt is an extra

            self._checks = Passwords()
        return _State(config, context, _allowance(config, old))


def check(path: Path) -> None:
    """Raise ConfigError unless the file and the certificates that it names can be used."""
    config = file.load(path)
    if config.tls is not None:
        tls.make_context(config.tls, file=path)


def _allowance(config: AccessConfig, old: _State | None) -> Allowance | None:
    if not config.interval:
        return None
    if old is not None and (old.config.interval, old.config.burst) == (config.interval, config.burst):
        return old.allowance
    return Allowance(config.interval, config.burst)


def _files(config: AccessConfig) -> tuple[Path, ...]:
    if config.tls is None:
        return ()
    pems = (config.tls.cert, config.tls.key, config.tls.client_ca)
    return tuple(pem.path for pem in pems if pem is not None and pem.path is not None)
