"""What .github tells GitHub: everything that it names exists, no job may do more than it has to, none runs for ever."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tools.lab import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
# What a job may do beyond reading the repository, and which jobs do it.
WRITES = {
    ("lock", "propose"): {"contents", "pull-requests"},
    ("release", "build"): {"attestations", "id-token"},
    ("release", "chart"): {"packages"},
    ("release", "image"): {"attestations", "id-token", "packages"},
    ("release", "pypi"): {"id-token"},
    ("release", "release"): {"contents"},
    ("release", "site"): {"id-token", "pages"},
}


def read(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    return tree


class Job(NamedTuple):
    """One of a workflow's."""

    workflow: str
    name: str
    tree: dict[str, Any]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return list(self.tree.get("steps", ()))

    @property
    def text(self) -> str:
        """The lines that it runs, those that go on joined."""
        return re.sub(r"\\\n\s*", " ", "\n".join(step["run"] for step in self.steps if "run" in step))


JOBS = [Job(path.stem, name, tree) for path in WORKFLOWS for name, tree in read(path)["jobs"].items()]
every_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.workflow}-{job.name}")


def job_of(workflow: str, name: str) -> Job:
    (found,) = [job for job in JOBS if (job.workflow, job.name) == (workflow, name)]
    return found


def targets() -> set[str]:
    """What make can be asked for."""
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"\S+", " ".join(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE))))


def recipes() -> dict[str, str]:
    """What make runs for each target."""
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([\w-]+):.*(?:\\\n.*)*\n((?:\t.*\n)+)", text, re.MULTILINE))


def chosen(recipe: str) -> set[Path]:
    """The modules whose slow tests it runs."""
    (command,) = re.findall(r"pytest -m slow (.*)", recipe)
    words = command.split()
    named = [ROOT / word for word in words if word.startswith("tests")] or [ROOT / "tests"]
    ignored = {path for word in words if word.startswith("--ignore=") for path in modules(ROOT / word[9:])}
    return {path for name in named for path in modules(name)} - ignored


def modules(path: Path) -> set[Path]:
    """Those with slow tests."""
    assert path.exists(), path
    found = {path} if path.is_file() else set(path.rglob("test_*.py"))
    return {each for each in found if "mark.slow" in each.read_text() and each != Path(__file__)}


SLOW = {target: chosen(recipe) for target, recipe in recipes().items() if "pytest -m slow" in recipe}


def test_every_night_runs_every_slow_test() -> None:
    nightly = "\n".join(job.text for job in JOBS if "'schedule'" in job.tree.get("if", "").replace("!= 'schedule'", ""))
    assert {*SLOW, "faults", "fuzz"} == set(re.findall(r"\bmake ([a-z-]+)", nightly)) - {"setup"}
    assert set().union(*SLOW.values()) == modules(ROOT / "tests")


def test_what_is_built_from_source_is_built_by_the_target_that_asks_for_it() -> None:
    """On a runner of Continuous Integration a test fails where its program is missing."""
    for target, paths in SLOW.items():
        asking = {path.name for path in paths if re.search(r"\bneighbour\(", path.read_text())}
        assert bool(asking) == ("tools/neighbours" in recipes()[target]), f"make {target}: {sorted(asking)}"


def test_who_builds_with_go_has_the_go_for_it() -> None:
    """The scripts take the Go that is there (GOTOOLCHAIN=local), which on a runner is too old for what they build."""
    scripts = {f"tools/{path.name}" for path in (ROOT / "tools").iterdir() if path.is_file() and _builds_with_go(path)}
    assert {"tools/cluster", "tools/neighbours", "tools/vmalert"} <= scripts
    building = {target for target, recipe in recipes().items() if scripts & set(recipe.split())}
    for job in JOBS:
        if building & set(re.findall(r"\bmake ([a-z-]+)", job.text)):
            (go,) = [step["with"] for step in job.steps if step.get("uses", "").startswith("actions/setup-go@")]
            assert float(go["go-version"]) >= 1.26, job.name


def _builds_with_go(path: Path) -> bool:
    return "GOTOOLCHAIN=local" in path.read_text(errors="replace")


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["lock", "release", "test"]
    for path in WORKFLOWS:
        tree = read(path)
        assert tree["permissions"] == {}, "what a job may do stands at the job"
        assert tree["concurrency"]["group"]


@every_job
def test_no_job_runs_for_ever(job: Job) -> None:
    if "uses" in job.tree:
        assert (ROOT / job.tree["uses"]).is_file(), "a workflow of ours, whose jobs are looked at themselves"
    else:
        assert 0 < job.tree["timeout-minutes"] <= 60


@every_job
def test_no_job_may_do_more_than_it_has_to(job: Job) -> None:
    given = job.tree["permissions"]
    wanted = WRITES.get((job.workflow, job.name), set())
    assert {scope for scope, grant in given.items() if grant == "write"} == wanted
    assert {scope for scope, grant in given.items() if grant != "write"} <= {"contents"}
    for step in job.steps:
        if step.get("uses", "").startswith("actions/checkout@") and "contents" not in wanted:
            assert step["with"]["persist-credentials"] is False


@every_job
def test_actions_are_pinned_to_a_commit(job: Job) -> None:
    text = (GITHUB / f"workflows/{job.workflow}.yml").read_text()
    for step in job.steps:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), "a tag can be moved"
            assert re.search(rf"{re.escape(step['uses'])} # (v\d|zizmor)", text), "Dependabot reads the version there"


def test_one_commit_an_action() -> None:
    pinned = {
        found for path in WORKFLOWS for found in re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40})", path.read_text())
    }
    assert len(pinned) == len({action for action, _ in pinned})


@every_job
def test_what_a_job_runs_exists(job: Job) -> None:
    text = job.text
    asked = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert asked <= targets()
    for path in re.findall(r"(?<![\w./:-])((?:tools|requirements|tests|deploy|helm|docs|exporter)/[\w./-]+)", text):
        assert (ROOT / path).exists(), f"{job.workflow}.yml names {path}"
    # An expression in a command is text that somebody else may have written; it comes by the environment instead.
    assert "${{" not in text
    for step in job.steps:
        if "run" in step:
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


def test_every_python_that_is_promised_is_tested() -> None:
    tested = read(GITHUB / "workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    text = (ROOT / "pyproject.toml").read_text()
    (oldest,) = re.findall(r'^requires-python = ">=(3\.\d+)"$', text, re.MULTILINE)
    assert tested[0] == oldest
    assert [f"3.{minor}" for minor in range(10, 10 + len(tested))] == tested
    assert "make test" in job_of("test", "test").text


def test_ci_has_all_that_setup_would_install() -> None:
    """Runners are not root, and tests there fail rather than skip."""
    table = re.search(r"^SYSTEM=\((.*?)^\)", (ROOT / "tools/setup").read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    wanted = {package for line in re.findall(r'"(.*)"', table[1]) for package in line.split("|")[1].split()}
    assert len(wanted) >= 5
    installed = job_of("test", "test").text
    assert wanted - {"chromium"} <= set(installed.split())
    assert "google-chrome --version" in installed, "Ubuntu has chromium as a snap only; its runners have Chrome"


def test_a_release_is_tested_first_and_has_everything() -> None:
    jobs = read(GITHUB / "workflows/release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert jobs["build"]["needs"] == "test"
    for name in set(jobs) - {"test", "build"}:
        assert "build" in jobs[name]["needs"]
    assert set(jobs["release"]["needs"]) == set(jobs) - {"test", "release"}
    (build,) = [step["with"] for step in jobs["image"]["steps"] if "build-push" in step.get("uses", "")]
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert set(re.findall(r"^(\w+)=", build["build-args"], re.MULTILINE)) == set(
        re.findall(r"^ARG (\w+)=unknown$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    )


def test_dependabot_looks_where_there_is_something() -> None:
    files = {"docker": "Dockerfile", "npm": "package-lock.json", "github-actions": ".github/workflows"}
    for update in read(GITHUB / "dependabot.yml")["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert (ROOT / folder.lstrip("/") / files[update["package-ecosystem"]]).exists(), update


def test_a_bug_report_asks_for_what_tells_most() -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE/bug.yml")
    required = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}
    assert {"doctor", "sample"} <= required


def test_the_hooks_run_what_the_lock_has() -> None:
    hooks = [hook for source in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in source["hooks"]]
    assert {hook["id"] for hook in hooks} >= {"ruff-check", "ruff-format", "mypy"}
    for hook in hooks:
        program, *rest = hook["entry"].split()
        assert program == "make" or (program.startswith(".venv/bin/") and (ROOT / program).exists()), hook["id"]
        assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))


def test_make_help_tells_of_every_target() -> None:
    lines = re.findall(r"^# make ((?:[a-z0-9-]+ )+)(?= )", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets() - set(" ".join(lines).split()) == {"help"}
    assert set(" ".join(lines).split()) <= targets()
