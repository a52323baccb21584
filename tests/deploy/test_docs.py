"""Documentation that is generated is current; what is promised by hand exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from tools.docs_site import outward
from tools.lab import ROOT
from tools.lab.exporter import environment, run

from gpu_exporter import __version__
from gpu_exporter.catalog import CATALOG
from gpu_exporter.cli.group import cli
from gpu_exporter.history.schema import FIRST

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
# Pages of the past name what was there then.
CURRENT = [page for page in [*PAGES, *RUNBOOKS] if page.name != "CHANGELOG.md"]


def test_the_configuration_page_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, "tools/configuration.py"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs/CONFIGURATION.md").read_text() == done.stdout, "run make docs"


def test_the_hub_s_settings_are_generated() -> None:
    done = subprocess.run([sys.executable, "tools/hub.py", "--check"], cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_only_metrics_and_flags_that_exist(page: Path) -> None:
    text = page.read_text()
    metrics = {metric.name for metric in CATALOG} | {label for metric in CATALOG for label in metric.dynamic}
    metrics |= set(re.findall(r"CREATE (?:TABLE|VIEW) (\w+)", FIRST))
    named = {name for name in re.findall(r"`(gpu_[a-z0-9_]+)[`{ ]", text) if not name.startswith("gpu_exporter.")}
    labels = {label for metric in CATALOG for label in (*metric.info, *metric.dynamic)}
    assert {name for name in named if name not in metrics | labels and not name.endswith("_")} <= {
        "gpu_exporter",
        "gpu_diagnostic_last_pass_timestamp_seconds",  # the contract of docs/HOST.md
    }
    flags = {flag for command in cli.commands.values() for option in command.params for flag in option.opts}
    dotted = set(re.findall(r"(--[a-z]+\.[a-z.-]+[a-z])", text))
    assert dotted - {"--collector.textfile.directory"} <= flags


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them, and those that it writes itself."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def test_anchors_lead_to_a_heading() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}#{anchor}"
        for page in CURRENT
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


def test_every_make_target_in_the_pages_exists() -> None:
    targets = set(" ".join(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())
    asked = {
        (str(page.relative_to(ROOT)), target)
        for page in CURRENT
        for line in [*code(page), *re.findall(r"`([^`\n]+)`", page.read_text())]
        for words in re.findall(r"^(?:\$ )?(?:APT=no )?make ((?:[a-z][a-z0-9-]*(?: |$))+)", line)
        for target in words.split()
    }
    assert len(asked) > 20
    assert {(page, target) for page, target in asked if target not in targets} == set()


def test_every_path_in_the_pages_exists() -> None:
    """What stands between back quotes and begins with a folder of the repository; a * or a … is any name."""
    folders = "deploy|tools|tests|helm|bench|exporter|requirements"
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in CURRENT
        for path in re.findall(rf"`((?:{folders})/[\w./*…-]*[\w*/])`", page.read_text())
        if not list(ROOT.glob(path.rstrip("/").replace("…", "*")))
    ]
    # The example of a thing that the reader adds.
    assert [line for line in missing if "NAME" not in line] == []


def code(page: Path) -> Iterator[str]:
    """Lines of a page's code, those that go on joined."""
    for block in re.findall(r"^ *```[a-z]*\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n *", " ", block).splitlines()


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every use of the program in the pages: its words."""
    for page in CURRENT:
        for line in [*code(page), *re.findall(r"`([^`\n]+)`", page.read_text())]:
            # What comes after it may be a pipe or a comment; as the name of a release or a service it is no command.
            for found in re.findall(r"(?:^|\$ |\(|&& |; )(?:python3 )?gpu-exporter(?:\.pyz)? ([^|;&)#>]*)", line):
                try:
                    yield page, shlex.split(found.partition("  ")[0])
                except ValueError:  # a quotation that goes on in prose
                    continue


def test_every_command_in_the_pages_is_understood() -> None:
    """Command, options and choices, as the command line itself reads them; nothing is run."""
    wrong = []
    seen: set[str] = set()
    for page, words in commands():
        name, arguments = (words[0], words[1:]) if words and words[0] in cli.commands else ("serve", words)
        if name == "serve" and arguments and not arguments[0].startswith("--"):
            continue  # a sentence about the program
        if {"--help", "--version"} & set(arguments):
            continue
        seen.add(name)
        try:
            cli.commands[name].make_context(name, list(arguments), parent=click.Context(cli))
        except click.MissingParameter:
            continue  # a sentence about one of its options
        except click.UsageError as error:
            wrong.append(f"{page.relative_to(ROOT)}: gpu-exporter {' '.join(words)}: {error.format_message()}")
    assert wrong == []
    assert seen == set(cli.commands), "each has an example somewhere"


# They need nothing but GPUs, and end by themselves.
_ALONE = {"sample", "check", "doctor", "metrics", "free"}
_NOT_ALONE = {
    "--count",
    "--min-memory",
    "--expect-gpus",
    "--watch",
    "--help",
    "--target",
    "--nodes.file",
    "--hub",
    "--record",
}


def test_the_commands_that_need_nothing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = set()
    for page, words in commands():
        line = " ".join(words)
        if not words or words[0] not in _ALONE or _NOT_ALONE & set(words) or "[" in line or line in ran:
            continue
        ran.add(line)
        done = run(*words, extra={"GPU_EXPORTER_SOURCE": "fake", "GPU_EXPORTER_FAKE_GPUS": "8"})
        assert done.returncode == 0, f"{page.name}: gpu-exporter {line}: {done.stderr}"
        assert done.stdout, line
    assert {words.split()[0] for words in ran} == _ALONE


def test_the_site_has_every_page() -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())

    def listed(tree: object) -> Iterator[str]:
        if isinstance(tree, str):
            yield tree
        elif isinstance(tree, list):
            for part in tree:
                yield from listed(part)
        elif isinstance(tree, dict):
            yield from listed(list(tree.values()))

    named = list(listed(yaml.safe_load(text)["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("*.md")}
    assert sorted(named) == sorted(pages | {"runbooks/README.md"})


def test_links_out_of_the_site_lead_to_the_repository() -> None:
    blob = "https://github.com/gpu-exporter/gpu-exporter/blob/main"
    told = outward("[a](../README.md#run-it) [b](MAIL.md) [c](#here) [d](https://x.org) [e](../deploy)", Path("HUB.md"))
    tree = blob.replace("blob", "tree")
    assert told == f"[a]({blob}/README.md#run-it) [b](MAIL.md) [c](#here) [d](https://x.org) [e]({tree}/deploy)"
    assert outward("[a](../MAIL.md)", Path("runbooks/XID.md")) == "[a](../MAIL.md)"
    with pytest.raises(ValueError, match=r"docs/HUB\.md links to NOWHERE\.md"):
        outward("[a](NOWHERE.md)", Path("HUB.md"))


def versions_in(text: str) -> set[str]:
    """Those of our files and images; dpkg's ~rc1 is rc1."""
    found = re.findall(r"gpu-exporter(?:_|-|/gpu-exporter:)(\d+\.\d+\.\d+(?:~?(?:a|b|rc|\.dev)\d+)?)", text)
    return {version.replace("~", "") for version in found}


def test_versions_of_candidates_are_found_whole() -> None:
    text = (
        "gpu-exporter_1.0.0~rc1_all.deb gpu-exporter-1.2.3.tgz gpu-exporter-3.0.0rc4 gpu-exporter/gpu-exporter:2.0.0b2"
    )
    assert versions_in(text) == {"1.0.0rc1", "1.2.3", "2.0.0b2", "3.0.0rc4"}


def test_the_pages_name_this_version() -> None:
    for page in CURRENT:
        assert versions_in(page.read_text()) <= {__version__}, page.name
