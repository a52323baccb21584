"""deploy/versions.env: everything else that names a release follows it, and tools/shipped builds what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.programs import MissingProgramError, NotBuiltError, Release, found, program
from tools.versions import FILE, PLACES, places, releases, write

# A go that "downloads" an empty module and "builds" programs that do nothing; it keeps what it was asked.
GO = """\
#!/bin/sh
echo "$*" >>"$ASKED"
case $1 in
    version) echo "go version go1.26.8 linux/amd64" ;;
    mod) mkdir -p "$MODULE"; printf '{\\n\\t"Dir": "%s",\\n}\\n' "$MODULE" ;;
    install) for program; do case $program in ./cmd/*) echo >"$GOBIN/${program##*/}" ;; esac; done ;;
esac
"""
# What Go 1.25 prints, shortened.
OLD = r"""#!/bin/sh
case $1 in
    version) echo "go version go1.25.0 linux/amd64" ;;
    *) cat <<'END'; exit 1
{
	"Path": "github.com/prometheus/alertmanager",
	"Error": "github.com/prometheus/alertmanager@v0.35.0 requires go \u003e= 1.26.0 (running go 1.25.0)",
	"Info": "/go/pkg/mod/cache/download/github.com/prometheus/alertmanager/@v/v0.35.0.info"
}
END
esac
"""
UNREACHABLE = re.sub(r"(@v0\.35\.0) requires [^\"]*", r"\1: no such host", OLD)
BROKEN = GO.replace("install)", "install) echo 'cmd/main.go:1: it does not compile' >&2; exit 1;")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what tools/versions.py and tools/shipped read and write."""
    for file in (FILE, "tools/shipped", *PLACES):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


# --- one file ---------------------------------------------------------------------------------------------------------


def test_compose_and_chart_have_the_releases_of_the_one_file() -> None:
    done = subprocess.run(
        [sys.executable, "tools/versions.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_raised_release_is_written_everywhere_and_nothing_else_changes(checkout: Path) -> None:
    before = {file: (checkout / file).read_text() for file in PLACES}
    old = releases(checkout)
    text = (checkout / FILE).read_text()
    (checkout / FILE).write_text(text.replace(f"GRAFANA={old['GRAFANA']}", "GRAFANA=99.8.7"))
    different = [place for place in places(checkout) if place.found != place.wanted]
    assert {(place.found, place.wanted) for place in different} == {(old["GRAFANA"], "99.8.7")}
    assert {place.file for place in different} == set(PLACES)
    for place in different:
        assert old["GRAFANA"] in before[place.file].splitlines()[place.line - 1], "the line is the one to look at"
    write(checkout)
    for file, text in before.items():
        assert (checkout / file).read_text() == text.replace(old["GRAFANA"], "99.8.7")
    assert all(place.found == place.wanted for place in places(checkout))


def test_a_place_that_is_gone_and_a_name_that_is_unknown_are_told(checkout: Path) -> None:
    compose = checkout / "deploy/compose.yaml"
    compose.write_text(compose.read_text().replace("image: docker.io/prom/alertmanager:", "image: mine/alertmanager:"))
    with pytest.raises(SystemExit, match=r"^deploy/compose\.yaml: .*prom/alertmanager"):
        places(checkout)
    with (checkout / FILE).open("a") as file:
        file.write("MIMIR=3.0.0\n")
    with pytest.raises(SystemExit, match=r"^deploy/versions\.env: has PROMETHEUS, ALERTMANAGER, GRAFANA, MIMIR;"):
        releases(checkout)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("prometheus", "PROMETHEUS"),
        ("promtool", "PROMETHEUS"),
        ("alertmanager", "ALERTMANAGER"),
        ("amtool", "ALERTMANAGER"),
    ],
)
def test_what_the_tests_run_is_what_is_shipped(name: str, key: str) -> None:
    said = subprocess.run([program(name, "shipped"), "--version"], capture_output=True, text=True, check=True).stdout
    assert re.match(rf"{name}, version {re.escape(releases()[key])} ", said), said


def test_a_test_gets_the_release_that_it_asks_for(release: Release) -> None:
    for name in ("prometheus", "promtool", "alertmanager", "amtool"):
        assert ("/.build/shipped/" in program(name, release)) == (release == "shipped")
    assert found("no-such-program", release) is None


# --- tools/shipped, with a stand-in for go ----------------------------------------------------------------------------


def shipped(checkout: Path, go: str | None) -> subprocess.CompletedProcess[str]:
    """tools/shipped of the checkout, with nothing on PATH but what it needs and this ``go``."""
    path = checkout / "bin"
    path.mkdir(exist_ok=True)
    for name in (
        "bash",
        "cat",
        "chmod",
        "cksum",
        "cp",
        "cut",
        "dirname",
        "grep",
        "mkdir",
        "rm",
        "sed",
        "sh",
        "tail",
        "tee",
    ):
        if not (path / name).exists():
            (path / name).symlink_to(str(shutil.which(name)))
    (path / "go").unlink(missing_ok=True)
    if go is not None:
        (path / "go").write_text(go)
        (path / "go").chmod(0o755)
    given = {"PATH": str(path), "ASKED": str(checkout / "asked"), "MODULE": str(checkout / "module")}
    return subprocess.run(
        [checkout / "tools/shipped"], env={**os.environ, **given}, capture_output=True, text=True, check=False
    )


def test_it_builds_once_for_each_release(checkout: Path) -> None:
    env, built = checkout / FILE, checkout / ".build/shipped"
    env.write_text("PROMETHEUS=3.5.1\nALERTMANAGER=0.28.0\nGRAFANA=1.2.3\n")
    done = shipped(checkout, GO)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("setup: building Prometheus 3.5.1 and Alertmanager 0.28.0")
    assert {path.name for path in built.iterdir()} == {"prometheus", "promtool", "alertmanager", "amtool", "stamp"}
    modules = re.findall(r"^mod download -json (\S+)$", (checkout / "asked").read_text(), re.MULTILINE)
    assert modules == ["github.com/prometheus/alertmanager@v0.28.0", "github.com/prometheus/prometheus@v0.305.1"]
    again = shipped(checkout, BROKEN)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", ""), "nothing is left to do"
    env.write_text(env.read_text().replace("3.5.1", "3.16.0"))
    assert shipped(checkout, GO).returncode == 0
    assert "prometheus@v0.316.0\n" in (checkout / "asked").read_text()


@pytest.mark.parametrize(
    ("go", "reason"),
    [
        pytest.param(None, "Go is not installed", id="no go"),
        pytest.param(OLD, "go1.25.0 is too old: requires go >= 1.26.0", id="an old go"),
    ],
)
def test_without_a_go_that_can_it_says_so_in_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, go: str | None, reason: str
) -> None:
    done = shipped(checkout, go)
    assert (done.returncode, done.stderr) == (0, "")
    (said,) = done.stdout.splitlines()
    assert reason in said
    # That is what a skipped test then says; under CI as well, where a missing program otherwise fails.
    monkeypatch.setattr("tools.lab.programs.SHIPPED", checkout / ".build/shipped")
    with pytest.raises(NotBuiltError, match=re.escape(reason)):
        program("prometheus", "shipped")
    assert shipped(checkout, GO).returncode == 0, "and it is tried again"
    assert program("prometheus", "shipped") == str(checkout / ".build/shipped/prometheus")


@pytest.mark.parametrize(
    ("go", "reason"),
    [
        pytest.param(BROKEN, "cmd/main.go:1: it does not compile", id="it does not compile"),
        pytest.param(UNREACHABLE, "github.com/prometheus/alertmanager@v0.35.0: no such host", id="no network"),
    ],
)
def test_a_build_that_fails_is_told_and_leaves_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, go: str, reason: str
) -> None:
    done = shipped(checkout, go)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"could not be built: {reason}" in done.stdout
    assert not (checkout / ".build/shipped").exists()
    monkeypatch.setattr("tools.lab.programs.SHIPPED", checkout / ".build/shipped")
    missing = r"prometheus of deploy/versions\.env is not there: run tools/shipped"
    with pytest.raises(MissingProgramError, match=missing) as raised:
        program("prometheus", "shipped")
    assert not isinstance(raised.value, NotBuiltError), "a failure under CI"
