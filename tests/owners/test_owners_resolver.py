"""Names put to processes: /proc, the kubelet and the Slurm prolog joined."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tools.lab.clock import Clock

from gpu_exporter.config import ConfigError, load
from gpu_exporter.model import Device, Identity, Process, Reading
from gpu_exporter.owners import kubernetes
from gpu_exporter.owners.factory import open_resolver
from gpu_exporter.owners.pod_logs import PodNames
from gpu_exporter.owners.resolver import Resolver

DEVICE = Device(0, "GPU-0", "H100")
UIDS = ("0b2c4d6e-1111-4222-8333-444455556666", "0b2c4d6e-7777-4888-8999-aaaabbbbcccc")
PODS = tuple(Identity(labels={"pod": f"train-{number}", "namespace": "ml"}, container="main") for number in range(2))


class Proc:
    """Processes of a machine: pid -> identity and pod uid."""

    def __init__(self, owners: Mapping[int, tuple[Identity, str]], *, trouble: str = "", blind: bool = False) -> None:
        self.owners = owners
        self.visible = not blind
        self.trouble = trouble
        self.listed_at: float | None = None
        self.kept: Sequence[int] = ()
        self.closed = False

    def identity(self, pid: int, *, listed_at: float | None = None) -> Identity | None:
        self.listed_at = listed_at
        return self.owners[pid][0] if pid in self.owners else None

    def pod_uid(self, pid: int) -> str:
        return self.owners[pid][1]

    def forget_but(self, pids: Sequence[int]) -> None:
        self.kept = pids

    def close(self) -> None:
        self.closed = True


class Given:
    """Allocations as somebody tells them."""

    def __init__(self, **devices: Iterable[Identity]) -> None:
        self.devices = {key.replace("_", "-"): tuple(owners) for key, owners in devices.items()}
        self.closed = False

    def current(self) -> Mapping[str, Sequence[Identity]]:
        return self.devices

    def close(self) -> None:
        self.closed = True


def reading(*pids: int, **rest: tuple[str, ...]) -> Reading:
    return Reading(DEVICE, processes=tuple(Process(pid, "compute", 1.0) for pid in pids), **rest)  # type: ignore[arg-type]


def identities(complete: Sequence[Reading]) -> list[Identity | None]:
    return [process.identity for process in complete[0].processes or ()]


def test_processes_get_their_owner_and_those_that_ended_go() -> None:
    alice = Identity("python3", "alice")
    proc = Proc({1: (alice, "")})
    complete = Resolver(processes=proc).name_owners([replace(reading(1, 2), listed_at=7.0)])
    assert identities(complete) == [alice]
    assert proc.kept == [1, 2], "all that are listed"
    assert proc.listed_at == 7.0


def test_an_owner_that_the_source_knows_stands() -> None:
    own = Reading(DEVICE, processes=(Process(1, "compute", identity=Identity("a", "b")),))
    assert Resolver(processes=Proc({})).name_owners([own])[0].processes == own.processes


def test_what_keeps_processes_from_being_seen_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    proc = Proc({1: (Identity("python3", "alice"), ""), 2: (Identity(), "")}, trouble="hidepid")
    resolver = Resolver(processes=proc)
    with caplog.at_level(logging.WARNING):
        resolver.name_owners([reading(1)])
        assert not caplog.records, "all can be seen"
        for _ in range(3):
            assert identities(resolver.name_owners([reading(1, 2)])) == [Identity("python3", "alice"), Identity()]
        proc.trouble = "not mounted"
        resolver.name_owners([reading(2)])
    assert [record.getMessage() for record in caplog.records] == [
        "processes have no owner: hidepid",
        "processes have no owner: not mounted",
    ]


def test_without_a_view_of_the_machine_processes_stay_without_owner(caplog: pytest.LogCaptureFixture) -> None:
    blind = Resolver(processes=Proc({}, trouble="use hostPID: true", blind=True))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert identities(blind.name_owners([reading(1)])) == [Identity()]
    assert [record.getMessage() for record in caplog.records] == ["processes have no owner: use hostPID: true"]


@pytest.mark.parametrize("key", ["GPU_0", "0"])
def test_an_allocation_is_found_by_uuid_and_by_index(key: str) -> None:
    given = Given(**{key: PODS[:1]})
    assert Resolver(allocations=[given]).name_owners([Reading(DEVICE)])[0].allocations == PODS[:1]


def test_a_device_named_twice_is_held_once() -> None:
    given = Given(GPU_0=PODS[:1], **{"0": PODS[:1]})
    other = Given(GPU_0=[Identity(labels={"pod": "train-0", "namespace": "ml"}, container="sidecar")])
    assert Resolver(allocations=[given, other]).name_owners([Reading(DEVICE)])[0].allocations == PODS[:1]


def test_allocations_of_mig_devices_belong_to_their_gpu() -> None:
    given = Given(MIG_1=PODS[:1], MIG_2=PODS[1:])
    complete = Resolver(allocations=[given]).name_owners([Reading(DEVICE, mig_uuids=("MIG-1", "MIG-2"))])
    assert complete[0].allocations == PODS
    assert complete[0].mig_allocations == {"MIG-1": PODS[:1], "MIG-2": PODS[1:]}


def test_a_process_in_the_only_pod_of_its_device_is_that_pods() -> None:
    proc = Proc({1: (Identity("python3", "root", "c0ffee"), UIDS[0])})
    complete = Resolver(processes=proc, allocations=[Given(GPU_0=PODS[:1])]).name_owners([reading(1)])
    assert identities(complete) == [Identity("python3", "root", "c0ffee", {"pod": "train-0", "namespace": "ml"})]


def test_of_pods_that_share_a_device_the_log_folders_tell(tmp_path: Path) -> None:
    proc = Proc({1: (Identity("a"), UIDS[0]), 2: (Identity("b"), UIDS[1]), 3: (Identity("c", "carol"), "")})
    shared = Given(GPU_0=PODS)
    blind = Resolver(processes=proc, allocations=[shared], pods=PodNames(folders=[tmp_path / "none"]))
    assert identities(blind.name_owners([reading(1, 2)])) == [Identity("a"), Identity("b")], "never guessed"
    for place, uid in enumerate(UIDS):
        (tmp_path / f"ml_train-{place}_{uid}").mkdir()
    (tmp_path / "something-else").mkdir()
    told = Resolver(processes=proc, allocations=[shared], pods=PodNames(folders=[tmp_path]))
    assert identities(told.name_owners([reading(1, 2, 3)])) == [
        Identity("a", labels={"pod": "train-0", "namespace": "ml"}),
        Identity("b", labels={"pod": "train-1", "namespace": "ml"}),
        Identity("c", "carol"),
    ]


def test_a_process_on_a_mig_device_is_of_the_pod_that_was_given_it() -> None:
    proc = Proc({1: (Identity("a"), UIDS[0])})
    on_mig = Reading(DEVICE, processes=(Process(1, "compute", 1.0, mig_uuid="MIG-2"),), mig_uuids=("MIG-1", "MIG-2"))
    given = Given(MIG_1=PODS[:1], MIG_2=PODS[1:])
    complete = Resolver(processes=proc, allocations=[given]).name_owners([on_mig])
    assert identities(complete) == [Identity("a", labels={"pod": "train-1", "namespace": "ml"})]


def test_unknown_pods_are_looked_for_every_ten_seconds(tmp_path: Path) -> None:
    clock = Clock()
    pods = PodNames(folders=[tmp_path], monotonic=clock)
    assert pods.name(UIDS[0]) is None
    (tmp_path / f"ml_train-0_{UIDS[0]}").mkdir()
    assert pods.name(UIDS[0]) is None
    clock.now = 10.0
    assert pods.name(UIDS[0]) == ("ml", "train-0")


def test_a_job_without_cgroups_is_known_by_its_user() -> None:
    proc = Proc(
        {
            1: (Identity("a", "alice"), ""),
            2: (Identity("b", "bob"), ""),
            3: (Identity("c", "alice", labels={"slurm_job": "9"}), ""),
        }
    )
    job = Identity(user="alice", labels={"slurm_job": "4711"})
    complete = Resolver(processes=proc, allocations=[Given(GPU_0=[job])]).name_owners([reading(1, 2, 3)])
    assert [who.labels for who in identities(complete) if who] == [{"slurm_job": "4711"}, {}, {"slurm_job": "9"}]


def test_a_job_without_cgroups_is_known_by_its_uid_before_it_has_a_name() -> None:
    proc = Proc({1: (Identity("a", "alice", uid=1000), ""), 2: (Identity("b", "alice", uid=1001), "")})
    job = Identity(user="1000", labels={"slurm_job": "4711"}, uid=1000)
    complete = Resolver(processes=proc, allocations=[Given(GPU_0=[job])]).name_owners([reading(1, 2)])
    assert [who.labels for who in identities(complete) if who] == [{"slurm_job": "4711"}, {}]


def test_a_job_is_its_users_as_whomever_its_processes_run() -> None:
    """The prolog's word counts, on whichever GPU it has told the job."""
    inside = Identity("a", "166535", "4f797c539e6c", {"slurm_job": "4711"}, uid=166535)
    proc = Proc({1: (inside, ""), 2: (Identity("b", "bob", labels={"slurm_job": "12"}), "")})
    job = Identity(user="alice", labels={"slurm_job": "4711"})
    complete = Resolver(processes=proc, allocations=[Given(GPU_7=[job])]).name_owners([reading(1, 2)])
    assert [(who.user, who.uid) for who in identities(complete) if who] == [("alice", None), ("bob", None)]


def test_closing_closes_everything() -> None:
    proc, given = Proc({}), Given()
    Resolver(processes=proc, allocations=[given]).close()
    assert proc.closed
    assert given.closed


def test_the_settings_make_a_resolver(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("4711 alice physics\n")
    made = open_resolver(load(None, {"owners.slurm_directory": ("--owners.slurm-directory", str(tmp_path))}))
    try:
        assert made.name_owners([Reading(DEVICE)])[0].allocations == (
            Identity(user="alice", labels={"slurm_job": "4711"}),
        )
    finally:
        made.close()


def test_a_missing_extra_is_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise kubernetes.MissingExtraError("asking the kubelet needs h2")

    monkeypatch.setattr("gpu_exporter.owners.kubernetes.KubernetesAllocations", refuse)
    config = load(None, {"owners.kubernetes": ("--owners.kubernetes", "true")})
    with pytest.raises(ConfigError, match=r"owners\.kubernetes: asking the kubelet needs h2"):
        open_resolver(config)
