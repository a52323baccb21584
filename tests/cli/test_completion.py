"""What a shell that completes is offered."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from gpu_exporter.cli.group import cli


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


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("check", "--fail-on", ""), ["warning", "critical"]),
        (("report", "--for"), ["--format"]),
        (("doctor", "--web."), []),  # taken, and not listed
        (("no-such-command", "--vers"), ["--version"]),  # and no traceback
    ],
    ids=str,
)
def test_a_commands_own_words(words: tuple[str, ...], values: list[str]) -> None:
    assert offered(*words) == values
