"""Passwords, headers and the rate of requests: what the web configuration puts before every page."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from certificates import basic, hashed
from gpu_exporter.http.access import Gate
from gpu_exporter.http.access import basic as basic_module
from gpu_exporter.http.access.basic import Passwords
from gpu_exporter.http.access.rate import Allowance
from gpu_exporter.http.server import Server
from serving import dial, echo, everything, serving


@contextmanager
def guarded(path: Path, text: str) -> Iterator[Server]:
    path.write_text(text)
    with serving(Gate(path).protect(echo)) as server:
        yield server


def users(**passwords: str) -> str:
    return "basic_auth_users:\n" + "".join(f"  {name}: {hashed(text)}\n" for name, text in passwords.items())


def head(server: Server, authorization: str | None, path: str = "/metrics") -> str:
    field = "" if authorization is None else f"Authorization: {authorization}\r\n"
    with dial(server, f"GET {path} HTTP/1.1\r\n{field}Connection: close\r\n\r\n".encode()) as client:
        return everything(client).decode()


def status(server: Server, authorization: str | None, path: str = "/metrics") -> int:
    return int(head(server, authorization, path).split()[1])


def test_only_the_right_password_gets_in(tmp_path: Path) -> None:
    with guarded(tmp_path / "web.yml", users(alice="secret", bob="other:secret")) as server:
        right = basic("alice", "secret")["Authorization"]
        assert status(server, right) == 200
        assert status(server, right.replace("Basic", "bASIC")) == 200
        assert status(server, basic("bob", "other:secret")["Authorization"]) == 200, "a password may have a colon"
        for wrong in (
            None, "", "Basic", "Basic ", "Basic =", "Basic nonsense!", f"Bearer {right[6:]}", right[:-1],
            f"{right}, {right}",
            *(basic(*pair)["Authorization"] for pair in (("alice", "other:secret"), ("bob", "secret"), ("", ""),
              ("alice", ""), ("carol", "secret"), ("Alice", "secret"), ("alice", "secret\0"), ("alice", "s" * 200))),
            "Basic " + base64.b64encode(b"alice").decode(), "Basic " + base64.b64encode(b"\xff\xfe:secret").decode(),
        ):  # fmt: skip
            assert status(server, wrong) == 401, wrong


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz", "/api/v1/gpus", "/nowhere"])
def test_every_path_is_protected(tmp_path: Path, path: str) -> None:
    with guarded(tmp_path / "web.yml", users(alice="secret")) as server:
        answer = head(server, None, path)
        assert answer.startswith("HTTP/1.1 401 Unauthorized\r\n")
        assert "\r\nWWW-Authenticate: Basic\r\n" in answer
        told = '{"error": "unauthorized"}' if path.startswith("/api/") else "401 Unauthorized"
        assert answer.endswith(f"\r\n\r\n{told}\n"), "nothing else is told"


def test_hashes_of_every_kind_that_htpasswd_and_others_make(tmp_path: Path) -> None:
    made = hashed("secret")
    text = "basic_auth_users:\n" + "".join(f"  {kind}: {made.replace('2b', kind)}\n" for kind in ("2a", "2b", "2y"))
    with guarded(tmp_path / "web.yml", text) as server:
        assert [status(server, basic(kind, "secret")["Authorization"]) for kind in ("2a", "2b", "2y")] == [200] * 3
        assert status(server, basic("2y", "secre")["Authorization"]) == 401


def test_a_password_of_72_bytes_and_not_one_more(tmp_path: Path) -> None:
    longest = "x" * 72
    with guarded(tmp_path / "web.yml", users(alice=longest)) as server:
        assert status(server, basic("alice", longest)["Authorization"]) == 200
        assert status(server, basic("alice", longest + "x")["Authorization"]) == 401, "bcrypt would not see the rest"


class Counted:
    """bcrypt's check, counted; it waits at the gate when that is closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashes: list[bytes] = []
        self.inside = self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        genuine = bcrypt.checkpw

        def check(password: bytes, known: bytes) -> bool:
            self.hashes.append(known)
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.gate.wait(patience())
            try:
                return genuine(password, known)
            finally:
                self.inside -= 1

        monkeypatch.setattr(bcrypt, "checkpw", check)
        monkeypatch.setattr(basic_module, "_PATIENCE", patience())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_a_right_password_is_checked_once_until_its_hash_changes(tmp_path: Path, counted: Counted) -> None:
    path = tmp_path / "web.yml"
    with guarded(path, users(alice="secret")) as server:
        right, wrong = (basic("alice", text)["Authorization"] for text in ("secret", "wrong"))
        assert [status(server, right) for _ in range(5)] == [200] * 5
        assert len(counted.hashes) == 1
        assert [status(server, wrong) for _ in range(2)] == [401] * 2
        assert len(counted.hashes) == 3, "a wrong one costs its guesser every time"
        path.write_text(users(alice="new"))
        assert status(server, right) == 401
        assert status(server, basic("alice", "new")["Authorization"]) == 200
        path.write_text(users(bob="secret"))
        assert status(server, right) == 401, "she is gone"


def test_an_unknown_user_costs_what_a_wrong_password_costs(counted: Counted) -> None:
    known = {"alice": hashed("secret", cost=5).encode(), "bob": hashed("secret", cost=4).encode()}
    passwords = Passwords()
    for user in ("alice", "carol", "carol", "dave"):
        assert passwords.check(basic(user, "guess")["Authorization"], known, peer="10.0.0.1") is False
    assert counted.hashes[0] == known["alice"]
    assert {decoy[:7] for decoy in counted.hashes} == {b"$2b$05$"}, "as dear as the dearest"
    assert counted.hashes[1] == counted.hashes[3] != counted.hashes[0]


def test_guessing_takes_one_core_and_keeps_nobody_out_who_was_in(tmp_path: Path, counted: Counted) -> None:
    with guarded(tmp_path / "web.yml", users(alice="secret")) as server:
        right = basic("alice", "secret")["Authorization"]
        assert status(server, right) == 200
        counted.gate.clear()
        answers: list[int] = []
        guesses = [
            threading.Thread(target=lambda n=n: answers.append(status(server, basic("alice", f"{n}")["Authorization"])))
            for n in range(20)
        ]
        for guess in guesses:
            guess.start()
        wait_for(lambda: len(answers) == 16)
        assert answers == [429] * 16, "an address may have four passwords waiting"
        assert status(server, right) == 200, "who was checked before does not wait"
        counted.gate.set()
        for guess in guesses:
            guess.join()
        assert sorted(answers) == [401] * 4 + [429] * 16
        assert counted.most == 1, "one check at a time"
        assert status(server, basic("alice", "again")["Authorization"]) == 401, "the address may try again"


KNOWN = {name: hashed("secret").encode() for name in ("alice", "bob")}


def waits(passwords: Passwords, user: str, *, peer: str, gone: Callable[[], bool] = lambda: False) -> Guess:
    guess = Guess(lambda: passwords.check(basic(user, "guess")["Authorization"], KNOWN, peer=peer, gone=gone))
    guess.start()
    return guess


class Guess(threading.Thread):
    """A password that is being checked; what came of it, once it has ended."""

    def __init__(self, check: Callable[[], bool | None]) -> None:
        super().__init__(daemon=True)
        self._check = check
        self.answer: bool | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        self.answer = self._check()
        self.ended.set()


def test_who_was_cut_off_does_not_wait_for_a_check(counted: Counted) -> None:
    passwords, cut = Passwords(), threading.Event()
    counted.gate.clear()
    first = waits(passwords, "alice", peer="10.0.0.1")
    wait_for(lambda: counted.inside)
    second = waits(passwords, "alice", peer="10.0.0.2", gone=cut.is_set)
    cut.set()
    assert second.ended.wait(patience())
    assert not first.ended.is_set()
    counted.gate.set()
    assert first.ended.wait(patience())
    assert len(counted.hashes) == 1


def test_a_known_user_does_not_wait_behind_guesses(counted: Counted) -> None:
    passwords = Passwords()
    counted.gate.clear()
    crowd = [waits(passwords, "nobody", peer=f"10.0.0.{number}") for number in range(20)]
    wait_for(lambda: counted.inside)
    scraper = waits(passwords, "alice", peer="10.0.0.1")
    wait_for(lambda: len(passwords._turns._waiting) == 20)
    counted.gate.set()
    assert scraper.ended.wait(patience())
    for guess in crowd:
        assert guess.ended.wait(patience())
    assert counted.hashes.index(KNOWN["alice"]) == 1, "its turn is the next one"


def test_every_address_has_its_turn(counted: Counted) -> None:
    passwords = Passwords()
    counted.gate.clear()
    crowd = [waits(passwords, "alice", peer="10.0.0.1") for _ in range(4)]
    wait_for(lambda: counted.inside)
    wait_for(lambda: len(passwords._turns._waiting) == 3)
    scraper = waits(passwords, "bob", peer="10.0.0.2")
    wait_for(lambda: len(passwords._turns._waiting) == 4)
    counted.gate.set()
    assert scraper.ended.wait(patience())
    for guess in crowd:
        assert guess.ended.wait(patience())
    assert counted.hashes.index(KNOWN["bob"]) == 1, "the others' address had one just now"


def test_the_interpreter_is_free_while_a_password_is_checked() -> None:
    """Else guessing would stop the sampler too."""
    known = {"alice": hashed("secret", cost=11).encode()}

    def turns_during_a_check() -> int:
        passwords, done = Passwords(), threading.Event()
        answers: list[bool | None] = []

        def check() -> None:
            answers.append(passwords.check(basic("alice", "guess")["Authorization"], known, peer="10.0.0.1"))
            done.set()

        thread = threading.Thread(target=check)
        thread.start()
        turns = 0
        while not done.wait(0.001):
            turns += 1
        thread.join()
        assert answers == [False]
        return turns

    # On a busy machine it may be somebody else who gets the time.
    assert any(turns_during_a_check() > 5 for _ in range(20))


def test_only_so_many_right_passwords_are_remembered() -> None:
    passwords, known = Passwords(), {f"user{n}": hashed("secret").encode() for n in range(120)}
    for name in known:
        assert passwords.check(basic(name, "secret")["Authorization"], known, peer="10.0.0.1") is True
    assert len(passwords._right) == 100
    remembered = repr(passwords._right)
    assert "secret" not in remembered
    assert "user" not in remembered


def test_users_change_without_a_restart_and_are_never_all_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "web.yml"
    alice, bob = (basic(name, "secret")["Authorization"] for name in ("alice", "bob"))
    with caplog.at_level(logging.INFO), guarded(path, users(alice="secret")) as server:
        path.write_text(users(alice="secret", bob="secret"))
        assert (status(server, alice), status(server, bob)) == (200, 200)
        for bad in ("", "basic_auth_users:\n", "basic_auth_users:\n  alice: secret\n"):
            path.write_text(bad)
            assert (status(server, None), status(server, bob)) == (401, 200)
        path.write_text(users(alice="secret"))
        assert (status(server, alice), status(server, bob)) == (200, 401)
    assert "secret" not in caplog.text
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
    assert errors[0].endswith("basic_auth_users: is gone; to do without it needs a restart")
    assert "basic_auth_users.alice: is not a bcrypt hash" in errors[1]


def test_headers_are_added_to_every_page_and_replace_ours(tmp_path: Path) -> None:
    text = (
        "http_server_config:\n  http2: false\n  headers:\n    Strict-Transport-Security: max-age=63072000\n"
        "    X-Frame-Options: deny\n    Content-Security-Policy: \"default-src 'self'\"\n    X-XSS-Protection:\n"
    )
    with guarded(tmp_path / "web.yml", text + users(alice="secret")) as server:
        for authorization in (None, basic("alice", "secret")["Authorization"]):
            answer = head(server, authorization)
            assert "\r\nStrict-Transport-Security: max-age=63072000\r\n" in answer
            assert "\r\nX-Frame-Options: deny\r\n" in answer
            assert answer.count("Content-Security-Policy") == 1
            assert "X-XSS-Protection" not in answer


def test_an_allowance_grows_with_time_up_to_its_burst() -> None:
    clock = Clock()
    allowance = Allowance(10.0, 3, monotonic=clock)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    clock.now = 9.9
    assert not allowance.take()
    clock.now = 10.1
    assert [allowance.take() for _ in range(2)] == [True, False]
    clock.now = 1000.0
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]


def test_requests_beyond_the_rate_are_refused(tmp_path: Path) -> None:
    with guarded(tmp_path / "web.yml", "rate_limit:\n  interval: 1h\n  burst: 3\n") as server:
        assert [status(server, None) for _ in range(5)] == [200, 200, 200, 429, 429]
    with guarded(tmp_path / "web.yml", "rate_limit:\n  interval: 20ms\n  burst: 1\n") as server:
        assert status(server, None) == 200
        wait_for(lambda: status(server, None) == 200)
    with guarded(tmp_path / "web.yml", "rate_limit:\n  interval: 0\n") as server:
        assert [status(server, None) for _ in range(30)] == [200] * 30
