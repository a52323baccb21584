"""What a process's control groups tell, as their paths are seen in the wild."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_exporter.owners.cgroups import Cgroup, parse_cgroup
from proc_tree import HASH, ID, INNER, POD, POD_OF, SLICE

CGROUPS = {
    # no container, no job
    "v2 session": ("0::/user.slice/user-1000.slice/session-3.scope", Cgroup(user_slice=1000)),
    "v2 user manager": (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
        Cgroup(user_slice=1000),
    ),
    "v2 service": ("0::/system.slice/nvidia-persistenced.service", Cgroup()),
    "v2 root": ("0::/", Cgroup()),
    "v1 root": ("4:memory:/\n1:name=systemd:/\n0::/", Cgroup()),
    "kernel without cgroups": ("", Cgroup()),
    "hash too short": (f"0::/docker/{ID[:40]}", Cgroup()),
    "hash too long": (f"0::/docker/{ID}ab", Cgroup()),
    # Docker
    "docker v1 cgroupfs": (f"5:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}", Cgroup(container=ID)),
    "docker v1 systemd": (f"10:devices:/system.slice/docker-{ID}.scope", Cgroup(container=ID)),
    "docker v2 cgroupfs": (f"0::/docker/{ID}", Cgroup(container=ID)),
    "docker v2 systemd": (f"0::/system.slice/docker-{ID}.scope", Cgroup(container=ID)),
    "docker v2 systemd, removed": (f"0::/system.slice/docker-{ID}.scope (deleted)", Cgroup(container=ID)),
    "docker rootless": (
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
        Cgroup(container=ID, user_slice=1000),
    ),
    "docker from a private cgroup namespace": (f"0::/../docker-{ID}.scope", Cgroup(container=ID)),
    "v1 hybrid, one line only": (f"5:memory:/\n3:cpu:/docker/{ID}\n0::/", Cgroup(container=ID)),
    "v1 named hierarchy with a colon": (f"1:name=a:b:/x\n2:devices:/docker/{ID}", Cgroup(container=ID)),
    "docker in docker": (f"0::/docker/{ID}/docker/{INNER}", Cgroup(container=ID)),
    "docker in docker, systemd": (f"0::/system.slice/docker-{ID}.scope/docker/{INNER}", Cgroup(container=ID)),
    "systemd in docker": (
        f"0::/docker/{ID}/user.slice/user-1000.slice/session-1.scope",
        Cgroup(container=ID),
    ),
    "nerdctl": (f"0::/system.slice/nerdctl-{ID}.scope", Cgroup(container=ID)),
    # Podman
    "podman v1": (f"4:memory:/machine.slice/libpod-{ID}.scope", Cgroup(container=ID)),
    "podman v2": (f"0::/machine.slice/libpod-{ID}.scope/container", Cgroup(container=ID)),
    "podman cgroupfs": (f"0::/libpod_parent/libpod-{ID}", Cgroup(container=ID)),
    "podman rootless": (
        f"0::/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{ID}.scope/container",
        Cgroup(container=ID, user_slice=1001),
    ),
    # Kubernetes
    "containerd v1 cgroupfs": (f"4:memory:/kubepods/burstable/pod{POD}/{ID}", POD_OF),
    "containerd v1 cgroupfs, guaranteed": (f"4:memory:/kubepods/pod{POD}/{ID}", POD_OF),
    "containerd v1 systemd by the kubelet only": (
        f"4:memory:/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}",
        POD_OF,
    ),
    "containerd v2 cgroupfs": (f"0::/kubepods/besteffort/pod{POD}/{ID}", POD_OF),
    "containerd v2 systemd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "containerd v2 guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "cri-o v1": (f"9:devices:/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope", POD_OF),
    "cri-o v2": (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope/container", POD_OF),
    "dockershim": (f"4:memory:/kubepods.slice/kubepods-burstable.slice/{SLICE}/docker-{ID}.scope", POD_OF),
    "another pod, from a private cgroup namespace": (f"0::/../../{SLICE}/cri-containerd-{ID}.scope", POD_OF),
    "another pod, from a private cgroup namespace, cgroupfs": (f"0::/../../pod{POD}/{ID}", POD_OF),
    "static pod": (
        f"0::/kubepods.slice/kubepods-pod{HASH}.slice/cri-containerd-{ID}.scope",
        Cgroup(container=ID, pod_uid=HASH),
    ),
    "pod without a container": (f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}", Cgroup(pod_uid=POD)),
    "kind: a pod in a container": (
        f"0::/docker/{INNER}/kubelet.slice/kubelet-kubepods.slice/kubelet-{SLICE}/cri-containerd-{ID}.scope",
        POD_OF,
    ),
    "docker in a pod": (
        f"0::/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope/docker/{INNER}",
        POD_OF,
    ),
    # Slurm
    "slurm v1": (
        "4:memory:/slurm/uid_1000/job_123/step_0\n3:cpuset:/slurm/uid_1000/job_123/step_0/task_1\n1:name=systemd:/x",
        Cgroup(slurm_job="123"),
    ),
    "slurm v1 with a node name": (
        "9:devices:/slurm_gpu07/uid_1000/job_123/step_batch/task_0",
        Cgroup(slurm_job="123"),
    ),
    "slurm v1, the step on a later line": (
        "9:devices:/slurm/uid_1000/job_123\n4:memory:/slurm/uid_1000/job_123/step_extern",
        Cgroup(slurm_job="123"),
    ),
    "slurm v2": (
        "0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_0",
        Cgroup(slurm_job="123"),
    ),
    "slurm v2 extern": (
        "0::/system.slice/slurmstepd.scope/job_123/step_extern/user/task_special",
        Cgroup(slurm_job="123"),
    ),
    "slurm v2 several slurmd": (
        "0::/system.slice/gpu07_slurmstepd.scope/job_123/step_interactive/user/task_0",
        Cgroup(slurm_job="123"),
    ),
    "slurm v2 itself": ("0::/system.slice/slurmstepd.scope/system", Cgroup()),
    "container in a slurm job": (
        f"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/libpod-{ID}.scope",
        Cgroup(container=ID, slurm_job="7"),
    ),
    "a job that a user made up": (
        "0::/user.slice/user-666.slice/user@666.service/slurmstepd.scope/job_123/step_0",
        Cgroup(user_slice=666),
    ),
    "a pod that a user made up": (
        f"0::/user.slice/user-666.slice/user@666.service/kubepods/pod{POD}/x",
        Cgroup(user_slice=666),
    ),
    "a directory that looks like a job": ("0::/system.slice/job_123/step_0", Cgroup()),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_cgroup_paths(case: str) -> None:
    text, expected = CGROUPS[case]
    assert parse_cgroup(text) == expected
    assert parse_cgroup(text + "\n") == expected


pieces = st.sampled_from(
    [
        *("/", ":", "-", "_", "\n", "0::", "..", ID, POD, SLICE, "pod", "kubepods", ".slice", ".scope", "docker"),
        *("libpod", "slurmstepd.scope", "job_", "step_", "uid_", "user-", "123", " (deleted)", "\u2028", "\x85"),
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=40).map("".join)))
def test_no_cgroup_text_is_too_strange(text: str) -> None:
    found = parse_cgroup(text)
    assert found.container == "" or (len(found.container) == 64 and set(found.container) <= set("0123456789abcdef"))
    assert found.pod_uid == "" or (len(found.pod_uid) in {32, 36} and "_" not in found.pod_uid)
    assert found.slurm_job == "" or found.slurm_job.isdigit()


@pytest.mark.parametrize("piece", ["a-", "/", "pod", "0", "/pod", "-pod", "job_1/", "/user-", "slurmstepd.scope/"])
def test_long_paths_cost_little(piece: str) -> None:
    started = time.process_time()
    parse_cgroup("0::/" + piece * 100_000)
    # Takes 50 ms; what grows with the square of the length takes minutes.
    assert time.process_time() - started < 20, "not quadratic"


@pytest.mark.parametrize(
    ("text", "uid"),
    [
        ("9:devices:/slurm/uid_1000/job_123/step_batch/task_0", 1000),
        ("9:devices:/system.slice/slurmstepd.scope/job_123\n4:memory:/slurm/uid_1000/job_123", 1000),
        ("0::/system.slice/slurmstepd.scope/job_123/step_0", None),
        ("0::/user.slice/user-1001.slice/uid_1000/job_123", None),
    ],
)
def test_version_one_tells_the_jobs_user(text: str, uid: int | None) -> None:
    assert parse_cgroup(text).slurm_uid == uid
