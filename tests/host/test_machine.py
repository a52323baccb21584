"""What is told of the machine, over a /proc and an /etc made of files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tools.lab.wait import wait_for

from gpu_exporter.config import HostConfig
from gpu_exporter.host import HostWatch
from gpu_exporter.host.machine import Machine
from gpu_exporter.model import Host

FIB = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        |-- 10.1.0.7
           /32 host LOCAL
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 172.17.0.1
           /32 host LOCAL
        |-- 192.168.5.2
           /32 host LOCAL
        |-- 192.168.5.255
           /32 link BROADCAST
        |-- 169.254.3.3
           /32 host LOCAL
"""
ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask
eth1\t00000000\t0105A8C0\t0003\t0\t0\t0\t00000000
eth0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF
eth1\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF
broken line
"""
IF_INET6 = """\
20010db8000000000000000000000002 04 40 00 82     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000001 05 40 00 80  docker0
00000000000000000000000000000001 01 80 10 80       lo
"""


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dash_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return put(
        tmp_path,
        proc__stat="cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\ncpu10 1 0 0 0\nbtime 1700000000\n",
        proc__meminfo="MemTotal:  1000 kB\nMemFree:   10 kB\nMemAvailable:  400 kB\n",
        proc__loadavg="0.50 1.25 2.00 1/96 12165\n",
        proc__sys__kernel__hostname="gpu3\n",
        proc__sys__kernel__osrelease="6.8.0-45-generic\n",
        proc__net__fib_trie=FIB,
        proc__net__route=ROUTE,
        proc__net__if_inet6=IF_INET6,
        etc__hosts="127.0.0.1 localhost\n127.0.1.1 gpu3.example.org gpu3 # ours\n",
        etc__os_dash_release='NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\nBROKEN="\n',
    )


def test_a_machine_is_told_whole(server: Path) -> None:
    assert Machine(system=server, name="").look() == Host(
        name="gpu3.example.org",
        addresses=("192.168.5.2", "10.1.0.7", "2001:db8::2"),
        os="Ubuntu 24.04.1 LTS",
        kernel="6.8.0-45-generic",
        boot_timestamp=1700000000.0,
        cpus=3,
        memory_total=1000 * 1024,
        memory_used=600 * 1024,
        load=(0.5, 1.25, 2.0),
    )


@pytest.mark.parametrize(
    ("ticks", "share"),
    [
        ("150 0 150 750 150 0 0 0 50 0", 0.5),  # 200 more, half of them idle or waiting
        ("100 0 100 800 100 0 0 0 50 0", 0.0),
        ("200 0 100 700 100 0 0 0 999 0", 1.0),  # guest time is in user time already
        ("200 0 100 690 100 0 0 0 0 0", 1.0),  # idle time fell by a tick
        ("100 0 100 700 100 0 0 0 50 0", None),  # no time has passed
        ("1 0 1 7 1 0 0 0 0 0", None),  # it began anew
        ("100 0 100", None),
        ("-1 0 100 7 1", None),
    ],
)
def test_cpu_time_is_a_share_of_the_time_since_the_look_before(server: Path, ticks: str, share: float | None) -> None:
    machine = Machine(system=server, name="")
    assert machine.look().cpu_utilization is None
    put(server, proc__stat=f"cpu  {ticks}\ncpu0 1 0 0 0\n")
    told = machine.look().cpu_utilization
    assert told == (None if share is None else pytest.approx(share))


def test_in_a_container_the_hosts_etc_tells_name_and_system(server: Path) -> None:
    put(server, host__etc__hostname="node7\n", host__etc__lsb_dash_release='DISTRIB_DESCRIPTION="Ubuntu 22.04"\n')
    (server / "host/etc/os-release").symlink_to("../usr/lib/os-release")
    host = Machine(system=server, name="").look()
    assert (host.name, host.os) == ("node7", "Ubuntu 22.04")


def test_a_name_that_was_given_counts(server: Path) -> None:
    assert Machine(system=server, name="rack1-gpu3").look().name == "rack1-gpu3"


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        ("", "gpu3"),
        ("10.0.0.1 gpu3\n", "gpu3"),
        ("10.0.0.1 other.example.org other\n10.0.0.2 gpu3 gpu3.lab\n", "gpu3.lab"),
        ("# 10.0.0.1 gpu3.lab gpu3\n", "gpu3"),
    ],
)
def test_the_full_name_is_that_of_etc_hosts(server: Path, hosts: str, name: str) -> None:
    assert Machine(system=put(server, etc__hosts=hosts), name="").name == name


def test_what_is_not_known_or_makes_no_sense_is_absent(tmp_path: Path) -> None:
    assert Machine(system=tmp_path, name="").look() == Host()
    garbage = b"\xff\0 x\n" * 100
    for name in ("stat", "meminfo", "loadavg", "net/fib_trie", "net/route", "net/if_inet6"):
        path = tmp_path / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(garbage)
    put(tmp_path, proc__meminfo="MemTotal: 10 kB\nMemAvailable: 20 kB\n", etc__os_dash_release="PRETTY_NAME='\n")
    assert Machine(system=tmp_path, name="").look() == Host(memory_total=10240)


def test_this_machine_tells_of_itself() -> None:
    host = Machine(system=Path("/"), name="").look()
    assert host.name == os.uname().nodename or host.name.startswith(f"{os.uname().nodename}.")
    assert host.kernel == os.uname().release
    assert host.cpus
    assert host.memory_total
    assert not any(address.startswith("127.") or address == "::1" for address in host.addresses)


def test_the_watch_looks_and_looks_again_and_ends(server: Path) -> None:
    watch = HostWatch(HostConfig(), system=server)
    assert watch.latest() == Host(name="gpu3.example.org")
    watch.start()
    wait_for(lambda: watch.latest().load == (0.5, 1.25, 2.0))
    put(server, proc__stat="cpu  150 0 150 750 150 0 0 0 50 0\nbtime 1700000000\n")
    wait_for(lambda: watch.latest().cpu_utilization == pytest.approx(0.5))
    watch.close()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "host"])


def test_switched_off_it_tells_the_name_and_has_no_thread(server: Path) -> None:
    watch = HostWatch(HostConfig(enabled=False), system=server)
    watch.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "host"]
    assert watch.latest() == Host(name="gpu3.example.org")
    watch.close()
