"""The image, built from the Dockerfile and run as Docker runs it: read-only, as nobody, without privileges.

Docker is not needed: buildah builds in a chroot. The base is made here of Debian's packages: a registry may be
out of reach; GPU_EXPORTER_TEST_BASE names another one to build on, such as docker.io/library/debian:trixie-slim.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import platform_tags
from tools.lab import ROOT
from tools.lab.debian import impossible
from tools.lab.emulation import arm64, cannot_emulate
from tools.lab.exporter import parse, pick
from tools.lab.image import Buildah
from tools.lab.nvml_stub import Stub, build
from tools.lab.ports import free_port
from tools.lab.programs import program
from tools.lab.wait import patience, wait_for

from gpu_exporter import __version__

pytestmark = pytest.mark.e2e
LIMIT = 80_000_000  # bytes, compressed, base included
# Docker's own view of a container: its root read-only, /proc, and what is mounted.
ENTER = """\
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /proc "$root/proc"
while [ "$1" != -- ]; do
    mkdir -p "$(dirname "$root$2")"
    if [ -d "$1" ]; then mkdir -p "$root$2"; else touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    shift 2
done
shift
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=65534:65534 "$root" "$@"
"""


@dataclass
class Image:
    """What was built: its configuration, and its files in a folder."""

    root: Path
    settings: dict[str, Any]
    size: int
    log: str
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.env = dict(line.split("=", 1) for line in self.settings["Env"])

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, mounts: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Run a command in a container of its own."""
        pairs = [part for pair in (mounts or {}).items() for part in pair]
        return subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", ENTER, "enter", str(self.root), *pairs, "--", *command],
            env={**self.env, "PATH": f"{self.env['PATH']}:/usr/sbin:/sbin", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **rest: Any) -> tuple[int, str]:
        """Status and output of a command."""
        process = self.start(command, **rest)
        output, _ = process.communicate(timeout=patience())
        return process.returncode, output

    def check(self, env: Mapping[str, str]) -> tuple[int, str]:
        """What Docker's health check finds."""
        kind, *command = self.settings["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(*command, env=env)


@contextmanager
def built(folder: Path, processor: str = "") -> Iterator[Image]:
    with Buildah(folder, processor) as buildah:
        log = buildah.build("image", VERSION=__version__, REVISION="0123abc")
        settings = json.loads(buildah("inspect", "--type=image", "image"))["Docker"]["config"]
        buildah("push", "--quiet", "image", f"oci:{folder / 'pushed'}:image")
        size = sum(path.stat().st_size for path in (folder / "pushed/blobs").rglob("*") if path.is_file())
        container = buildah("from", *buildah.where(processor), "image").strip()
        yield Image(Path(buildah("mount", container).strip()), settings, size, log)


def test_the_image(tmp_path: Path, library: Path) -> None:
    if reason := impossible():
        pytest.skip(reason)
    with built(tmp_path) as image:
        it_says_what_it_is(image)
        it_is_small(image)
        it_holds_what_it_needs_and_no_pip(image)
        it_is_compiled_for_its_own_processor(image)
        it_serves_on_a_read_only_root_as_nobody(image)
        it_reads_gpus_where_the_library_is_mounted(image, tmp_path, library)
        the_single_file_runs_on_its_bare_python(image, tmp_path)
        other_processors_get_the_same(image, tmp_path)


@pytest.mark.slow
def test_the_image_for_arm64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built and run by qemu's emulation; the stand-in is compiled for it. Slow: make dist-test."""
    if reason := impossible() or cannot_emulate():
        pytest.skip(reason)
    monkeypatch.setenv("CC", program("aarch64-linux-gnu-gcc"))
    library = build(tmp_path / "library")
    with arm64(), built(tmp_path, "arm64") as image:
        assert image.run("uname", "-m") == (0, "aarch64\n")
        it_says_what_it_is(image)
        it_is_small(image)
        it_holds_what_it_needs_and_no_pip(image)
        it_is_compiled_for_its_own_processor(image)
        it_serves_on_a_read_only_root_as_nobody(image)
        it_reads_gpus_where_the_library_is_mounted(image, tmp_path, library)


def it_says_what_it_is(image: Image) -> None:
    settings = image.settings
    assert settings["User"] == "65534:65534"
    assert settings["Entrypoint"] == ["gpu-exporter"]
    assert list(settings["ExposedPorts"]) == ["9435/tcp"]
    assert settings["StopSignal"] == "SIGTERM"
    labels = settings["Labels"]
    assert labels["org.opencontainers.image.title"] == "gpu-exporter"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == "0123abc"
    assert labels["org.opencontainers.image.source"].startswith("https://github.com/")
    assert image.env["NVIDIA_DRIVER_CAPABILITIES"] == "utility"


def it_is_small(image: Image) -> None:
    assert 10_000_000 < image.size < LIMIT


def it_holds_what_it_needs_and_no_pip(image: Image) -> None:
    assert "does not provide the extra" not in image.log
    assert image.run("python3", "-I", "-c", "import bcrypt, h2, pynvml, yaml.cyaml")[0] == 0
    assert image.run("gpu-exporter", "--version") == (0, f"gpu-exporter {__version__}\n")
    packages = next((image.root / "opt/gpu-exporter/lib").glob("python3.*/site-packages"))
    assert not [path.name for path in packages.iterdir() if re.match(r"pip|setuptools|wheel", path.name)]
    compiled = {path.name for path in (packages / "gpu_exporter/__pycache__").iterdir()}
    version = packages.parent.name.removeprefix("python").replace(".", "")
    assert f"daemon.cpython-{version}.pyc" in compiled, "nobody could write it later"
    assert all(f"cpython-{version}." in name for name in compiled), "and none that was made elsewhere"
    for what in ("tests", "src", "var/lib/apt/lists/lock"):
        assert not (image.root / what).exists()


def it_is_compiled_for_its_own_processor(image: Image) -> None:
    """Every library in it as its Python, by what their heads say (ELF's e_machine)."""
    python = next((image.root / "usr/bin").glob("python3.[0-9]*"))
    libraries = list((image.root / "opt/gpu-exporter").rglob("*.so"))
    assert len(libraries) > 10
    machines = {path.read_bytes()[18:20] for path in [*libraries, python]}
    assert len(machines) == 1


def it_serves_on_a_read_only_root_as_nobody(image: Image) -> None:
    port = free_port()
    env = {"GPU_EXPORTER_SOURCE": "fake", "GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{port}"}
    status, output = image.run("sh", "-c", "id -u; echo >/tmp/file")
    assert status != 0
    assert output.startswith("65534\n")
    assert "Read-only file system" in output
    assert image.check(env)[0] == 1, "nothing runs yet"

    process = image.start(image.settings["Entrypoint"], env=env)
    try:

        def page() -> str | None:
            assert process.poll() is None
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience())
            try:
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
            except OSError:
                return None
            finally:
                connection.close()
            return text if 'gpu_exporter_gpus{state="up"} 8' in text else None

        samples = parse(wait_for(page))
        assert pick(samples, "gpu_exporter_build_info", version=__version__) == 1
        assert len([name for name, _ in samples if name == "gpu_up"]) == 8
        state = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", state, re.MULTILINE)
        assert re.search(r"^CapEff:\t0{16}$", state, re.MULTILINE)
        assert image.check(env) == (0, "")
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=patience())[0]
        assert process.returncode == 0, output
    finally:
        process.kill()
        process.wait()


def it_reads_gpus_where_the_library_is_mounted(image: Image, folder: Path, library: Path) -> None:
    """The form without the NVIDIA runtime: docs/CONTAINER.md mounts the library there, on every processor."""
    machine = Stub(folder, ["a100", "l40s"])
    machine.state_file.chmod(0o666)
    states = {str(machine.state_file): "/run/state"}
    env = {"NVML_STUB_STATE": "/run/state"}
    mounted = {**states, str(library / "libnvidia-ml.so.1"): "/usr/lib/libnvidia-ml.so.1"}
    status, output = image.run("gpu-exporter", "sample", env=env, mounts=mounted)
    assert status == 0, output
    assert "A100" in output
    assert "L40S" in output


def the_single_file_runs_on_its_bare_python(image: Image, folder: Path) -> None:
    """Another Python than the one of the tests, with nothing installed."""
    archive = folder / "gpu-exporter.pyz"
    subprocess.run([sys.executable, "tools/pyz.py", str(archive)], cwd=ROOT, check=True, capture_output=True)
    archive.chmod(0o755)
    bare = ("/usr/bin/python3", "-I", "-S", "/run/gpu-exporter.pyz")
    mounts = {str(archive): "/run/gpu-exporter.pyz"}
    assert image.run(*bare, "--version", mounts=mounts) == (0, f"gpu-exporter {__version__}\n")
    status, output = image.run(*bare, "sample", "--source=fake", mounts=mounts)
    assert status == 0, output
    assert "NVIDIA H100" in output


def other_processors_get_the_same(image: Image, folder: Path) -> None:
    """What is compiled in the image there is for arm64 as well, in the same version."""
    packages = next((image.root / "opt/gpu-exporter/lib").glob("python3.*/site-packages"))
    compiled = {path.relative_to(packages).parts[0] for path in packages.rglob("*.so")}
    owners = [
        record.parent.name.removesuffix(".dist-info").split("-")
        for record in packages.glob("*.dist-info/RECORD")
        if any(line.split("/")[0] in compiled and ".so," in line for line in record.read_text().splitlines())
    ]
    hub = {"aiohttp", "frozenlist", "markupsafe", "msgspec", "multidict", "propcache", "yarl"}
    assert {name.lower() for name, _ in owners} == {"bcrypt", "pyyaml"} | hub, "a new one is looked at here"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
            *(f"--python-version={packages.parent.name.removeprefix('python')}", f"--dest={folder / 'arm64'}"),
            *("--platform=manylinux_2_28_aarch64", "--platform=manylinux2014_aarch64"),
            *(f"{name}=={version}" for name, version in owners),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "arm64").glob("*aarch64.whl"))) == len(owners)


def dockerfile() -> str:
    return re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)


def test_the_image_is_the_same_for_every_processor() -> None:
    build, _, image = dockerfile().rpartition("\nFROM ")
    assert not re.search(r"amd64|arm64|x86|aarch64|linux-gnu|--platform", image)
    assert re.search(r"^USER 65534:65534$", image, re.MULTILINE), "Kubernetes' runAsNonRoot wants a number"
    # A builder that does not tell its own platform would refuse an empty one.
    assert re.findall(r"--platform=(\$\S+)", build) == ["${BUILDPLATFORM:-$BUILDER}"]
    assert "\nARG BUILDER=linux/amd64\n" in build
    assert build.count("amd64") == 2, "as the default, and where it is told by another name"


@pytest.mark.parametrize(
    ("told", "asked"),
    [("amd64", "x86_64"), ("arm64", "aarch64"), ("ppc64le", "ppc64le"), ("", platform.machine())],
    ids=["amd64", "arm64", "ppc64le", "not told"],
)
def test_pip_asks_for_what_that_processor_could_load(told: str, asked: str) -> None:
    """By the Dockerfile's own lines, against what this glibc's Python asks for by itself."""
    lines = dockerfile()
    (naming,) = re.findall(r"case .*esac", lines)
    (counting,) = re.findall(r"minor=.*\)", lines)
    (listing,) = re.findall(r"(\$\(seq .*\) \S+) \\\n", lines)
    script = f"{naming}\n{counting}\nprintf '%s\\n' {listing}"
    done = subprocess.run(
        ["sh", "-ec", script],
        env={"PATH": os.environ["PATH"], **({"TARGETARCH": told} if told else {})},
        capture_output=True,
        text=True,
        check=True,
    )
    platforms = [line.removeprefix("--platform=") for line in done.stdout.splitlines()]
    assert {re.sub(r"^manylinux(2014|_2_\d+)_", "", each) for each in platforms} == {asked}
    own = [tag.replace(platform.machine(), asked) for tag in platform_tags() if re.match("manylinux(_|2014)", tag)]
    assert set(own) <= set(platforms)
    ranked = [each for each in platforms if each in own and "2014" not in each]
    assert ranked == [each for each in own if "2014" not in each], "the newest first, as there"


def test_what_is_locked_for_the_image_asks_no_processor() -> None:
    """pip judges such conditions by the processor that builds."""
    conditions = re.findall(r"^\S+==\S+ ; (.*?) \\$", (ROOT / "requirements/image.txt").read_text(), re.MULTILINE)
    assert conditions
    assert {re.split(r" [<=>]", condition)[0] for condition in conditions} == {"python_full_version"}


def test_the_builder_is_sent_little() -> None:
    """Everything that the Dockerfile copies, and nothing else: no history, no tests, no keys that lie about."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        copied |= set(sources.split())
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    assert {path if path in sent else str(Path(path).parent) for path in copied} == sent
