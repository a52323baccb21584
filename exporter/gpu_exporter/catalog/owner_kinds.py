"""THE table of owner kinds: what a GPU's time can be charged to, one row a kind. Pure data.

Settings, labels of processes, accounts, the report's rows, the simulated fleet and the JSON's description derive from
it; CONTRIBUTING.md tells how to add a kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple


class Rows(NamedTuple):
    """Rows that the report can have (``--by``). An owner is in one where its kind has the label of every column."""

    by: str
    word: str  # for one row, in the sentences below the table
    columns: tuple[tuple[str, str], ...]  # title, label


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerKind:
    """One kind of owner. Its labels are those of a process, and of an allocation, beside the ones that all have."""

    kind: str  # the value of owner_kind
    labels: tuple[str, ...] = ()  # the first is there for every process of this kind, and for no other
    name: str  # the label that has the owner's name
    namespace: str = ""  # the label that has what the metrics call the owner's namespace
    namespace_is: str = ""  # what that is, where it is no namespace
    told_by: Literal["name", "uid", "namespace"] = "name"  # what stays when a name comes late or changes; else the name
    source: str = ""  # the module of owners/ that tells which GPU was given to whom
    called: str  # how a person asks for the owner, of {name} and {namespace}
    nameless: str = ""  # the same where there is no name
    plural: str
    rows: tuple[Rows, ...]
    simulated: tuple[tuple[str, str], ...] = ()  # of the simulated fleet's work: label, value; see sources/fake


# The first is whom everything is charged to that has no label of another. Of the others the first that fits counts.
OWNER_KINDS: Final = (
    OwnerKind(
        kind="user",
        name="user",
        told_by="uid",
        called="{name}",
        plural="users",
        rows=(Rows("user", "user", (("user", "user"),)),),
    ),
    OwnerKind(
        kind="pod",
        labels=("pod", "namespace"),
        name="pod",
        namespace="namespace",
        source="kubernetes",
        called="{namespace}/{name}",
        plural="pods",
        rows=(
            Rows("pod", "pod", (("namespace", "namespace"), ("pod", "pod"))),
            Rows("namespace", "namespace", (("namespace", "namespace"),)),
        ),
        simulated=(
            ("user", "root"),
            ("container", "{container}"),
            ("pod", "{user}-{program}-{code}"),
            ("namespace", "{team}"),
        ),
    ),
    OwnerKind(
        kind="slurm",
        labels=("slurm_job",),
        name="user",
        namespace="slurm_job",
        namespace_is="job",
        told_by="namespace",  # a job has one user
        source="slurm",
        called="{name}, job {namespace}",
        nameless="job {namespace}",
        plural="Slurm jobs",
        rows=(Rows("slurm", "job", (("user", "user"), ("job", "slurm_job"))),),
        simulated=(("slurm_job", "{number}"),),
    ),
)
BY_KIND: Final[Mapping[str, OwnerKind]] = MappingProxyType({row.kind: row for row in OWNER_KINDS})
KIND_LABELS: Final = tuple(label for row in OWNER_KINDS for label in row.labels)
PROCESS_LABELS: Final = ("pid", "process", "user", "container", *KIND_LABELS)
NAMESPACES_EXPLAINED: Final = "".join(
    f"The namespace of owner_kind {row.kind} is the {row.namespace_is}. " for row in OWNER_KINDS if row.namespace_is
)
