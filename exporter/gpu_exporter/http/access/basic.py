"""Basic authentication (RFC 7617) against bcrypt hashes, made so that guessing disturbs nobody else."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Final

import bcrypt

from gpu_exporter.http.access.turns import Turns

_REMEMBERED: Final = 100  # passwords that were right; their check costs nothing the next time
_PATIENCE: Final = 5.0  # seconds to wait for one's turn
_CHECKS_PER_PEER: Final = 4  # checks that one address may have waiting
_LONGEST: Final = 72  # bytes of a password that bcrypt looks at
_ALPHABET: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Passwords:
    """Checks passwords one at a time, however many are offered: the others have the rest of the machine.

    Who has been let in before is not checked again, and users that exist do not wait behind those that are guessed.
    """

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self._right: dict[bytes, None] = {}
        self._lock = threading.Lock()
        self._turns = Turns(most=_CHECKS_PER_PEER)
        self._decoys: dict[str, bytes] = {}

    def check(
        self,
        authorization: str,
        users: Mapping[str, bytes],
        *,
        peer: str,
        gone: Callable[[], bool] = lambda: False,
    ) -> bool | None:
        """Whether the header names a user with the right password; None where too many wait to be checked.

        ``gone`` tells whether the client has been cut off meanwhile, and need not be answered any more.
        """
        name, password = _credentials(authorization)
        if name is None:
            return False
        known = users.get(name)
        key = self._key(name, password, known or b"")
        with self._lock:
            if key in self._right:
                return known is not None
        turn = self._turns.turn(peer, known=known is not None, patience=_PATIENCE, gone=gone)
        with turn as granted:
            if not granted:
                return None
            same = _matches(password, known or self._decoy(users))
        if not same or known is None:
            return False
        with self._lock:
            while len(self._right) >= _REMEMBERED:
                del self._right[next(iter(self._right))]
            self._right[key] = None
        return True

    def _key(self, name: str, password: bytes, known: bytes) -> bytes:
        """What is remembered instead of the password; another hash of the user's makes another key."""
        parts = (name.encode(), password, known)
        digest = hashlib.blake2b(key=self._secret)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    def _decoy(self, users: Mapping[str, bytes]) -> bytes:
        """What the password of an unknown user is compared with, at the same cost as that of a known one."""
        cost = max((known[4:6].decode() for known in users.values()), default="10")
        if cost not in self._decoys:
            random = "".join(secrets.choice(_ALPHABET) for _ in range(31))
            self._decoys[cost] = bcrypt.gensalt(int(cost)) + random.encode()
        return self._decoys[cost]


def _matches(password: bytes, known: bytes) -> bool:
    """In time that depends on the hash's cost alone."""
    try:
        same = bcrypt.checkpw(password[:_LONGEST], known)
    except ValueError:  # releases that refuse a NUL, or a salt that is none
        return False
    return same and len(password) <= _LONGEST


def _credentials(authorization: str) -> tuple[str | None, bytes]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, b""
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode() if colon else None), password
    except (binascii.Error, ValueError):
        return None, b""
