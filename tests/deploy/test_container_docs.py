"""The commands of docs/CONTAINER.md, as far as they can be tried without Docker."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.programs import program

from gpu_exporter import __version__

PAGE = (ROOT / "docs/CONTAINER.md").read_text()
IMAGE = f"ghcr.io/gpu-exporter/gpu-exporter:{__version__}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_command_runs_this_version_without_privileges() -> None:
    commands = [command for block in blocks("bash") for command in re.findall(r"docker run .*(?:\n +.*)*", block)]
    assert len(commands) == 2
    for command in commands:
        assert command.split()[-1] == IMAGE
        for flag in ("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges"):
            assert flag in command
        assert "--privileged" not in command
    assert set(re.findall(r"ghcr\.io/gpu-exporter/gpu-exporter:([\d.]+)", PAGE)) == {__version__}


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (
            (
                "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"
                "\tlibnvidia-ml.so.1 (libc6) => /lib/i386-linux-gnu/libnvidia-ml.so.1\n"
            ),
            "/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        ),
        (
            (
                "\tlibnvidia-ml.so.1 (libc6) => /lib/libnvidia-ml.so.1\n"
                "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib64/libnvidia-ml.so.1\n"
                "\tlibnvidia-ml.so (libc6,x86-64) => /lib64/libnvidia-ml.so\n"
            ),
            "/lib64/libnvidia-ml.so.1",
        ),
        (
            "\tlibnvidia-ml.so.1 (libc6,AArch64) => /lib/aarch64-linux-gnu/libnvidia-ml.so.1\n",
            "/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
        ),
    ],
)
def test_the_library_is_found_in_what_ldconfig_lists(tmp_path: Path, listed: str, found: str) -> None:
    (line,) = re.findall(r"^library=.*$", PAGE, re.MULTILINE)
    (tmp_path / "list").write_text(listed)
    script = f"ldconfig() {{ cat '{tmp_path / 'list'}'; }}\n{line}\nprintf %s \"$library\""
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    assert done.stdout == found


def test_prometheus_takes_the_job_of_node_exporter(tmp_path: Path) -> None:
    (added,) = blocks("yaml")
    deployed = ROOT / "deploy/prometheus"
    tree = yaml.safe_load((deployed / "prometheus.yml").read_text())
    tree["scrape_configs"] += yaml.safe_load(added)
    for name in ("rules", "nodes.yml"):
        (tmp_path / name).symlink_to(deployed / name)
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [program("promtool"), "check", "config", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (rule,) = tree["scrape_configs"][-1]["relabel_configs"]
    assert re.sub(f"^{rule['regex']}$", rule["replacement"].replace("$", "\\"), "gpu-a.example.org:9435") == (
        "gpu-a.example.org:9100"
    )


def test_the_addresses_are_those_of_the_stack() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    demo = [service for service in services.values() if "demo" in service["profiles"]]
    published = {port.rsplit(":", 2)[1] for service in demo for port in service.get("ports", ())}
    assert set(re.findall(r"http://localhost:(\d+)", PAGE)) == published
    for profile in ("demo", "node", "center"):
        assert f"--profile {profile} up" in PAGE
