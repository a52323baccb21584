"""Where top, free and desktop look: what their options in common mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from tools.lab.exporter import run
from tools.lab.nvml_stub import Stub

from gpu_exporter.cli import extras
from gpu_exporter.cli import origin as module
from gpu_exporter.cli.group import cli
from gpu_exporter.cli.origin import beat, missing_libraries, origin
from gpu_exporter.config import ConfigError, settings
from gpu_exporter.hub.client.origins import Exporters, Hub, Origin, ThisMachine
from gpu_exporter.model import Host
from machines import Told, answer, anything, exporter, nobody
from snapshots import reading


def looked(interval: float | None = None, **given: Any) -> Origin:
    """The origin of these options; settings of the exporter by their keys with __."""
    options: dict[str, Any] = {setting.key.replace(".", "__"): None for setting in settings()}
    options |= dict.fromkeys(("nodes_file", "hub_url", "hub_config_file", "config_file")) | {"targets": ()}
    with click.Context(cli):
        return origin(interval=interval, **{**options, **given})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--target=gpu-a:99999"], "--target: 'gpu-a:99999' is not"),
        (["--hub=ftp://gpu-a"], "--hub: 'ftp://gpu-a' is not a hub's address; write one such as http://gpu-a:9436"),
        (["--hub=http://gpu-a:port"], "--hub: 'http://gpu-a:port' is not a hub's address; "),
        (["--hub=http://gpu-a/?x=1"], "--hub: 'http://gpu-a/?x=1' is not a hub's address; "),
        (["--hub=http://me:pw@gpu-a"], "--hub: 'http://me:pw@gpu-a' is not a hub's address; "),
        (["--nodes.file=/nowhere.yml"], "/nowhere.yml: cannot be read: No such file or directory"),
        (["--hub=a", "--hub.config.file=/nowhere.yml"], "/nowhere.yml: cannot be read: No such file or directory"),
        (["--hub=a", "--nodes.file=b"], "--nodes.file and --hub cannot be given together; write one of them"),
        (["--interval=1h"], "--interval: '1h' is out of range; write 500ms to 10m"),
        (["--interval=5"], "--interval: '5' is not a duration; write 5s, 500ms or 1m"),
        (["--source=rocm"], "--source: 'rocm' is not known; "),
    ],
)
@pytest.mark.parametrize("command", ["free", "top"])
def test_refusals_are_one_line(command: str, options: list[str], line: str) -> None:
    done = run(command, *(["--once"] if command == "top" else []), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpu-exporter: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "address", "prefix"),
    [
        ("http://gpu-a:9436", "gpu-a:9436", ""),
        ("gpu-a", "gpu-a:9436", ""),
        ("http://gpu-a", "gpu-a:9436", ""),
        ("https://gpu-a", "gpu-a:443", ""),
        ("http://www/gpus/", "www:80", "/gpus"),
        ("http://[fd00::1]:99/a/b", "[fd00::1]:99", "/a/b"),
    ],
)
def test_a_hub_s_address(url: str, address: str, prefix: str) -> None:
    found = looked(hub_url=url)
    assert isinstance(found, Hub)
    assert (found._node.address, found._prefix) == (address, prefix)


def test_targets_are_asked_once_each() -> None:
    found = looked(targets=("a:1", "https://b:2", "a:1"))
    assert isinstance(found, Exporters)
    assert [(node.address, node.scheme) for node in found._machines.nodes.nodes] == [("a:1", ""), ("b:2", "https")]
    assert (found.name, looked(targets=("a:1",)).name) == ("2 machines", "a:1")


def test_how_often_is_said_by_the_flag_or_hub_yml(tmp_path: Path) -> None:
    file = tmp_path / "hub.yml"
    file.write_text("interval: 7s\n")
    assert looked(targets=("a:1",)).interval == 5.0
    assert looked(targets=("a:1",), hub_config_file=file).interval == 7.0
    assert looked(2.0, targets=("a:1",), hub_config_file=file).interval == 2.0
    assert (beat(None), beat("500ms")) == (None, 0.5)
    with pytest.raises(ConfigError, match="--interval"):
        beat("0s")


def test_this_machine_is_its_exporter_where_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(reading(0))
    told.machine = Host(name="gpu-a")
    with exporter(told) as server:
        monkeypatch.setattr(module, "_PORT", server.port)
        found = looked()
        assert isinstance(found, Exporters)
        assert [node.name for node in found._machines.nodes.nodes] == ["gpu-a"]
        assert isinstance(looked(source="fake"), ThisMachine), "who asks for a source gets it"


def test_this_machine_is_its_driver_where_none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PORT", nobody())
    assert isinstance(looked(), ThisMachine)
    with anything(answer("hello", kind="text/html")) as stranger:
        monkeypatch.setattr(module, "_PORT", stranger)
        assert isinstance(looked(), ThisMachine)
    with anything(lambda *_: None) as hung:
        monkeypatch.setattr(module, "_PORT", hung)
        assert isinstance(looked(), ThisMachine)


def test_the_driver_of_this_machine(stub: Callable[..., Stub], library: Path) -> None:
    done = run("top", "--once", "--json", "--source=nvml", extra=stub("h100", "a100").env(library))
    told = json.loads(done.stdout)
    assert (done.returncode, told["simulated"]) == (0, False)
    assert [gpu["model"] for gpu in told["gpus"]] == ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"]


def test_what_is_not_installed_is_named() -> None:
    missing_libraries("top", "textual")
    with pytest.raises(click.ClickException) as caught:
        missing_libraries("top", "textual_that_is_not_there")
    assert caught.value.message.startswith("top needs textual_that_is_not_there; run: ")


@pytest.mark.parametrize(
    ("command", "lacks", "packages"),
    [
        ("top", "dns", "dnspython"),
        ("top", "textual", "textual"),
        ("top", "aiohttp dns msgspec textual", "aiohttp dnspython msgspec textual"),
        ("top --once", "aiohttp dns msgspec textual", "aiohttp dnspython msgspec textual"),
        ("top --once", "dns", "dnspython"),
        ("free", "aiohttp dns msgspec textual", "aiohttp dnspython msgspec"),
        ("desktop", "dns pyqtgraph textual", "dnspython pyqtgraph"),
        ("hub", "dns uvicorn", "dnspython uvicorn"),
    ],
)
def test_one_command_brings_what_is_missing(
    command: str, lacks: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in lacks.split() else find_spec(name))
    with pytest.raises(click.ClickException) as caught:
        cli.main(command.split(), prog_name="gpu-exporter", standalone_mode=False)
    told, _, brought = caught.value.message.partition("; run: ")
    assert told.endswith(f"{command.split(maxsplit=1)[0]} needs {packages.replace(' ', ', ')}")
    assert brought.endswith(f" install {packages}")


def test_variables_are_twins_of_the_flags(tmp_path: Path) -> None:
    extra = {"GPU_EXPORTER_TARGET": f"127.0.0.1:{nobody()} 127.0.0.1:{nobody()}"}
    assert "(and 1 more machine)" in run("free", extra=extra).stderr
    extra = {"GPU_EXPORTER_NODES_FILE": str(tmp_path / "none.yml")}
    assert f"{tmp_path}/none.yml: cannot be read" in run("free", extra=extra).stderr
