"""Where the installed program listens: names, both families, several addresses, and what ends the start."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, command, environment, run
from tools.lab.ports import free_port
from tools.lab.programs import Program
from tools.lab.wait import patience

from certificates import Site, hashed

FAKE = ("--source=fake", "--fake.gpus=1")
# A machine whose kernel has no IPv6 address: a network of its own in which only IPv4's loopback is up.
_WITHOUT_IPV6 = """
import fcntl, os, pathlib, socket, struct, sys
for name in ("all", "default", "lo"):
    path = pathlib.Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    path.exists() and path.write_text("1")
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""
_WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


def elsewhere(tmp_path: Path, *, hosts: str = "", ipv6: bool = True) -> list[str]:
    """What stands before a command to run it on a machine with this /etc/hosts, and with or without IPv6."""
    (tmp_path / "hosts").write_text(hosts)
    before = ["unshare", "--map-root-user", "--mount", "sh", "-c", _WITH_HOSTS, str(tmp_path / "hosts")]
    if not ipv6:
        before += ["unshare", "--net", sys.executable, "-c", _WITHOUT_IPV6]
    try:
        done = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode:
        pytest.skip(f"this machine gives nobody a namespace: {done.stderr}")
    return before


def listening(program: Program) -> list[tuple[str, int]]:
    """The addresses of the log's line, as soon as it is there."""
    line = program.wait(lambda: re.search(r"msg=listening address=(\S+) path=/metrics", program.log()))
    places = re.findall(r"(?:^|,)\[?([^,]+?)\]?:(\d+)(?=,|$)", line[1].strip('"'))
    return [(host, int(port)) for host, port in places]


def answers(host: str, port: int) -> bool:
    with socket.create_connection((host, port), patience()) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        return client.recv(64).startswith(b"HTTP/1.1 200 ")


def started(tmp_path: Path, before: Sequence[str], *arguments: str) -> Program:
    return Program([*before, *command(), *FAKE, *arguments], tmp_path / "exporter.log", env=environment())


def refused(*arguments: str) -> str:
    done = run(*FAKE, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpu-exporter: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("gpu-exporter: ").rstrip("\n")


def test_localhost_is_both_of_its_addresses(tmp_path: Path) -> None:
    before = elsewhere(tmp_path, hosts="127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    with started(tmp_path, before, "--web.listen-address=localhost:0") as exporter:
        places = listening(exporter)
        assert {host for host, _ in places} == {"127.0.0.1", "::1"}
        assert len({port for _, port in places}) == 1
        for host, port in places:
            assert answers(host, port)


def test_localhost_on_a_machine_without_ipv6_is_what_there_is(tmp_path: Path) -> None:
    before = elsewhere(tmp_path, hosts="127.0.0.1 localhost\n::1 localhost\n", ipv6=False)
    with started(tmp_path, before, "--web.listen-address=localhost:9435") as exporter:
        assert listening(exporter) == [("127.0.0.1", 9435)]


def test_the_flag_again_and_again(tmp_path: Path) -> None:
    with Exporter(tmp_path, *FAKE, "--web.listen-address=127.0.0.2:0", "--web.listen-address=127.0.0.3:0") as exporter:
        places = listening(exporter)
        assert [host for host, _ in places] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        for place in places:
            assert answers(*place)
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            answers(*place)


@pytest.mark.parametrize("between", [",", " ", ", "])
def test_several_in_the_environment(tmp_path: Path, between: str) -> None:
    variables = {"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:0{between}127.0.0.2:0"}
    program = Program([*command(), *FAKE], tmp_path / "exporter.log", env=environment(variables))
    with program as exporter:
        assert [host for host, _ in listening(exporter)] == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize(
    ("written", "hosts"),
    [("127.0.0.2:0", ["127.0.0.2"]), ('["127.0.0.3:0", "127.0.0.2:0"]', ["127.0.0.3", "127.0.0.2"])],
)
def test_one_or_several_in_the_file_and_flags_go_over_them(tmp_path: Path, written: str, hosts: list[str]) -> None:
    file = tmp_path / "config.yml"
    file.write_text(f"web: {{listen_address: {written}}}\n")
    with started(tmp_path, [], f"--config.file={file}") as exporter:
        assert [host for host, _ in listening(exporter)] == hosts
    with Exporter(tmp_path, *FAKE, f"--config.file={file}") as flagged:
        assert [host for host, _ in listening(flagged)] == ["127.0.0.1"]


def test_tls_passwords_and_networks_hold_for_every_address(tmp_path: Path) -> None:
    site = Site(tmp_path)
    web = site.write(rest=f"basic_auth_users: {{alice: {hashed('secret')}}}\n")
    arguments = (*FAKE, f"--web.config.file={web}", "--web.allow=127.0.0.1/32", "--web.allow=127.0.0.9/32")
    with Exporter(tmp_path, *arguments, "--web.listen-address=127.0.0.2:0") as exporter:
        places = listening(exporter)
        assert len(places) == 2
        for place in places:
            told = []
            for own in ("127.0.0.1", "127.0.0.9", "127.0.0.8"):
                try:
                    with (
                        socket.create_connection(place, patience(), (own, 0)) as plain,
                        site.client().wrap_socket(plain, server_hostname="localhost") as client,
                    ):
                        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                        told.append(client.recv(64)[9:12])
                except (OSError, ssl.SSLError):
                    told.append(b"")
            assert told == [b"401", b"401", b""]


def test_a_port_in_use_at_one_of_them_ends_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        address = f"127.0.0.2:{taken.getsockname()[1]}"
        line = refused("--web.listen-address=127.0.0.1:0", f"--web.listen-address={address}")
    assert line == f"web.listen_address: '{address}': Address already in use; write a free one"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1:PORT", "127.0.0.1:PORT"), (":PORT", "127.0.0.1:PORT"), ("[::1]:PORT", "[0:0::1]:PORT"),
        ("[::]:PORT", ":PORT"), ("gpu-3:PORT", "GPU-3:PORT"), ("[::ffff:127.0.0.1]:PORT", "0.0.0.0:PORT"),
    ],
)  # fmt: skip
def test_the_same_place_twice_is_refused(first: str, second: str) -> None:
    port = str(free_port())
    one, two = (f"--web.listen-address={text.replace('PORT', port)}" for text in (first, second))
    line = refused(one, two)
    assert re.fullmatch(r"--web\.listen-address: '\S+' is taken in by '\S+'; leave one of them out", line)


def test_a_bad_one_among_good_ones_is_named() -> None:
    line = refused("--web.listen-address=127.0.0.1:0", "--web.listen-address=nine")
    assert line == "--web.listen-address: 'nine' is not an address; write :9435, 127.0.0.1:9435 or '[::1]:9435'"


def test_a_name_that_nobody_knows_ends_the_start(tmp_path: Path) -> None:
    before = elsewhere(tmp_path, hosts="127.0.0.1 localhost\n")
    done = subprocess.run(
        [*before, *command(), *FAKE, "--web.listen-address=nowhere.invalid:9435"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(
        r"gpu-exporter: web\.listen_address: 'nowhere\.invalid:9435': [^;]+; "
        r"write a name or an address of this machine\n",
        done.stderr,
    )
