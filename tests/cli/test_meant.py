"""What is said to a word that stands where a command takes options only."""

from __future__ import annotations

import shlex

import click
import pytest

from gpu_exporter.cli.group import cli
from gpu_exporter.cli.meant import said


def refused(line: str) -> str:
    with pytest.raises(click.ClickException) as caught:
        cli.main(shlex.split(line), prog_name="gpu-exporter", standalone_mode=False)
    return said(caught.value)


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("top --once http://gpu-a:9436", "write --hub http://gpu-a:9436"),
        ("top http://gpu-a:9436/", "write --hub http://gpu-a:9436/"),
        ("top http://gpu-a:9435/metrics", "write --target gpu-a:9435"),
        ("free https://gpu-a:9435", "write --target https://gpu-a:9435"),
        (
            "top http://gpus.example.org",
            "write --hub http://gpus.example.org for a hub, or --target gpus.example.org for",
        ),
        ("top http://[::1]:9436", "write --hub 'http://[::1]:9436'"),
        ("top http://[x", "write --hub 'http://[x' for a hub, or --target '[x' for an exporter"),
        ("top gpu-a:9436", "write --hub gpu-a:9436"),
        ("free gpu-a gpu-b:9435", "write --target gpu-a --target gpu-b:9435 for exporters, or --hub URL for a hub"),
        ("desktop nodes.yml", "write --nodes.file nodes.yml"),
        ("top 'a;b'", "write --target 'a;b' for exporters"),
        ("record --history.path=x gpu-a:9435", "write --target gpu-a:9435"),
        ("report http://prometheus:9090", "write --prometheus.url http://prometheus:9090"),
        ("report gpu.db", "write --history.path gpu.db"),
        ("export --history.path=x y.db", "write --history.path y.db"),
        ("hub nodes.yml", "write --nodes.file nodes.yml"),
        ("hub :9436", "write --web.listen-address :9436"),
        ("serve :9435", "write --web.listen-address :9435"),
        ("serve gpu.yml", "write --config.file gpu.yml"),
        ("test-mail http://localhost:9093", "write --alertmanager.url http://localhost:9093"),
        ("sample more", "gpu-exporter sample --help lists the options that it takes"),
        ("serve more", "gpu-exporter serve --help lists the options that it takes"),
    ],
)
def test_a_word_is_told_its_option(line: str, option: str) -> None:
    words = shlex.split(line)
    assert words[0] in cli.commands
    text = refused(line)
    assert text.startswith("Got unexpected extra argument")
    assert f"): {option}" in text


@pytest.mark.parametrize("line", ["top --hub http://gpu-a:9436 --target gpu-a:9435", "report"])
def test_other_refusals_are_as_they_were(line: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        cli.main(shlex.split(line), prog_name="gpu-exporter", standalone_mode=False)
    assert said(caught.value) == caught.value.format_message()
