"""tools/dist: what a release is made of."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from tools.dist import bom, deb, images, python
from tools.dist.__main__ import table
from tools.dist.index import index
from tools.dist.made import LeftOutError, Made, RefusedError, same
from tools.dist.moment import moment
from tools.lab import ROOT
from tools.lab.exporter import environment
from tools.lab.programs import program

from gpu_exporter import __version__
from gpu_exporter.cli.group import cli

WHEN = 1_790_000_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program("dpkg-deb")
    return deb.package(tmp_path_factory.mktemp("deb"), WHEN).path


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(folder)], check=True)
    return folder


def test_the_package_says_what_it_is(package: Path) -> None:
    assert package.name == f"gpu-exporter_{__version__}_all.deb"
    shown = subprocess.run(["dpkg-deb", "--field", str(package)], capture_output=True, text=True, check=True).stdout
    fields = yaml.safe_load(re.sub(r"^ .*\n", "", shown, flags=re.MULTILINE))
    assert fields["Package"] == "gpu-exporter"
    assert fields["Architecture"] == "all", "one package for every processor"
    assert fields["Version"] == __version__
    oldest = re.search(r'^requires-python = ">=(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert oldest is not None
    assert f"python3 (>= {oldest[1]})" in fields["Depends"]
    assert 2000 < fields["Installed-Size"] < 10_000


def test_everything_in_it_is_roots_and_of_one_time(package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    archive = package.with_suffix(".tar")
    archive.write_bytes(listed)
    with tarfile.open(archive) as tar:
        entries = tar.getmembers()
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries} == {(0, 0, WHEN)}
    assert {entry.mode for entry in entries} == {0o644, 0o755}
    runs = [entry.name for entry in entries if entry.isfile() and entry.mode == 0o755]
    scripts = sorted(path for path in (ROOT / "deploy/check").rglob("*.sh") if path.stat().st_mode & 0o111)
    ready = [f"./usr/share/gpu-exporter/{path.relative_to(ROOT / 'deploy')}" for path in scripts]
    assert len(ready) > 2, "they can be run where they lie"
    assert sorted(runs) == ["./usr/bin/gpu-exporter", *ready]
    assert not [entry.name for entry in entries if entry.name.endswith((".so", ".pyc"))]


def test_the_unit_starts_what_is_in_it(unpacked: Path) -> None:
    unit = (unpacked / "usr/lib/systemd/system/gpu-exporter.service").read_text()
    deployed = (ROOT / "deploy/systemd/gpu-exporter.service").read_text()
    assert unit == deployed.replace("/usr/local/bin/", "/usr/bin/") != deployed
    (started,) = re.findall(r"^ExecStart=(\S+)$", unit, re.MULTILINE)
    assert (unpacked / started.lstrip("/")).exists()
    (settings,) = re.findall(r"^EnvironmentFile=-(\S+)$", unit, re.MULTILINE)
    assert settings in (unpacked / "DEBIAN/conffiles").read_text().split(), "an upgrade asks before it writes over it"
    assert (unpacked / settings.lstrip("/")).read_text() == (ROOT / "deploy/systemd/environment").read_text()


def test_its_program_needs_nothing_beside_it(unpacked: Path) -> None:
    text = (unpacked / "usr/bin/gpu-exporter").read_text()
    assert text.startswith("#!/usr/bin/python3 -I\n")
    moved = unpacked / "program.py"
    moved.write_text(text.replace('"/usr/lib', f'"{unpacked}/usr/lib'))
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(moved), "--version"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"gpu-exporter {__version__}\n", "")


def test_a_center_finds_its_files_in_it(unpacked: Path) -> None:
    share = unpacked / "usr/share/gpu-exporter"
    for path in (
        "prometheus/prometheus.yml",
        "prometheus/nodes.yml",
        "alertmanager/alertmanager.yml",
        "debian/prometheus",
    ):
        assert (share / path).read_text() == (ROOT / "deploy" / path).read_text()
    for kind in ("prometheus/rules", "alertmanager/templates", "grafana/dashboards"):
        names = {path.name for path in (ROOT / "deploy" / kind).iterdir() if path.name != "README.md"}
        assert {path.name for path in (share / kind).iterdir()} == names


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_its_scripts_are_sound(unpacked: Path, name: str) -> None:
    script = unpacked / "DEBIAN" / name
    assert script.stat().st_mode & 0o777 == 0o755
    assert script.read_text().startswith("#!/bin/sh\nset -e\n"), "what fails is seen"
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_its_documents_are_debians(unpacked: Path) -> None:
    documents = unpacked / "usr/share/doc/gpu-exporter"
    copyright_ = (documents / "copyright").read_text()
    assert "common-licenses/Apache-2.0" in copyright_
    assert "\nCopyright: 2026 the authors of gpu-exporter\n" in copyright_
    parts = dict(re.findall(r"^ ([\w.-]+) [\d.]+: (\S.*)$", copyright_, re.MULTILINE))
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/pyz.txt").read_text(), re.MULTILINE)
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in parts} == set(locked), (
        "each says under which licence it is"
    )
    library = unpacked / deb.LIBRARY
    with_text = {
        path.parts[len(library.parts)].split("-")[0].lower() for path in library.glob("*.dist-info/**/LICENSE*")
    }
    assert {name.replace("-", "_") for name in locked} - with_text == {"nvidia_ml_py"}
    assert "Redistributions in binary form must reproduce" in (library / "pynvml.py").read_text()[:2000]
    history = gzip.decompress((documents / "changelog.gz").read_bytes()).decode()
    assert history.startswith(f"gpu-exporter ({__version__}) ")
    sums = (unpacked / "DEBIAN/md5sums").read_text().splitlines()
    assert all((unpacked / line.split("  ")[1]).exists() for line in sums)


def test_man_shows_every_command(unpacked: Path) -> None:
    page = gzip.decompress((unpacked / "usr/share/man/man1/gpu-exporter.1.gz").read_bytes()).decode()
    assert page.startswith('.TH GPU-EXPORTER 1 "2026-09-21" "gpu-exporter ')
    heads = re.findall(r"^\.SS ([\w\\-]+)", page, re.MULTILINE)
    assert sorted(head.replace("\\", "") for head in heads) == sorted(cli.commands)
    assert heads[0] == "serve"
    told = dict(zip(heads, re.split(r"^\.SS .*", page, flags=re.MULTILINE)[1:], strict=True))
    having = [head for head in heads if r"\-\-web.listen\-address " in told[head]]
    assert having == ["serve", "hub"], "not again where it is serve's, and copied from the page as typed"
    assert "127.0.0.1:9436" in told["hub"], "and not serve's"
    assert r"settings of \fBserve\fR as well" in told["sample"]
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".nh", ".ad", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".BR"}, (
        "a word of ours is none by chance"
    )


def test_the_shell_completes(unpacked: Path) -> None:
    """By the package's own file, with a command that is asked as the shell asks it."""
    program("bash")
    script = f"""\
        source {unpacked}/usr/share/bash-completion/completions/gpu-exporter
        gpu-exporter() {{ {sys.executable} -m gpu_exporter "$@"; }}
        env() {{ local pair; for pair in "${{@:1:3}}"; do local -x "$pair"; done; "$4"; }}
        compopt() {{ :; }}
        COMP_WORDS=(gpu-exporter check --fail-on cri) COMP_CWORD=3
        _gpu_exporter_completion gpu-exporter
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("critical\n", "")
    for shell in ("zsh/vendor-completions/_gpu-exporter", "fish/vendor_completions.d/gpu-exporter.fish"):
        assert "_GPU_EXPORTER_COMPLETE" in (unpacked / "usr/share" / shell).read_text()


def test_the_same_sources_give_the_same_package(
    package: Path, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same packages of others; that these are the same every time is the single file's test as well."""

    def again(folder: Path) -> bool:
        shutil.copytree(
            unpacked / deb.LIBRARY, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("gpu_exporter")
        )
        return True

    monkeypatch.setattr(deb, "fetched", again)
    same(deb.package(tmp_path, WHEN).path, package)


def test_wheel_and_sdist_are_the_same_when_built_again(tmp_path: Path) -> None:
    """packages() itself builds twice and refuses what differs; and the wheel of the sdist is that of the checkout."""
    wheel, sdist = sorted((one.path for one in python.packages(tmp_path, WHEN)), key=lambda path: path.suffix != ".whl")
    assert (wheel.name, sdist.name) == (
        f"gpu_exporter-{__version__}-py3-none-any.whl",
        f"gpu_exporter-{__version__}.tar.gz",
    )
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, filter="data")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target=wheel", "--directory", str(tmp_path / "again")],
        cwd=tmp_path / sdist.name.removesuffix(".tar.gz"),
        env={"SOURCE_DATE_EPOCH": str(WHEN), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    same(wheel, tmp_path / "again" / wheel.name)


def test_builds_that_differ_are_refused(tmp_path: Path) -> None:
    for folder, text in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.whl").write_text(text)
    with pytest.raises(RefusedError, match=r"x\.whl: built twice, and the bytes differ"):
        same(tmp_path / "a/x.whl", tmp_path / "b/x.whl")


@pytest.mark.parametrize(
    ("given", "made"),
    [("1790000000", WHEN), ("0", None), ("yesterday", None), ("", None)],
    ids=str,
)
def test_the_time_of_what_is_made(monkeypatch: pytest.MonkeyPatch, given: str, made: int | None) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    if made is None:
        with pytest.raises(RefusedError, match="is no time"):
            moment()
    else:
        assert moment() == made


def test_without_a_wish_it_is_the_last_commits_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    last = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert moment() == int(last.stdout)


def chart(folder: Path, text: str = "chart") -> Made:
    path = folder / f"gpu-exporter-{__version__}.tgz"
    path.write_text(text)
    return Made("chart", path, "")


def test_the_index_has_the_chart_where_it_is_downloaded_from(tmp_path: Path) -> None:
    made = chart(tmp_path)
    tree = yaml.safe_load(index(made, "https://charts.example.org/", WHEN).path.read_text())
    (entry,) = tree["entries"]["gpu-exporter"]
    assert entry["urls"] == [f"https://charts.example.org/{made.path.name}"]
    assert entry["digest"] == made.sum
    assert entry["version"] == yaml.safe_load((ROOT / "helm/gpu-exporter/Chart.yaml").read_text())["version"]
    assert entry["created"] == "2026-09-21T14:13:20Z"


def test_the_index_keeps_what_was_published(tmp_path: Path) -> None:
    made = chart(tmp_path)
    earlier = tmp_path / "earlier.yaml"
    old = {"name": "gpu-exporter", "version": "0.0.9", "digest": "1", "urls": ["x"]}
    earlier.write_text(yaml.safe_dump({"apiVersion": "v1", "entries": {"gpu-exporter": [old]}}))
    tree = yaml.safe_load(index(made, "https://x", WHEN, earlier).path.read_text())
    assert [entry["version"] for entry in tree["entries"]["gpu-exporter"]] == [__version__, "0.0.9"]
    published = tmp_path / "published.yaml"
    published.write_text((tmp_path / "index.yaml").read_text())
    again = yaml.safe_load(index(made, "https://x", WHEN, published).path.read_text())
    assert again == tree, "the same chart may be published again"
    with pytest.raises(RefusedError, match="another chart of this version; raise the version"):
        index(chart(tmp_path, "changed"), "https://x", WHEN, published)
    earlier.write_text("<html>")
    with pytest.raises(RefusedError, match="is no index"):
        index(made, "https://x", WHEN, earlier)


def test_the_table_tells_what_was_made_and_what_was_not() -> None:
    text = table([Made("file", ROOT / "LICENSE", "note")], [("deb", "left out: dpkg-deb is missing")])
    assert re.search(r"^file +LICENSE +11 kB +[0-9a-f]{12}  note$", text, re.MULTILINE)
    assert text.endswith("\ndeb: left out: dpkg-deb is missing")


def test_the_base_is_pinned_by_the_digest_of_all_processors() -> None:
    assert re.fullmatch(r"docker\.io/library/debian:[a-z]+-slim@sha256:[0-9a-f]{64}", images.pinned())


def test_what_cannot_be_emulated_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "impossible", lambda: "")
    monkeypatch.setattr(images, "cannot_emulate", lambda: "arm64 is foreign here: apt-get install qemu-user-static")
    monkeypatch.setattr(images, "OWN", "amd64")
    with pytest.raises(LeftOutError, match="qemu-user-static"):
        next(images.image(tmp_path, "arm64"))


def test_the_loop_over_servers_installs_on_each(tmp_path: Path) -> None:
    page = (ROOT / "docs/CENTER.md").read_text()
    (loop, *_) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    told = tmp_path / "told"
    script = f'scp() {{ echo "scp $*" >> {told}; }}\nssh() {{ echo "ssh $*" >> {told}; }}\n{loop}'
    subprocess.run(["bash", "-ec", script], check=True)
    lines = told.read_text().splitlines()
    package = f"gpu-exporter_{__version__}_all.deb"
    assert lines[0::2] == [f"scp {package} gpu-{number}:/tmp/" for number in range(1, 7)]
    assert all(line.startswith(f"ssh gpu-{number} sudo ") for number, line in enumerate(lines[1::2], start=1))
    assert all(package in line for line in lines)


@pytest.mark.slow
def test_the_lists_have_every_package_that_is_locked(tmp_path: Path) -> None:
    """cyclonedx-py itself checks them against the schema. Slow: make dist-test."""
    for name, made in zip(bom.OF, bom.lists(tmp_path), strict=True):
        document = json.loads(made.path.read_text())
        assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
        assert document["metadata"]["component"]["version"] == __version__
        locked = re.findall(r"^([\w.-]+)==([^ ;]+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE)
        assert {(one["name"], one["version"]) for one in document["components"]} == set(locked)
        assert all(one["purl"].startswith(f"pkg:pypi/{one['name']}@") for one in document["components"])


@pytest.mark.slow
def test_make_dist_makes_it_all() -> None:
    """But for the images, which tests/deploy/test_container.py builds. Slow: make dist-test."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.dist", "--no-images"],
        cwd=ROOT,
        env=environment({"PYTHONWARNINGS": ""}),  # those of pip and cyclonedx-py are not ours
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sums = dict(line.split("  ")[::-1] for line in (ROOT / "dist/SHA256SUMS").read_text().splitlines())
    files = {path.name: path for path in (ROOT / "dist").rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert sums == {name: Made("", path, "").sum for name, path in files.items()}
    kinds = " ".join(sorted(name.partition(__version__)[2] or name for name in files))
    assert kinds == (
        "-py3-none-any.whl .image.cdx.json .pyz.cdx.json .tar.gz .tgz _all.deb gpu-exporter.pyz index.yaml"
    )
    assert all(name in done.stdout for name in files)
