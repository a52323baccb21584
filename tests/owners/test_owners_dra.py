"""Pods that hold GPUs by claims of DRA: device files and CDI specifications of a node, and a real kubelet."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.lab.wait import patience, wait_for

from gpu_exporter.config import OwnersConfig
from gpu_exporter.model import Identity
from gpu_exporter.owners.kubernetes import KubernetesAllocations
from gpu_exporter.owners.kubernetes.dra import DynamicDevices
from podresources import Api, Kubelet, load, require, socket_folder

require("h2")

CLAIM = "0c1c9d2e-5f0b-4a56-9e0a-3c1a4e6f0001"
GPU = "GPU-5eed0000-0000-4000-8000-00000000000{}".format
INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t {minor}
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.74.00.01
Bus Type: \t PCIe
Bus Location: \t {bus}
Device Minor: \t {minor}
GPU Excluded:\t No
"""


class Node:
    """What the driver and the container runtime keep on a node."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cdi = folder / "proc", folder / "cdi"
        self.cdi.mkdir()
        self.devices = DynamicDevices(cdi=[folder / "nowhere", self.cdi], proc=self.proc)

    def gpu(self, minor: int, uuid: str, bus: str) -> None:
        place = self.proc / "gpus" / bus
        place.mkdir(parents=True, exist_ok=True)
        (place / "information").write_text(INFORMATION.format(minor=minor, uuid=uuid, bus=bus))

    def specification(self, name: str, kind: str, **devices: Any) -> None:
        tree = {
            "cdiVersion": "0.5.0",
            "kind": kind,
            "devices": [{"name": device, "containerEdits": edits} for device, edits in devices.items()],
            "containerEdits": {"deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia-uvm"}]},
        }
        (self.cdi / name).write_text(json.dumps(tree))

    def keys(self, *names: str, driver: str = "gpu.nvidia.com") -> set[str]:
        self.devices.refresh()
        return set(self.devices.keys(driver, "\n".join(names)))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Four GPUs whose minor numbers are not in the order of their buses."""
    made = Node(tmp_path)
    for minor, number, bus in ((1, 0, "0000:1b:00.0"), (0, 1, "0000:43:00.0"), (2, 2, "0000:52:00.0")):
        made.gpu(minor, GPU(number), bus)
    made.gpu(3, "GPU-????????-????-????-????-????????????", "0000:9d:00.0")
    return made


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("k8s.gpu.nvidia.com/claim=" + CLAIM + "-gpu-0", "gpu-0"), {GPU(1)}),
        (("gpu-1",), {GPU(0)}),
        (("gpu-1-mig-1g18gb-19-0",), {GPU(0)}),
        (("gpu-3",), set()),  # its UUID is not known before it was first used
        (("gpu-7",), set()),
        (("gpu-0x",), set()),
        (("gpu-5eed0000-0000-4000-8000-000000000002",), {GPU(2)}),
        (("",), set()),
    ],
)
def test_names_of_nvidias_driver(node: Node, names: tuple[str, ...], found: set[str]) -> None:
    assert node.keys(*names) == found


def test_names_of_another_driver_say_nothing(node: Node) -> None:
    assert node.keys("gpu-1", driver="gpu.example.org") == set()
    node.specification("a.json", "example.org/gpu", it={"deviceNodes": [{"path": "/dev/nvidia1"}]})
    assert node.keys("example.org/gpu=it", "gpu-2", driver="gpu.example.org") == {GPU(0)}, "its device file does"


def test_specifications_tell_device_files(node: Node) -> None:
    node.specification(
        "claim.json",
        "k8s.gpu.nvidia.com/claim",
        **{
            f"{CLAIM}-gpu-0": {"deviceNodes": [{"path": "/dev/nvidia2"}, {"path": "/dev/nvidia-caps/nvidia-cap3"}]},
            f"{CLAIM}-moved": {"deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/nvidia1"}]},
            f"{CLAIM}-env": {"env": [f"GPU_DEVICE_0_UUID={GPU(0)}"]},
            f"{CLAIM}-two": {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidia2"}]},
            f"{CLAIM}-half": {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": "/dev/nvidia3"}]},
        },
    )
    for name, found in {
        "gpu-0": {GPU(2)},
        "moved": {GPU(0)},
        "env": {GPU(0)},
        "two": {GPU(1), GPU(2)},
        "half": set(),
    }.items():
        assert node.keys(f"k8s.gpu.nvidia.com/claim={CLAIM}-{name}", "x") == found, name
    (node.cdi / "plugin.yaml").write_text(
        "kind: nvidia.com/gpu\ndevices: [{name: '0', containerEdits: {deviceNodes: [{path: /dev/nvidia1}]}}]\n"
    )
    assert node.keys("nvidia.com/gpu=0", "") == {GPU(0)}
    (node.cdi / "plugin.yaml").write_text(
        "kind: nvidia.com/gpu\ndevices: [{name: '0', containerEdits: {deviceNodes: [{path: /dev/nvidia2}, 7]}}, null]\n"
    )
    assert node.keys("nvidia.com/gpu=0", "") == {GPU(2)}, "a changed file is read again"
    (node.cdi / "plugin.yaml").unlink()
    assert node.keys("nvidia.com/gpu=0", "") == set()


@pytest.mark.parametrize("content", ["", "[]", "{", "kind: [", "a: &a [*a]", "7", '{"devices": []}', "x" * 2**20 + "x"])
def test_bad_specifications_are_told_once_and_harm_nobody(
    node: Node, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (node.cdi / "bad.yaml").write_text(content)
    (node.cdi / "bad.json").write_text(content)
    (node.cdi / "README").write_text(content)
    with caplog.at_level(logging.WARNING, "gpu_exporter"):
        assert node.keys("gpu-0") == {GPU(1)}
        assert node.keys("gpu-0") == {GPU(1)}
    assert [Path(vars(record)["file"]).name for record in caplog.records] == ["bad.json", "bad.yaml"]


def test_a_node_without_driver_knows_nothing(tmp_path: Path) -> None:
    devices = DynamicDevices(cdi=[tmp_path / "cdi"], proc=tmp_path / "proc")
    devices.refresh()
    assert devices.keys("gpu.nvidia.com", "gpu-0") == frozenset()


@pytest.fixture(scope="session")
def api() -> Api:
    return load()


@pytest.fixture
def kubelet(api: Api) -> Iterator[tuple[Kubelet, Path]]:
    with socket_folder() as folder, Kubelet(api, folder / "kubelet.sock") as server:
        yield server, folder / "kubelet.sock"


@pytest.fixture
def watch(node: Node, kubelet: tuple[Kubelet, Path]) -> Iterator[Callable[[], KubernetesAllocations]]:
    made = []

    def start() -> KubernetesAllocations:
        resources = OwnersConfig().kubernetes_resources
        made.append(
            KubernetesAllocations(
                socket=kubelet[1],
                resources=resources,
                interval=0.02,
                timeout=patience(),
                devices=node.devices,
                own_pod="me",
            )
        )
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_pods_are_told_by_their_claims(
    api: Api, kubelet: tuple[Kubelet, Path], node: Node, watch: Callable[[], KubernetesAllocations]
) -> None:
    """Whole GPUs, a part of one, one that two pods share, and our own claim on all with adminAccess."""
    server, _ = kubelet
    name = f"k8s.gpu.nvidia.com/claim={CLAIM}-gpu-{{}}".format
    every = [api.claim(name(minor), device=f"gpu-{minor}") for minor in (0, 1, 2)]
    server.answer = api.answer(
        api.pod("train", api.container("main", api.claim(name(0), device="gpu-0"))),
        api.pod("part", api.container("main", api.claim(name("1-mig"), device="gpu-1-mig-1g18gb-19-0"))),
        api.pod("shared-a", api.container("main", api.claim(name(2), device="gpu-2"))),
        api.pod("shared-b", api.container("side", api.claim(name(2), device="gpu-2"))),
        api.pod("me", *(api.container(f"exporter-{number}", claim) for number, claim in enumerate(every))),
    )
    allocations = watch()
    wait_for(lambda: server.asked > 2)

    def owner(pod: str, container: str = "main") -> Identity:
        return Identity(labels={"pod": pod, "namespace": "lab"}, container=container)

    assert allocations.current() == {
        GPU(1): (owner("train"),),
        GPU(0): (owner("part"),),
        GPU(2): (owner("shared-a"), owner("shared-b", "side")),
    }
    # The GPU behind a minor number changes with a reboot, a file with a claim: both are looked at anew.
    node.gpu(0, GPU(2), "0000:43:00.0")
    wait_for(lambda: GPU(1) not in allocations.current())
