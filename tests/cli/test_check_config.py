"""check-config knows an exporter's configuration, a list of machines and a hub.yml apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tools.lab.exporter import run


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nodes.yml", "- targets: ['gpu-a:9435', '[fd00::11]:9435']\n  labels: {rack: R12}\n", "ok, 2 machines"),
        ("anything.yml", "- targets: ['gpu-a:9435']\n", "ok, 1 machine"),
        ("machines.json", '[{"targets": ["gpu-a:9435"]}]', "ok, 1 machine"),
        ("nodes.yml", "", "ok, 0 machines"),
        ("hub.yml", "", "ok"),
        ("hub.yml", "interval: 10s\ndns: {server: 10.0.0.2}\nthresholds: {idle: 5%}\n", "ok"),
        ("whatever.yml", "window: 7d\nweights: {utilization: 1, memory_io: 0, memory_used: 0, power: 0}\n", "ok"),
        ("exporter.yml", "collection: {interval: 10s}\n", "ok"),
        ("hub-machine.yml", "collection: {interval: 10s}\n", "ok"),
    ],
)
def test_what_is_accepted(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    done = run("check-config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: {said}\n", "")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nodes.yml", "- targets: [gpu-a]\n", "[0].targets: 'gpu-a' is not an exporter's address; write 'gpu-a:9435'"),
        ("nodes.yml", "targets: ['gpu-a:9435']\n", "is not a list; write one item a line"),
        ("nodes.yml", "- target: ['gpu-a:9435']\n", "[0].target: unknown key; write one of targets, labels"),
        ("machines.json", "[", "is not JSON: line 1"),
        ("hub.yml", "intervall: 5s\n", "intervall: unknown key; write one of interval, timeout, scheme"),
        ("hub.yml", "interval: 5\n", "interval: '5' is not a duration; write 5s"),
        ("x.yml", "window: 7d\nprice: cheap\n", "price: 'cheap' is not a price; write a number such as 2.50"),
        ("hub.yml", "http_config: {basic_auth: {username: a, password_file: none}}\n", "none' cannot be read"),
        (
            "hub.yml",
            "control: {http_config: {tls_config: {ca_file: none}}}\n",
            "control.http_config.tls_config.ca_file",
        ),
        ("exporter.yml", "collection: {intervall: 10s}\n", "collection.intervall: unknown key"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    done = run("check-config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}: " in done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_by_the_hub_s_own_flags(tmp_path: Path) -> None:
    nodes, hub = tmp_path / "a.yml", tmp_path / "b.yml"
    nodes.write_text("- targets: ['gpu-a:9435', 'gpu-a:9435']\n")
    hub.write_text("interval: 10s\n")
    done = run("check-config", f"--nodes.file={nodes}", f"--hub.config.file={hub}")
    assert (done.returncode, done.stdout) == (0, f"{nodes}: ok, 1 machine\n{hub}: ok\n")
    assert done.stderr == "note: a.yml: 'gpu-a:9435' stands there twice; it is asked once\n"
    for flag in ("--nodes.file", "--hub.config.file"):
        done = run("check-config", f"{flag}={tmp_path / 'none.yml'}")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "none.yml: cannot be read: No such file or directory" in done.stderr
    assert run("check-config").returncode == 2


def test_a_file_that_may_not_be_read_is_told_like_any_other(tmp_path: Path) -> None:
    """Also where click would look first; root may read everything but what stands in the way of a path."""
    (tmp_path / "file").write_text("interval: 10s\n")
    (tmp_path / "file").chmod(0)
    done = run("check-config", str(tmp_path / "file" if os.getuid() else tmp_path / "file/below"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ": cannot be read: " in done.stderr
