"""What a shell that completes is offered."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from gpu_exporter.cli.group import cli
from gpu_exporter.config import parsers, settings


def offered(*words: str) -> list[str]:
    """For the last word, after those before it."""
    shell = ShellComplete(cli, {}, "gpu-exporter", "_GPU_EXPORTER_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_the_first_word_is_a_command() -> None:
    assert offered("") == sorted(cli.commands)
    assert offered("check") == ["check", "check-config"]


def test_an_option_without_a_command_is_of_serve() -> None:
    first = offered("--")
    assert {"--version", "--web.listen-address", "--source"} <= set(first)
    assert len(first) == len(set(first)), "what both have is offered once"
    assert offered("--source", "fake", "--fake.g") == ["--fake.gpus"]


def test_a_setting_that_is_a_file_is_completed_with_files() -> None:
    shell = ShellComplete(cli, {}, "gpu-exporter", "_GPU_EXPORTER_COMPLETE")
    for words in (["--fake.scenario"], ["top", "--smi.path"], ["--web.config.file"], ["--config.file"]):
        assert [item.type for item in shell.get_completions(words, "x")] == ["file"], words


def test_whatever_is_offered_is_taken() -> None:
    values = {setting.flag: parsers.offered(setting.parse) for setting in settings()}
    assert len([flag for flag, words in values.items() if words]) >= 6
    for setting in settings():
        for word in values[setting.flag]:
            assert setting.parse(f"{word}file" if word.endswith(":") else word)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("check", "--fail-on", ""), ["warning", "critical"]),
        (("report", "--for"), ["--format"]),
        (("help", "check"), ["check", "check-config"]),
        (("--source", ""), ["auto", "nvml", "smi", "dcgm", "replay:", "fake"]),
        (("sample", "--source", "n"), ["nvml"]),
        (("top", "--fake.owners", ""), ["user", "pod", "slurm"]),
        (("--log.level", "w"), ["warning"]),
        (("hub", "--log.format", ""), ["logfmt", "json"]),
        (("--compat", "dcgm-"), ["dcgm-4.9"]),
        (("--web.listen-address", ""), []),  # anything
        (("doctor", "--web."), []),  # taken, and not listed
        (("no-such-command", "--vers"), ["--version"]),  # and no traceback
    ],
    ids=str,
)
def test_a_commands_own_words(words: tuple[str, ...], values: list[str]) -> None:
    assert offered(*words) == values
