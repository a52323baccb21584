"""The table of owner kinds: that it is sound, that what must name kinds by hand does, that a new row suffices."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import environment
from tools.lab.wait import patience

from gpu_exporter.catalog.owner_kinds import KIND_LABELS, OWNER_KINDS, PROCESS_LABELS, OwnerKind

TABLE = "exporter/gpu_exporter/catalog/owner_kinds.py"
EVERYBODY, *OTHERS = OWNER_KINDS
REPORTS = [rows.by for kind in OWNER_KINDS for rows in kind.rows]


# --- the table --------------------------------------------------------------------------------------------------------


def test_only_the_first_kind_needs_no_label_of_its_own() -> None:
    assert not EVERYBODY.labels
    assert all(kind.labels for kind in OTHERS), "an owner of that kind could not be told from one of the first"


def test_nothing_is_named_twice() -> None:
    for names in ([kind.kind for kind in OWNER_KINDS], PROCESS_LABELS, REPORTS):
        assert len(set(names)) == len(names), f"{TABLE}: a name stands twice in {names}"


@pytest.mark.parametrize("kind", OWNER_KINDS, ids=lambda kind: kind.kind)
def test_a_row_refers_to_labels_that_there_are(kind: OwnerKind) -> None:
    own = {"process", "user", "container", *kind.labels}
    assert {kind.name, kind.namespace or kind.name} <= own
    assert {label for rows in kind.rows for _, label in rows.columns} <= {kind.name, kind.namespace}
    assert {label for label, _ in kind.simulated} <= own
    assert set(kind.labels) <= {label for label, _ in kind.simulated}, "the simulated fleet shows every label"
    assert kind.called.format(name="alice", namespace="17") != kind.nameless.format(namespace="17")


@pytest.mark.parametrize("kind", [kind for kind in OWNER_KINDS if kind.source], ids=lambda kind: kind.kind)
def test_a_source_can_be_opened(kind: OwnerKind) -> None:
    assert callable(import_module(f"gpu_exporter.owners.{kind.source}").open_allocations)


# --- what names kinds by hand -----------------------------------------------------------------------------------------

BY_HAND: Mapping[
    str, Sequence[tuple[str, Sequence[str]]]
] = {  # file: (what the line holds that names them, what it must name)
    "helm/gpu-exporter/values.yaml": [(r"\(one of .* simulated work is done", [kind.kind for kind in OWNER_KINDS])],
    "deploy/alertmanager/templates/owners.tmpl": [
        (r"What comes in: .CommonLabels.owner_kind", [kind.kind for kind in OWNER_KINDS]),
        # Whose owner is no user has no mailbox of that name.
        (r"eq \$kind", [f'eq $kind "{kind.kind}"' for kind in OWNER_KINDS if kind.name != "user"]),
    ],
    "deploy/grafana/build/parts.py": [
        (r'labels = ".*\bpid\b', KIND_LABELS),
        *((rf'"{label}": Column', [label]) for label in KIND_LABELS),
    ],
    "docs/OWNERS.md": [(rf"^\| .* \| `{kind.kind}` \|", [kind.kind]) for kind in OWNER_KINDS],
    "docs/REPORT.md": [(rf"^\| `{by}`", [by]) for by in REPORTS],
    "docs/SCENARIOS.md": [
        (r"fleet's own work is done by", [f"--fake.owners {kind.kind}" for kind in OTHERS]),
        (r"^\| `process` \|", [f"`{label}`" for label in KIND_LABELS]),
    ],
}


@pytest.mark.parametrize("path", BY_HAND)
def test_what_names_kinds_by_hand_names_all(path: str) -> None:
    lines = (ROOT / path).read_text().splitlines()
    for holds, names in BY_HAND[path]:
        found = [number for number, line in enumerate(lines, 1) if re.search(holds, line)]
        assert found, f"{path}: no line like '{holds}'; {TABLE} has {', '.join(names)}: write one"
        text = "\n".join(lines[number - 1] for number in found)
        lacks = [name for name in names if name not in text]
        assert not lacks, f"{path}:{found[0]}: lacks {', '.join(lacks)}, which {TABLE} has"


# --- an invented kind -------------------------------------------------------------------------------------------------

ROW = """\
    OwnerKind(
        kind="ray",
        labels=("ray_job",),
        name="user",
        namespace="ray_job",
        namespace_is="Ray job",
        source="ray",
        called="{name}, Ray job {namespace}",
        nameless="Ray job {namespace}",
        plural="Ray jobs",
        rows=(Rows("ray", "Ray job", (("user", "user"), ("ray_job", "ray_job"))),),
        simulated=(("ray_job", "raysubmit_{code}"),),
    ),
"""
MODULE = '''\
"""Which Ray job was given which GPU."""

from gpu_exporter.model import Identity


class RayJobs:
    def current(self):
        return {"GPU-0": (Identity(user="alice", labels={"ray_job": "17"}),)}

    def close(self):
        pass


def open_allocations(config, user_name):
    return RayJobs()
'''


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with one row and one module more, as CONTRIBUTING.md tells."""
    folder = tmp_path_factory.mktemp("ray")
    package = folder / "gpu_exporter"
    shutil.copytree(ROOT / "exporter/gpu_exporter", package, ignore=shutil.ignore_patterns("__pycache__"))
    table = package / "catalog/owner_kinds.py"
    text = table.read_text()
    assert text.count("\n)\nBY_KIND") == 1
    table.write_text(text.replace("\n)\nBY_KIND", f"\n{ROW})\nBY_KIND"))
    (package / "owners/ray.py").write_text(MODULE)
    return folder


def python(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment({"PYTHONPATH": str(folder)}),
        capture_output=True,
        text=True,
        timeout=patience(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exporter(folder: Path, *arguments: str) -> str:
    return python(folder, "-m", "gpu_exporter", *arguments)


def labels_of(page: str, name: str, wanted: Sequence[str]) -> set[tuple[str, ...]]:
    """The values that the series of that name have of some labels."""
    series = re.findall(rf"^{name}\{{(.*)\}}", page, re.MULTILINE)
    told = [dict(re.findall(r'(\w+)="(.*?)"', labels)) for labels in series]
    return {tuple(labels.get(name, "") for name in wanted) for labels in told}


def owners(page: str) -> set[tuple[str, ...]]:
    return labels_of(page, "gpu_owner_memory_used_bytes", ("owner_kind", "owner", "namespace"))


def test_a_new_kind_can_be_simulated(ray: Path) -> None:
    fake = ("--source=fake", "--fake.gpus=3", "--fake.owners=ray")
    page = exporter(ray, "sample", "--format=prometheus", *fake)
    processes = labels_of(page, "gpu_process_memory_used_bytes", ("user", "ray_job"))
    assert processes, "a notebook holds one of the three at any time"
    assert owners(page) == {("ray", *process) for process in processes}
    assert all(job.startswith("raysubmit_") for _, job in processes)
    ((user, job), *_) = processes
    assert f"{user}, Ray job {job}" in exporter(ray, "sample", *fake)


def test_a_story_can_tell_of_a_new_kind(ray: Path) -> None:
    story = ray / "story.yaml"
    process = "{pid: 7, user: bob, ray_job: '18', memory: 1GiB}"
    story.write_text(f"events: [{{at: 0s, gpu: 0, fault: process, process: {process}}}]")
    fake = ("--source=fake", "--fake.gpus=1", f"--fake.scenario={story}")
    assert ("ray", "bob", "18") in owners(exporter(ray, "sample", "--format=prometheus", *fake))


def test_a_new_kind_is_documented(ray: Path) -> None:
    assert "The namespace of owner_kind ray is the Ray job." in exporter(ray, "metrics")
    assert "`ray_job`" in exporter(ray, "metrics")
    assert "slurm|ray|gpu" in exporter(ray, "report", "--help")
    printed = python(
        ray,
        "-c",
        "from gpu_exporter.pages.openapi import description; print(description(telemetry_path='/metrics').decode())",
    )
    properties = json.loads(printed)["components"]["schemas"]["Process"]["properties"]
    assert {*PROCESS_LABELS, "ray_job"} <= set(properties)


def test_a_new_kind_holds_what_it_was_given(ray: Path) -> None:
    script = """
from gpu_exporter.config import Config
from gpu_exporter.model import Device, Identity, Process, Reading
from gpu_exporter.owners.factory import open_resolver
from gpu_exporter.owners.resolver import _in_allocation
from gpu_exporter.sampling.tenancy import holder_names, holds
resolver = open_resolver(Config())
(reading,) = resolver.name_owners([Reading(Device(0, "GPU-0", "H100"))])
resolver.close()
print([tuple(hold.owner) for hold in holds(reading, more_than=0)], holder_names(reading))
print(*(_in_allocation(Identity("python3", user), reading.allocations).labels for user in ("alice", "bob")))
"""
    assert python(ray, "-c", script).splitlines() == [
        "[('ray', 'alice', '17')] ['alice, Ray job 17']",
        "{'ray_job': '17'} {}",
    ]


def test_the_report_has_rows_of_a_new_kind(ray: Path) -> None:
    script = """
import sys
from types import SimpleNamespace
from gpu_exporter.model import Owner
from gpu_exporter.report.history import Gpu, Grid, Hold
from gpu_exporter.report.render import as_csv, table
from gpu_exporter.report.waste import report
gpu = Gpu("", "a:9435", "0", "GPU-0")
owners = (Owner("ray", "alice", "17"), Owner("user", "alice", ""), Owner("pod", "web", "ml"))
holds = {owner: Hold(gpu, owner, {"active": 3600.0}) for owner in owners}
grid = Grid.of(3600.0, 0.0)
history = SimpleNamespace(holds=holds, gpus={}, covered=3600.0, grid=grid)
for by in ("ray", "user", "pod"):
    made = report(history, by=by, grid=grid, warnings=())
    print(*(",".join(line.split(",")[1:4]) for line in as_csv(made).splitlines()), sep=" | ")
    print(next(line for line in table(made).splitlines() if ": 0 idle" in line))
"""
    assert python(ray, "-c", script).splitlines() == [
        "user,ray_job,gpus | alice,17,1 | (not in Ray jobs),,1",
        "1 Ray job: 0 idle, 0 low, 0 normal, 0 high",
        "user,gpus,held_hours | alice,1,2.0 | (pods),1,1.0",
        "1 user: 0 idle, 0 low, 0 normal, 0 high",
        "namespace,pod,gpus | ml,web,1 | (not in pods),,1",
        "1 pod: 0 idle, 0 low, 0 normal, 0 high",
    ]
