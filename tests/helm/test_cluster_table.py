"""The table that closes `make test-cluster`, of lives that somebody else lived."""

from __future__ import annotations

from helm.lives import Life, table


def test_it_tells_what_lived_where_and_what_was_refused_for_which_reason() -> None:
    why = {"DaemonSet": "host namespaces (hostPID=true)"}
    lives = [
        *(Life("default", helm, "baseline", {}, well=True) for helm in ("helm3", "helm4")),
        Life("processes", "helm4", "baseline", why, well=True),
        Life("processes", "helm3", "baseline", why, well=True),
        Life("processes", "helm3", "privileged", {}, well=False),
    ]
    lines = [" ".join(line.split()) for line in table(lives)]
    assert lines == [
        "file privileged baseline restricted",
        "default 3: runs, 4: runs",
        "processes 3: FAILED 3: refused, 4: refused",
        "4 of 5 releases were installed, upgraded, rolled back, tested and uninstalled",
        "refused: the level admits no pod of some workload; its object is made all the same",
        "baseline refuses processes's DaemonSet (helm3, helm4): host namespaces (hostPID=true)",
    ]
