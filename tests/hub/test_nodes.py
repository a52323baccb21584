"""nodes.yml: Prometheus's file of targets, with its mistakes told in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.lab import ROOT

from gpu_exporter.config import ConfigError
from gpu_exporter.hub import nodes


def load(tmp_path: Path, text: str, name: str = "nodes.yml") -> nodes.Nodes:
    file = tmp_path / name
    file.write_text(text)
    return nodes.load(file)


def test_order_aliases_and_labels_are_kept(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        - targets: ['zeta:9435']
          labels: {alias: last, rack: R1}
        - targets: ['10.0.0.2:9435', '[fd00::11]:9436']
          labels: {rack: 12, room: ''}
        - targets: ['alpha.example.org:9435']
          labels: {alias: first, __scheme__: https, __meta_x: y}
        """,
    )
    assert [node.name for node in found.nodes] == ["last", "10.0.0.2:9435", "[fd00::11]:9436", "first"]
    assert [dict(node.labels) for node in found.nodes] == [{"rack": "R1"}, *2 * [{"rack": "12", "room": ""}], {}]
    assert [(node.host, node.port, node.scheme) for node in found.nodes[2:]] == [
        ("fd00::11", 9436, ""),
        ("alpha.example.org", 9435, "https"),
    ]
    assert found.notes == ()


def test_json_is_the_same(tmp_path: Path) -> None:
    text = json.dumps([{"targets": ["a:1", "b:2"], "labels": {"rack": "R1"}}])
    assert load(tmp_path, text, "nodes.json") == load(tmp_path, text)


@pytest.mark.parametrize("text", ["", "[]", "# nothing yet\n"])
def test_no_machine_yet(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).nodes == ()


def test_the_file_that_is_shipped() -> None:
    assert [node.name for node in nodes.load(ROOT / "deploy/prometheus/nodes.yml").nodes] == [
        "gpu-a",
        "gpu-b",
        "dgx-lab",
    ]


def test_what_stands_there_twice_is_asked_once_and_told(tmp_path: Path) -> None:
    found = load(tmp_path, "- targets: ['a:1', 'b:1', 'A:1']\n- targets: ['b:1']\n")
    assert [node.name for node in found.nodes] == ["a:1", "b:1"]
    assert found.notes == (
        "nodes.yml: 'A:1' stands there twice; it is asked once",
        "nodes.yml: 'b:1' stands there twice; it is asked once",
    )


def test_machines_with_one_alias_are_told_apart(tmp_path: Path) -> None:
    found = load(
        tmp_path, "- targets: ['a:1', 'b:1']\n  labels: {alias: lab}\n- targets: ['c:1']\n  labels: {alias: x}\n"
    )
    assert [node.name for node in found.nodes] == ["lab (a:1)", "lab (b:1)", "x"]
    assert "'lab' is the alias of several machines" in found.notes[0]


def test_names_are_unique_whatever_aliases_say(tmp_path: Path) -> None:
    text = """
    - {targets: ['a:1'], labels: {alias: 'b:1'}}
    - {targets: ['b:1']}
    - {targets: ['c:1'], labels: {alias: 'b:1 (b:1)'}}
    """
    names = [node.name for node in load(tmp_path, text).nodes]
    assert len(set(names)) == 3, names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: ['a:1']", "is not a list; write one item a line, each behind a dash"),
        ("- {targets: a:1}", r"\[0\].targets: 'a:1' is not a list"),
        ("- {labels: {alias: x}}", r"\[0\].targets: is missing; write host:port"),
        ("- {targets: ['gpu-a']}", r"\[0\].targets: 'gpu-a' is not an exporter's address; write 'gpu-a:9435'"),
        ("- {targets: [9435]}", "'9435' is not an exporter's address"),
        ("- {targets: ['a:0']}", "'a:0' is not an exporter's address"),
        ("- {targets: ['a:70000']}", "'a:70000' is not an exporter's address"),
        ("- {targets: ['[::g]:1']}", "is not an exporter's address"),
        ("- {targets: ['fd00::11:9435']}", "is not an exporter's address"),
        ("- {targets: ['a b:1']}", "'a b:1' is not an exporter's address"),
        ("- {targets: ['http://gpu-a:9435/metrics']}", r"is a URL; write 'gpu-a:9435' and the label __scheme__"),
        ("- {targets: ['a:1'], label: {}}", r"\[0\].label: unknown key; write one of targets, labels"),
        ("- {targets: ['a:1'], labels: {rack: [1]}}", r"\[0\].labels.rack: '\[1\]' is not text"),
        ("- {targets: ['a:1'], labels: {rack: 1.10}}", "labels.rack: '1.1' is not text; put it in quotes"),
        ("- {targets: ['a:1'], labels: {rack: yes}}", "labels.rack: 'true' is not text"),
        ("- {targets: ['a:1'], labels: {__scheme__: ftp}}", "'ftp' is not known; write http or https"),
        ("- {targets: ['a:1'], labels: {alias: \"a\\nb\"}}", "is not a label; write up to 512 printable"),
        ("- {targets: ['a:1']", "is not YAML: line"),
        ("\x00", "is not YAML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        load(tmp_path, text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "nodes.yml"))


@pytest.mark.parametrize("text", ['[{"targets": ["a:1"]', "[" * 100_000, "nonsense", '{"targets": []}'])
def test_mistakes_in_json(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"nodes\.json: "):
        load(tmp_path, text, "nodes.json")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nodes\.yml: cannot be read: No such file"):
        nodes.load(tmp_path / "nodes.yml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        nodes.load(tmp_path)


def test_a_thousand_machines_are_taken(tmp_path: Path) -> None:
    lines = "".join(
        f"- targets: ['gpu-{number}.example.org:9435']\n  labels: {{alias: gpu-{number}}}\n" for number in range(1000)
    )
    assert len(load(tmp_path, lines).nodes) == 1000
