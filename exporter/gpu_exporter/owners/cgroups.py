"""What the control groups of a process tell of its container, its pod and its Slurm job."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

_UUID: Final = "[0-9a-f]{8}([-_])[0-9a-f]{4}(?:[-_][0-9a-f]{4}){2}[-_][0-9a-f]{12}"
# /kubepods/burstable/pod<uid>/<id> · kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope · and what containerd
# makes of the systemd form on cgroup v1 with its own driver: kubepods-…-pod<uid>.slice:cri-containerd:<id>.
# Static pods have 32 hexadecimal digits (their file's hash) for a uid.
_POD: Final = re.compile(rf"(?:^|[/-])pod({_UUID}|[0-9a-f]{{32}})(?:\.slice)?(?=[/:]|$)")
# docker-<id>.scope · libpod-<id>.scope · crio-<id>.scope · cri-containerd-<id>.scope · nerdctl-<id>.scope · …/<id>
_CONTAINER: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
# v1: /slurm[_node]/uid_<uid>/job_<job>[/…] · v2: …/[node_]slurmstepd.scope/job_<job>[/…]
_SLURM: Final = re.compile(r"/(?:[^/]*slurmstepd\.scope|uid_([0-9]{1,10}))/job_([0-9]{1,20})(?=/|$)")
_USER_SLICE: Final = re.compile(r"/user-([0-9]{1,10})\.slice(?=/|$)")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """What a process's cgroup path tells. ``container`` is the whole identifier, of 64 hexadecimal digits.

    ``user_slice`` is the uid of the login session or user manager that the process lives below, ``slurm_uid`` that of
    the job's user, where the path tells it (v1).
    """

    container: str = ""
    pod_uid: str = ""
    slurm_job: str = ""
    user_slice: int | None = None
    slurm_uid: int | None = field(default=None, compare=False)  # the job tells it


def parse_cgroup(text: str) -> Cgroup:
    """Read a ``/proc/PID/cgroup``, of cgroup v1, v2 or both.

    Paths may begin with ``/..`` where our own cgroup namespace is not the host's. Of nested containers the one directly
    below the pod counts, else the outermost: that is the one which the host's own tools list.
    """
    found = Cgroup()
    for line in text.split("\n"):
        _, _, path = line.partition(":")[2].partition(":")
        if path in {"", "/"}:
            continue
        path = path.removesuffix(" (deleted)")
        pod = _POD.search(path)
        container = _CONTAINER.search(path, pod.end()) if pod else _CONTAINER.search(path)
        slurm = _SLURM.search(path)
        user = _USER_SLICE.search(path)
        if user and slurm and user.start() < slurm.start():
            slurm = None  # below their own slice users name cgroups as they like, a stranger's job included
        if user and pod and user.start() < pod.start():
            pod = None  # and so the pod of a stranger
        if user and container and user.start() > container.start():
            user = None  # a user of the container, not of the host
        if pod and not found.pod_uid:
            # The systemd driver writes underscores: a dash in a slice's name means a parent.
            container_id = container[1] if container else ""
            found = replace(found, pod_uid=pod[1].replace("_", "-"), container=container_id or found.container)
        elif container and not found.container:
            found = replace(found, container=container[1])
        if slurm and not found.slurm_job:
            found = replace(found, slurm_job=slurm[2])
        if slurm and slurm[1] and found.slurm_uid is None:
            found = replace(found, slurm_uid=int(slurm[1]))
        if user and found.user_slice is None:
            found = replace(found, user_slice=int(user[1]))
    return found
