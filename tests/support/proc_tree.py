"""A /proc made of files, and what control groups call containers and pods."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gpu_exporter.owners.cgroups import Cgroup
from gpu_exporter.owners.procfs import ProcfsIdentities
from gpu_exporter.owners.user_names import UserNames

ID = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970"
INNER = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"
POD = "0d1f3c2a-7b64-4c1e-9a55-3e0f6b7c8d90"
SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
HASH = "a3f5c7e9b1d2468aa3f5c7e9b1d2468a"
POD_OF = Cgroup(container=ID, pod_uid=POD)


class Tree:
    """A /proc with what a test puts there, and the /etc beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "proc"
        self.passwd = folder / "etc/passwd"
        self.passwd.parent.mkdir()
        self.passwd.write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
        (self.root / "self/ns").mkdir(parents=True)
        self.namespace(4026531836)
        self.process(1, start=0, comm="systemd", exe=None, uid=0)

    def hide(self) -> None:
        """Hide everything, as hidepid=2 does with processes of others; what is made afterwards is our own."""
        for folder in self.root.iterdir():
            if folder.name.isdigit():
                shutil.rmtree(folder)

    def namespace(self, inode: int) -> None:
        link = self.root / "self/ns/pid"
        link.unlink(missing_ok=True)
        link.symlink_to(f"pid:[{inode}]")

    def process(
        self,
        pid: int,
        *,
        start: int = 5000,
        comm: str = "python3",
        exe: str | bytes | None = "/usr/bin/python3.11",
        uid: int = 1000,
        cgroup: str = "0::/\n",
    ) -> Path:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", "1", *["0"] * 17, str(start), *["0"] * 30]
        (folder / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "status").write_text(f"Name:\t{comm}\nUmask:\t0022\nUid:\t{uid}\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "exe").unlink(missing_ok=True)
        if exe is not None:
            (folder / "exe").symlink_to(os.fsdecode(exe))
        return folder

    def owners(self, **rest: object) -> ProcfsIdentities:
        return ProcfsIdentities(root=self.root, names=UserNames(passwd=self.passwd, resolve=None), **rest)  # type: ignore[arg-type]
