"""Names of users, which may take their time."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.lab.clock import Clock
from tools.lab.wait import patience, wait_for

from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.user_names import UserNames, host_names
from proc_tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def named() -> Iterator[Callable[..., UserNames]]:
    made: list[UserNames] = []

    def make(**rest: object) -> UserNames:
        made.append(UserNames(**{"passwd": None, **rest}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for names in made:
        names.close()


def test_passwd_is_read_as_getpwuid_reads_it(tmp_path: Path, named: Callable[..., UserNames]) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_bytes(
        b"root:x:0:0:root:/root:/bin/sh\n+@nis::::::\n# note:x:3:3\nalice:x:1000:1000::/:\ntwin:x:1000:1:::\n"
        b"bad:x:seven:1:::\nshort:x\n:x:12:1:::\nhuge:x:99999999999:1:::\n\nm\xfcller:x:1001:1:::\n"
    )
    names = named(passwd=passwd, resolve=None)
    assert [names.name(uid) for uid in (0, 1000, 1001, 12, 3, 7)] == ["root", "alice", "m\ufffdller", "12", "3", "7"]


@given(st.binary(max_size=300))
def test_no_passwd_is_too_strange(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert UserNames(passwd=Path(file.name), resolve=None).name(5)


def test_a_new_user_is_found_within_ten_seconds(tmp_path: Path, named: Callable[..., UserNames]) -> None:
    passwd, clock = tmp_path / "passwd", Clock()
    passwd.write_text("root:x:0:0:::\n")
    names = named(passwd=passwd, resolve=None, monotonic=clock)
    assert names.name(1000) == "1000"
    passwd.write_text("root:x:0:0:::\nalice:x:1000:1000:::\n")
    assert names.name(1000) == "1000"
    clock.now += 10
    assert names.name(1000) == "alice"


def test_a_missing_passwd_is_told_once(
    tmp_path: Path, named: Callable[..., UserNames], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    names = named(passwd=tmp_path / "passwd", resolve=None, monotonic=clock)
    for clock.now in (0.0, 10.0, 20.0):
        assert names.name(0) == "0"
    assert [record.getMessage() for record in caplog.records] == ["users cannot be named"]
    (tmp_path / "passwd").write_text("root:x:0:0:::\n")
    clock.now = 30.0
    assert names.name(0) == "root"


def test_the_name_service_is_asked_in_the_background(tree: Tree, named: Callable[..., UserNames]) -> None:
    here = threading.get_ident()
    asked: list[tuple[int, bool]] = []

    def resolve(uid: int) -> str:
        asked.append((uid, threading.get_ident() == here))
        return f"user{uid}"

    tree.process(7, uid=4242)
    owners = ProcfsIdentities(root=tree.root, names=named(passwd=tree.passwd, resolve=resolve))

    def user() -> str:
        owner = owners.identity(7)
        assert owner is not None
        return owner.user

    assert user() in {"4242", "user4242"}
    wait_for(lambda: user() == "user4242")
    tree.process(8, uid=1000)
    owners.identity(8)
    assert asked == [(4242, False)], "once, elsewhere, and not for whom /etc/passwd names"


def test_a_name_service_that_hangs_holds_nobody_up(
    tree: Tree, named: Callable[..., UserNames], monkeypatch: pytest.MonkeyPatch
) -> None:
    release, hanging = threading.Event(), threading.Event()
    asked: list[int] = []
    returned: list[int] = []

    def resolve(uid: int) -> str:
        asked.append(uid)
        hanging.set()
        release.wait(patience())
        returned.append(uid)
        release.set()
        return f"user{uid}"

    names = named(passwd=tree.passwd, resolve=resolve)
    owners = ProcfsIdentities(root=tree.root, names=names)
    pids = range(1000, 1100)
    for pid in pids:
        tree.process(pid, uid=pid + 4000)
    users = {owner.user for pid in pids if (owner := owners.identity(pid))}
    assert returned == [], "nobody waited for the resolver"
    assert users == {str(pid + 4000) for pid in pids}
    assert hanging.wait(patience())
    assert len(names._questions) <= 64, "the queue is bounded"
    assert asked == [5000], "and one thread waits, not a hundred"
    assert names._thread is not None
    joined: list[object] = []
    monkeypatch.setattr(names._thread, "join", joined.append)
    names.close()
    assert joined == [], "closing does not wait for it either"
    assert names._thread.is_alive(), "it is left behind, still hanging"
    release.set()


def test_one_uid_that_hangs_costs_no_other_its_name(named: Callable[..., UserNames]) -> None:
    """SSSD/sssd#5323, truenas/os#235: getpwuid of one uid does not return."""
    release, hanging, clock = threading.Event(), threading.Event(), Clock()

    def resolve(uid: int) -> str:
        if uid == 1:
            hanging.set()
            release.wait(patience())
        return f"user{uid}"

    names = named(resolve=resolve, monotonic=clock)
    try:
        assert names.name(1) == "1"
        assert hanging.wait(patience())
        assert names.name(2) == "2", "it waits"
        clock.now = 6.0
        wait_for(lambda: [names.name(uid) for uid in (1, 2, 3)] == ["1", "user2", "user3"])
    finally:
        release.set()
    wait_for(lambda: names.name(1) == "user1", "its answer counts, however late")


def test_threads_that_hang_are_few(named: Callable[..., UserNames]) -> None:
    release, clock, asked = threading.Event(), Clock(), list[int]()

    def resolve(uid: int) -> str:
        asked.append(uid)
        release.wait(patience())
        return f"user{uid}"

    names = named(resolve=resolve, monotonic=clock)
    uids = range(1, 40)
    try:
        for count in range(1, 6):
            clock.now += 6.0
            assert [names.name(uid) for uid in uids] == [str(uid) for uid in uids]
            wait_for(lambda count=count: len(asked) == count)  # type: ignore[misc]
        for _ in range(5):
            clock.now += 6.0
            assert names.name(1) == "1"
        assert len(names._asking) == 5, "four that hang, and the one at work"
        assert asked == [1, 2, 3, 4, 5], "and none is asked twice"
    finally:
        release.set()
    wait_for(lambda: [names.name(uid) for uid in uids] == [f"user{uid}" for uid in uids])


# --- subordinate uids -------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, named: Callable[..., UserNames]) -> Callable[[str], UserNames]:
    """The names of a host with these ranges."""

    def make(ranges: str, **rest: object) -> UserNames:
        (tmp_path / "passwd").write_text("root:x:0:0:::\nalice:x:1000:1000:::\nold:x:100500:1:::\n")
        (tmp_path / "subuid").write_text(ranges)
        return named(**{"passwd": tmp_path / "passwd", "subuid": tmp_path / "subuid", "resolve": None, **rest})

    return make


@pytest.mark.parametrize(
    ("uid", "person"),
    [
        (1000, (1000, "alice")),
        (99_999, (99_999, "99999")),
        (100_000, (1000, "alice")),
        (165_535, (1000, "alice")),
        (165_536, (70_001, "70001")),
        (231_072, (None, "ldap-user")),
        (296_608, (296_608, "296608")),
        (100_500, (100_500, "old")),
        (1_000_000, (1_000_000, "1000000")),
        (300_050, (1000, "alice")),
    ],
)
def test_whose_a_subordinate_uid_is(host: Callable[[str], UserNames], uid: int, person: tuple[int | None, str]) -> None:
    """subuid(5); whom passwd knows is himself, and what root has is for containers with users of their own."""
    ranges = (
        "# by useradd\nalice:100000:65536\n70001:165536:65536\nldap-user:231072:65536\nroot:1000000:65536\n"
        "bad:x:5\nbad:1\n:5:5\nalice:300000:100\n\n"
    )
    assert host(ranges).person(uid) == person


def test_ranges_are_read_again(host: Callable[..., UserNames]) -> None:
    clock = Clock()
    names = host("", monotonic=clock)
    assert names.person(100_000) == (100_000, "100000")
    assert host("alice:100000:65536\n") is not names
    clock.now = 10.0
    assert names.person(100_000) == (1000, "alice")


def test_without_ranges_a_uid_is_its_own(tmp_path: Path, named: Callable[..., UserNames]) -> None:
    assert named(subuid=tmp_path / "subuid", resolve=None).person(100_000) == (100_000, "100000")


@given(st.binary(max_size=300))
def test_no_subuid_is_too_strange(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        uid, name = UserNames(passwd=None, subuid=Path(file.name), resolve=None).person(5)
        assert name == str(uid) or uid is None


def test_what_did_not_fit_the_queue_is_named_later(named: Callable[..., UserNames]) -> None:
    names = named(resolve=lambda uid: f"user{uid}")
    uids = range(1000, 1200)
    wait_for(lambda: [names.name(uid) for uid in uids] == [f"user{uid}" for uid in uids])


def test_an_unknown_user_is_asked_for_again_after_ten_minutes(named: Callable[..., UserNames]) -> None:
    clock, users, asked = Clock(), dict[int, str](), list[int]()

    def resolve(uid: int) -> str:
        asked.append(uid)
        return users[uid]

    names = named(resolve=resolve, monotonic=clock)
    assert names.name(7) == "7"
    wait_for(lambda: 7 in names._answers)
    users[7] = "bob"
    clock.now = 599.0
    assert names.name(7) == "7"
    clock.now = 600.0
    wait_for(lambda: names.name(7) == "bob")
    assert asked == [7, 7]


def test_a_name_outlives_a_name_service_that_fails(
    named: Callable[..., UserNames], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock, failed = Clock(), threading.Event()

    def resolve(_: int) -> str:
        if clock.now:
            failed.set()
            raise OSError("sssd is down")
        return "bob"

    names = named(resolve=resolve, monotonic=clock)
    wait_for(lambda: names.name(7) == "bob")
    clock.now = 600.0
    assert names.name(7) == "bob"
    assert failed.wait(patience())
    wait_for(lambda: names._answers[7] == ("bob", 1200.0))
    assert names.name(7) == "bob"


def test_names_are_bounded(named: Callable[..., UserNames], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_exporter.owners.user_names._MOST_NAMES", 8)
    names = named(resolve=str)
    for uid in range(30):
        names.name(uid)
        wait_for(lambda uid=uid: uid in names._answers)  # type: ignore[misc]
    assert len(names._answers) == 8


def test_closed_names_ask_no_more(named: Callable[..., UserNames]) -> None:
    names = named(resolve=str)
    names.close()
    assert names.name(7) == "7"
    assert names._thread is None


def test_closing_joins_the_thread(named: Callable[..., UserNames]) -> None:
    names = named(resolve=str)
    names.name(7)
    wait_for(lambda: 7 in names._answers)
    names.close()
    assert names._thread is not None
    assert not names._thread.is_alive()


@pytest.mark.parametrize(
    ("files", "mounts", "name", "subordinate"),
    [
        ({"etc/passwd": "alice"}, ["/", "/proc"], "alice", "alice"),
        ({"etc/passwd": "ubuntu", "host/etc/passwd": "alice"}, ["/", "/etc/hosts"], "alice", "alice"),
        ({"etc/passwd": "ubuntu"}, ["/", "/etc/hosts"], "1000", "100000"),
        ({"etc/passwd": "alice"}, ["/", "/etc/hosts", "/etc/passwd"], "alice", "100000"),
        ({"etc/passwd": "alice"}, ["/", "/etc/hosts", "/etc/passwd", "/etc/subuid"], "alice", "alice"),
    ],
    ids=[
        "on the host",
        "container, host's /etc mounted",
        "container",
        "container, its passwd is the host's",
        "container, its subuid as well",
    ],
)
def test_users_are_the_hosts(
    tmp_path: Path, files: dict[str, str], mounts: list[str], name: str, subordinate: str
) -> None:
    for path, user in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{user}:x:1000:1000:::\n")
        (tmp_path / path).with_name("subuid").write_text(f"{user}:100000:65536\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    mountinfo = "".join(f"22 1 8:1 /x {mount} rw - ext4 /dev/sda rw\n" for mount in mounts)
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo)
    names = host_names(root=tmp_path)
    assert names.name(1000) == name
    assert names.person(100_000)[1] == subordinate
    names.close()


def test_users_of_this_very_machine() -> None:
    names = host_names()
    assert names.name(0) in {"root", "0"}
    names.close()
