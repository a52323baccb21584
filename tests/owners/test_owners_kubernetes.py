"""Pods that hold GPUs, asked of a real gRPC server; then everything that such a server could do wrong."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.lab.clock import Clock
from tools.lab.exporter import environment
from tools.lab.wait import patience, wait_for

from gpu_exporter.config import OwnersConfig
from gpu_exporter.model import Identity
from gpu_exporter.owners.kubernetes import KubernetesAllocations, device_key, named_devices, open_allocations
from podresources import Api, Kubelet, load, raw_server, record, require, socket_folder

require("h2")
from gpu_exporter.owners.kubernetes.client import LARGEST, Client  # noqa: E402 - only where h2 is installed
from gpu_exporter.owners.kubernetes.messages import PodResourcesError  # noqa: E402

RESOURCES = OwnersConfig().kubernetes_resources
GPU = "GPU-5eed0000-0000-4000-8000-00000000000{}".format
MIG = "MIG-5eed0000-0000-4000-8000-00000000000{}".format
OLD_MIG = f"MIG-{GPU(1)}/7/0"


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder / "kubelet.sock"


@pytest.fixture(scope="session")
def api() -> Api:
    return load()


@pytest.fixture
def kubelet(api: Api, path: Path) -> Iterator[Kubelet]:
    with Kubelet(api, path) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def watch(path: Path, clock: Clock) -> Iterator[Callable[..., KubernetesAllocations]]:
    made = []

    def start(**settings: Any) -> KubernetesAllocations:
        rest = {
            "socket": path,
            "resources": RESOURCES,
            "interval": 0.02,
            "timeout": patience(),
            "monotonic": clock,
            **settings,
        }
        made.append(KubernetesAllocations(**rest))
        return made[-1]

    yield start
    for allocations in made:
        allocations.close()
        assert not allocations._thread.is_alive()


def owner(pod: str, container: str = "main", namespace: str = "lab") -> Identity:
    return Identity(labels={"pod": pod, "namespace": namespace}, container=container)


# --- what the kubelet tells -------------------------------------------------------------------------------------------


def test_tells_pods_and_containers(api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    kubelet.answer = api.answer(
        api.pod("web", api.container("main"), namespace="shop"),
        api.pod("train", api.container("sidecar"), api.container("worker", gpu=[GPU(0), GPU(1)])),
        api.pod("infer", api.container("a", gpu=[GPU(2)]), api.container("b", gpu=[GPU(3)]), namespace="serving"),
    )
    allocations = watch()
    assert allocations.wait_first(patience())
    assert allocations.trouble() is None
    assert allocations.current() == {
        GPU(0): (owner("train", "worker"),),
        GPU(1): (owner("train", "worker"),),
        GPU(2): (owner("infer", "a", "serving"),),
        GPU(3): (owner("infer", "b", "serving"),),
    }


def test_tells_what_changed(api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    allocations = watch()
    assert allocations.wait_first(patience())
    assert (allocations.current(), allocations.trouble()) == ({}, None)
    kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
    wait_for(lambda: allocations.current() == {GPU(0): (owner("train"),)})
    kubelet.answer = api.answer()
    wait_for(lambda: allocations.current() == {})


def test_tells_who_shares(api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    kubelet.answer = api.answer(
        api.pod("one", api.container("main", **{"gpu.shared": [f"{GPU(0)}::0", f"{GPU(0)}::3"]})),
        api.pod("two", api.container("main", gpu=[f"{GPU(0)}::12"])),
        api.pod("three", api.container("main", **{"mig-1g.10gb": [MIG(4), OLD_MIG], "mig-2g.20gb": [f"{MIG(5)}::1"]})),
        api.pod("gke", api.container("main", gpu=["nvidia3/vgpu2", "nvidia4/gi1", "7"])),
    )
    allocations = watch()
    assert allocations.wait_first(patience())
    assert allocations.current() == {
        GPU(0): (owner("one"), owner("two")),
        **{key: (owner("three"),) for key in (MIG(4), OLD_MIG, MIG(5))},
        **{key: (owner("gke"),) for key in ("3", "4", "7")},
    }


@pytest.mark.parametrize(
    ("identifier", "key"),
    [
        (GPU(0), GPU(0)),
        (MIG(1), MIG(1)),
        (OLD_MIG, OLD_MIG),
        (f"{GPU(0)}::3", GPU(0)),
        (f"{MIG(0)}::30", MIG(0)),
        (f"{OLD_MIG}::1", OLD_MIG),
        ("0", "0"),
        ("15", "15"),
        ("7::2", "7"),
        ("nvidia0", "0"),
        ("nvidia0/gi1", "0"),
        ("nvidia12/vgpu2", "12"),
        ("nvidia1/gi3/vgpu0", "1"),
        *((unknown, None) for unknown in ("", "GPU-0", f"{GPU(0)}-3", f"{GPU(0)}::", "nvidia", "0/gi1", "-1", "٣")),
        *((unknown, None) for unknown in ("0000:3b:00.0", "tegra", "nvidiactl", f" {GPU(0)}", f"{GPU(0)}\n", "99999")),
    ],
)
def test_device_key(identifier: str, key: str | None) -> None:
    assert device_key(identifier) == key


def test_tells_claims_that_name_a_gpu(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations], caplog: pytest.LogCaptureFixture
) -> None:
    kubelet.answer = api.answer(
        api.pod("cdi", api.container("main", api.claim(f"nvidia.com/gpu={GPU(0)}"))),
        api.pod("mig", api.container("main", api.claim(f"k8s.gpu.nvidia.com/device={MIG(0)}"))),
        api.pod("named", api.container("main", api.claim("a.b/c=d", device=GPU(1).lower()))),
        # A minor number and the claim's own UUID, on a node that does not tell which GPU has the number.
        api.pod("minor", api.container("main", api.claim(f"k8s.gpu.nvidia.com/claim={GPU(2)[4:]}-gpu-0"))),
        api.pod("nic", api.container("main", api.claim("vendor.com/nic=1", driver="vendor.com"))),
    )
    with caplog.at_level(logging.WARNING, "gpu_exporter"):
        allocations = watch()
        wait_for(lambda: kubelet.asked > 2)
    assert allocations.current() == {
        GPU(0): (owner("cdi"),),
        MIG(0): (owner("mig"),),
        GPU(1): (owner("named"),),
    }
    (told,) = caplog.records
    assert "does not tell which GPU" in told.message
    assert vars(told)["pod"] == "minor"


def test_finds_uuids_in_names() -> None:
    assert named_devices(f"x={GPU(0)}\n{MIG(1).lower()}-part\ngpu-0") == {GPU(0), MIG(1)}
    assert named_devices(f"a{GPU(0)} {GPU(0)}0 claim={GPU(0)[4:]}-gpu-0") == frozenset()


def test_asks_for_the_resources_it_was_told(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]
) -> None:
    devices = [api.devices(name, [GPU(n)]) for n, name in enumerate(("nvidia.com/gpu", "nvidia.com/a100", "vendor/x"))]
    container = api.messages["ContainerResources"](name="main", devices=devices)
    kubelet.answer = api.answer(api.pod("train", container))
    allocations = watch(resources=("nvidia.com/a*",))
    assert allocations.wait_first(patience())
    assert list(allocations.current()) == [GPU(1)]


def test_reads_a_thousand_pods(api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    uuids = [f"GPU-5eed{n:04x}-0000-4000-8000-000000000000" for n in range(1000)]
    kubelet.answer = api.answer(*(api.pod(f"p{n}", api.container("main", gpu=[u])) for n, u in enumerate(uuids)))
    allocations = watch()
    assert allocations.wait_first(patience())
    assert allocations.current() == {uuid: (owner(f"p{n}"),) for n, uuid in enumerate(uuids)}


# --- a kubelet in trouble ---------------------------------------------------------------------------------------------


def test_survives_restarts_and_withholds_what_is_stale(
    api: Api,
    kubelet: Kubelet,
    watch: Callable[..., KubernetesAllocations],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
    with caplog.at_level(logging.INFO, "gpu_exporter"):
        allocations = watch()
        assert allocations.wait_first(patience())
        for _ in range(2):
            kubelet.stop()
            wait_for(allocations.trouble)
            assert allocations.current() == {GPU(0): (owner("train"),)}
            clock.now += 0.021 * 3 + allocations._stale_after
            assert allocations.current() == {}
            kubelet.start()
            wait_for(lambda: allocations.trouble() is None)
            assert allocations.current() == {GPU(0): (owner("train"),)}
    told = [record.levelname for record in caplog.records]
    assert told == ["INFO", "WARNING", "INFO", "WARNING", "INFO"]


def test_waits_for_a_socket_that_is_missing(
    api: Api,
    path: Path,
    watch: Callable[..., KubernetesAllocations],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    call = Client.call

    def counted(client: Client, method: str) -> bytes:
        asked.append(method)
        return call(client, method)

    monkeypatch.setattr(Client, "call", counted)
    with caplog.at_level(logging.INFO, "gpu_exporter"):
        allocations = watch()
        wait_for(lambda: len(asked) > 3)
    assert allocations.current() == {}
    assert "no such socket; mount the kubelet's pod-resources folder" in (allocations.trouble() or "")
    (told,) = caplog.messages
    assert str(path) in told
    with Kubelet(api, path) as kubelet:
        kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
        wait_for(lambda: allocations.current() == {GPU(0): (owner("train"),)})


def test_names_of_other_resources_are_passed_over(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]
) -> None:
    """NVIDIA/dcgm-exporter#408: 500 pods with 800 devices each of a plugin that is not asked about."""
    fuse = [f"fuse-{number:05}" for number in range(800)]
    pods = [api.pod(f"p{n}", api.container("main", fuse=fuse, gpu=[GPU(n)] if n < 8 else [])) for n in range(500)]
    kubelet.answer = api.answer(*pods)
    allocations = watch(resources=("nvidia.com/gpu",))
    assert allocations.wait_first(patience())
    assert allocations.trouble() is None
    assert allocations.current() == {GPU(n): (owner(f"p{n}"),) for n in range(8)}


def test_16_000_holders_of_one_device(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is compared with all the others: their number is what counts, not its square."""
    compared = 0

    def equal(one: Identity, other: object) -> bool:
        nonlocal compared
        compared += 1
        return one is other

    kubelet.answer = api.answer(*(api.pod(f"p{n}", api.container("main", gpu=[GPU(0)])) for n in range(16_000)))
    with monkeypatch.context() as patch:
        patch.setattr(Identity, "__eq__", equal)
        allocations = watch()
        assert allocations.wait_first(patience())
    assert allocations.trouble() is None
    assert len(allocations.current()[GPU(0)]) == 16_000
    assert compared < 16_000


def test_an_answer_may_take_as_long_as_the_deadline(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations], clock: Clock
) -> None:
    """It was asked for that long ago when it comes, and the next one takes as long."""
    kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
    allocations = watch(interval=10.0, timeout=10.0)
    assert allocations.wait_first(patience())
    clock.now += 40.0
    assert allocations.current() == {GPU(0): (owner("train"),)}
    clock.now += 0.1
    assert allocations.current() == {}


def test_the_deadline_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("gpu_exporter.owners.kubernetes.KubernetesAllocations", lambda **rest: made.append(rest))
    open_allocations(OwnersConfig(kubernetes=True), str)
    open_allocations(OwnersConfig(kubernetes=True, kubernetes_timeout=2.5), str)
    assert [rest["timeout"] for rest in made] == [10.0, 2.5], "dcgm-exporter waits for 10 s as well"


def test_a_slow_kubelet_meets_the_deadline(
    api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]
) -> None:
    kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
    allocations = watch(timeout=0.2)
    wait_for(lambda: allocations.trouble() is None)
    kubelet.hold.set()
    trouble = wait_for(allocations.trouble)
    # Whichever clock is first: grpcio knows the deadline as well, from the header grpc-timeout.
    assert "no answer within 0.2 s" in trouble or "CANCEL" in trouble or "DEADLINE_EXCEEDED" in trouble
    assert allocations.current() == {GPU(0): (owner("train"),)}


def test_closes_while_a_call_hangs(kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    kubelet.hold.set()
    allocations = watch(timeout=3600)
    wait_for(lambda: kubelet.asked)
    allocations.close()
    wait_for(lambda: not allocations._thread.is_alive())  # broken off: the kubelet does not answer
    allocations.close()
    with pytest.raises(PodResourcesError, match="closed"):
        allocations._client.call("List")


def test_tells_the_status_of_a_refusal(api: Api, kubelet: Kubelet, watch: Callable[..., KubernetesAllocations]) -> None:
    kubelet.answer = api.answer(api.pod("train", api.container("main", gpu=[GPU(0)])))
    allocations = watch()
    assert allocations.wait_first(patience())
    kubelet.fail = ("RESOURCE_EXHAUSTED", "rejected by rate limit, 100 % of it\n")
    trouble = wait_for(allocations.trouble)
    assert trouble.endswith(r"List: status RESOURCE_EXHAUSTED: rejected by rate limit, 100 % of it\n")
    assert allocations.current() == {GPU(0): (owner("train"),)}
    kubelet.fail = ("INTERNAL", "")
    wait_for(lambda: (allocations.trouble() or "").endswith("List: status INTERNAL"))


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (lambda _: bytes(LARGEST + 1), "the answer is larger than 16 MiB"),
        (lambda _: b"\x0a\x05\x0a", "it is cut off"),
        (lambda _: b"\xff" * 100, "no protobuf message"),
        (lambda _: b"\x0a\x00" * 2_000_001, "more than 2000000 fields"),
        (
            lambda api: api.answer(
                *(api.pod(f"p{n}", api.container("main", gpu=[str(k) for k in range(200)])) for n in range(100))
            ),
            "more than 16384 holders",
        ),
    ],
)
def test_an_answer_that_is_too_much(
    answer: Callable[[Api], Any],
    trouble: str,
    api: Api,
    kubelet: Kubelet,
    watch: Callable[..., KubernetesAllocations],
) -> None:
    kubelet.answer = answer(api)
    allocations = watch()
    assert allocations.wait_first(patience())
    assert trouble in (allocations.trouble() or "")
    assert allocations.current() == {}
    kubelet.answer = api.answer()
    wait_for(lambda: allocations.trouble() is None)


@pytest.mark.usefixtures("kubelet")
def test_a_bug_is_logged_and_outlived(
    watch: Callable[..., KubernetesAllocations],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Client, "call", lambda *_: 1 // 0)
        allocations = watch()
        assert allocations.wait_first(patience())
        assert "a bug" in (allocations.trouble() or "")
    wait_for(lambda: allocations.trouble() is None)
    assert "ZeroDivisionError" in caplog.text


def test_retries_soon_then_less_often(watch: Callable[..., KubernetesAllocations]) -> None:
    allocations = watch(interval=10.0)
    assert [allocations._pause(failures) for failures in range(8)] == [10, 1, 2, 4, 8, 16, 30, 30]
    assert allocations._pause(10**9) == 30


def test_says_which_extra_is_missing() -> None:
    script = """
import sys
from pathlib import Path
from gpu_exporter.owners.kubernetes import KubernetesAllocations, MissingExtraError
assert "h2" not in sys.modules
sys.modules["h2"] = None
try:
    KubernetesAllocations(socket=Path("kubelet.sock"), resources=())
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=patience(),
    )
    assert done.stdout == (f"asking the kubelet needs the Python library h2; run: {sys.executable} -m pip install h2\n")


def test_a_kubelet_that_dies_within_its_answer(
    api: Api, path: Path, watch: Callable[..., KubernetesAllocations]
) -> None:
    recorded = record(api, api.answer(api.pod("train", api.container("main", gpu=[GPU(0)]))))
    cuts = iter(range(0, len(recorded), len(recorded) // 7))

    def serve(connection: socket.socket) -> None:
        connection.recv(9)  # it had begun to read
        connection.sendall(recorded[: next(cuts, len(recorded))])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    with raw_server(path, serve):
        allocations = watch(interval=0.0001)
        wait_for(lambda: allocations.current() == {GPU(0): (owner("train"),)})
        assert next(cuts, None) is None
