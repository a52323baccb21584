"""Bare machines: each way of docs/INSTALL.md and docs/CENTER.md, word for word. Slow: make dist-test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tools.dist import deb
from tools.dist.moment import moment
from tools.lab import ROOT
from tools.lab.debian import archive, impossible
from tools.lab.image import ours
from tools.lab.wait import wait_for

from boot import Machine, booted
from gpu_exporter import __version__

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
INSTALL, CENTER = ROOT / "docs/INSTALL.md", ROOT / "docs/CENTER.md"
# A machine of its own but for the network: what is mounted, and the names that this machine looks up.
ENTER = """\
set -e
root=$1; shift
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
cp --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
while [ "$1" != -- ]; do
    mkdir -p "$(dirname "$root$2")"; touch "$root$2"; mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    DEBIAN_FRONTEND=noninteractive GPU_EXPORTER_SOURCE=fake bash -ec "$1"
"""

# What make put into the checkout.
LEAVE = "rm -r .venv .build"


def blocks(page: Path, section: str) -> list[str]:
    """The commands of a section."""
    _, _, text = page.read_text().partition(f"\n## {section}\n")
    assert text, f"{page.name} has no section {section}"
    return re.findall(r"^```bash\n(.*?)^```$", text.split("\n## ")[0], re.MULTILINE | re.DOTALL)


class Bare:
    """One root, with a checkout in /root, as a person would have one there."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self.home = root / "root"
        self._mounts = [part for pair in ours(folder).items() for part in map(str, pair)]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", ENTER, "enter", str(self._root), *self._mounts, "--", f"cd; {script}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )

    def does(self, script: str) -> str:
        done = self.run(script)
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(params=["bookworm", "noble"], scope="module")
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    if reason := impossible():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(request.param)
    root = folder / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", str(archive(release=request.param)), "-C", str(root)], check=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [name for name in listed.decode().split("\0") if name and (ROOT / name).exists()]
    subprocess.run(["cp", "--parents", "-t", str(root / "root"), *files], cwd=ROOT, check=True)
    deb.package(root / "root", moment())
    subprocess.run([sys.executable, "tools/pyz.py", str(root / "root/gpu-exporter.pyz")], cwd=ROOT, check=True)
    yield Bare(root, folder)
    shutil.rmtree(root)


def test_the_demo_in_a_bare_root(bare: Bare) -> None:
    """Two commands of README.md, until the mail."""
    (needed,) = re.findall(r"`apt-get install ([^`]+)`", (ROOT / "README.md").read_text())
    assert f"`apt-get install {needed}`" in (ROOT / "docs/START_NO_GPU.md").read_text()
    bare.does(f"apt-get update -qq; apt-get install --yes --no-install-recommends {needed}")
    said = bare.does(f"make demo DEMO='--any-ports --until-mail'; {LEAVE}")
    assert "Subject: [FIRING:1] gpu-b: GPU 2 overheating" in said


def test_the_ways_of_installing(bare: Bare) -> None:
    bare.does("apt-get update -qq")
    the_debian_package(bare)
    the_single_file_by_hand(bare)
    a_virtual_environment(bare)
    by_pipx(bare)


def the_debian_package(bare: Bare) -> None:
    installing = blocks(INSTALL, "Debian and Ubuntu")[0]
    assert "simulated data" in bare.does(f"{installing}gpu-exporter sample 2>&1")
    assert bare.does("gpu-exporter --version") == f"gpu-exporter {__version__}\n"
    assert "gpu-exporter.service" in bare.does("ls /etc/systemd/system/multi-user.target.wants").split()
    (bare.home / "web.yml").write_text(f"basic_auth_users: {{a: $2b$12${'x' * 53}}}\n")
    refused = bare.run("gpu-exporter check-config --web.config.file web.yml")
    (advice,) = re.findall(r"needs the package bcrypt; run: (apt-get install .+)$", refused.stderr)
    bare.does(f"{advice.replace('install', 'install --yes')}; gpu-exporter check-config --web.config.file web.yml")
    without_any_gpu(bare)
    more_of_it(bare, "gpu-exporter")
    beside_the_package(bare)
    assert (
        bare.does("apt-get purge --yes gpu-exporter; ls /usr/lib/gpu-exporter /etc/gpu-exporter 2>&1 || true").count(
            "No such file"
        )
        == 2
    )


def the_single_file_by_hand(bare: Bare) -> None:
    (block,) = blocks(INSTALL, "One file by hand")
    *looks, serving = block.splitlines()
    assert "nobody" in bare.does("\n".join(looks))
    assert f"{serving.split()[0]} {serving.split()[1]}" == "python3 gpu-exporter.pyz"
    more_of_it(bare, "python3 gpu-exporter.pyz")


def more_of_it(bare: Bare, program: str) -> None:
    """What is said where libraries are missing works, word for word."""
    refused = bare.run(f"{program} top --once --source fake")
    (installing, running) = re.findall(r"run: (.*), and from then on: (.*)\n", refused.stderr)[0]
    bare.does(installing.replace("apt-get install", "apt-get install --yes"))
    assert "free" in bare.does(f"{running} top --once --source fake")
    assert "is not a terminal" in bare.run(f"{running} top --source fake").stderr, "the same brings the live view"
    bare.does("rm -r ~/gpu")


def no_gpu() -> list[str]:
    """The commands of docs/START_NO_GPU.md."""
    page = (ROOT / "docs/START_NO_GPU.md").read_text()
    return re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def without_any_gpu(bare: Bare) -> None:
    """docs/START_NO_GPU.md, once the program is installed. The port is another: the network is this machine's."""
    *looks, serving = no_gpu()[2].replace(":9440", ":19437").splitlines()
    assert [bare.does(look) != "" for look in looks] == [True, True]
    fetch = "import urllib.request as web; print(web.urlopen('http://127.0.0.1:19437/metrics').read().decode())"
    waiting = f'until python3 -c "{fetch}" 2>/dev/null | grep "^gpu_up{{"; do sleep 0.2; done'
    assert len(bare.does(f"{serving} & trap 'kill $!; wait' EXIT; {waiting}").splitlines()) == 8


def beside_the_package(bare: Bare) -> None:
    """The page's own lines for the terminal, and what it says that the hub needs as well."""
    (block,) = blocks(INSTALL, "Debian and Ubuntu")[1:]
    assert "free" in bare.does(f"{block.rstrip()} --once --source fake")
    (more,) = re.findall(r"The hub needs ((?:`\w+`(?:, | and )?)+) as well", INSTALL.read_text())
    bare.does(f"~/gpu/bin/pip install {more.replace('`', '').replace(',', '').replace(' and ', ' ')}")
    the_hub_answers(bare, f"{block.splitlines()[-1].removesuffix(' top')} hub")
    bare.does("rm -r ~/gpu")


def the_hub_answers(bare: Bare, command: str) -> None:
    """With a machine that is there: the page names it as online."""
    bare.does(
        f"""\
        printf -- "- targets: ['127.0.0.1:19435']\\n  labels: {{alias: gpu-a}}\\n" > nodes.yml
        python3 gpu-exporter.pyz --web.listen-address=127.0.0.1:19435 &
        {command} --nodes.file=nodes.yml --history.path=/tmp/history.db --web.listen-address=127.0.0.1:19436 &
        trap 'kill $(jobs -p); wait' EXIT
        python3 - <<'END'
import time, urllib.request
while True:
    try:
        text = urllib.request.urlopen("http://127.0.0.1:19436/api/v1/nodes").read().decode()
    except OSError:
        text = ""
    if '"gpu-a"' in text and '"online"' in text:
        break
    time.sleep(0.2)
END
        """
    )


def a_virtual_environment(bare: Bare) -> None:
    (installing,) = blocks(INSTALL, "A virtual environment")
    bare.does("apt-get install --yes --no-install-recommends python3-venv python3-pip")
    assert "externally-managed-environment" in bare.run("python3 -m pip install .").stderr, "as the page says"
    bare.does(installing)
    assert bare.does("~/gpu/bin/gpu-exporter --version") == f"gpu-exporter {__version__}\n"
    (more,) = re.findall(r"`(~/gpu/bin/pip install [^`]+)`", INSTALL.read_text())
    bare.does(more)
    assert "free" in bare.does("~/gpu/bin/gpu-exporter top --once --source fake")
    bare.does("rm -r ~/gpu")
    assert "free" in bare.does(f"{no_gpu()[1]}gpu-exporter top --once --source fake")


def by_pipx(bare: Bare) -> None:
    (installing,) = blocks(INSTALL, "pipx")
    bare.does(f"apt-get install --yes --no-install-recommends pipx\n{installing}")
    assert bare.does("/usr/local/bin/gpu-exporter --version") == f"gpu-exporter {__version__}\n"
    (hub,) = blocks(INSTALL, "The hub")
    bare.does(f"apt-get install --yes --no-install-recommends systemd\n{hub.replace(' --now', '')}")
    assert "gpu-exporter-hub.service" in bare.does("ls /etc/systemd/system/multi-user.target.wants").split()
    (started,) = re.findall(
        r"^ExecStart=(\S+ hub) ", (ROOT / "deploy/systemd/gpu-exporter-hub.service").read_text(), re.MULTILINE
    )
    the_hub_answers(bare, started)  # pipx had the exporter already, without the hub


@pytest.fixture
def center(tmp_path: Path) -> Iterator[Machine]:
    """A Debian 12 that has booted, with the packages that the page installs: it has no network to fetch them by."""
    if reason := impossible():
        pytest.skip(reason)
    root = tmp_path / "root"
    root.mkdir()
    packages = ("systemd", "python3", "procps", "prometheus", "prometheus-alertmanager", "python3-aiosmtpd")
    made = archive(*packages, release="bookworm")
    subprocess.run(["tar", "-xf", str(made), "-C", str(root)], check=True)
    deb.package(root / "root", moment())
    with booted(root) as machine:
        yield machine


def does(machine: Machine, script: str) -> str:
    done = machine.run("bash", "-ec", f"cd /root\n{script}")
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_center_of_the_page_mails(center: Machine) -> None:
    """From the package to the mail about a hot GPU, by the page's own commands, at the deployed rules' own speed."""
    packages, files, machines, options = blocks(CENTER, "On the center")
    mail, checks = blocks(CENTER, "Your mail server")
    rehearsal, story = blocks(CENTER, "Rehearse it")
    wait_for(lambda: center.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"})
    does(center, packages)
    does(center, f"{files}\n{machines}\n{options.replace('$share', '/usr/share/gpu-exporter')}")
    does(center, mail)
    # The test's mail server wants neither a login nor TLS.
    here = (
        "s/smtp.lab.example.org:587/127.0.0.1:2525/; /smtp_auth_/d; s/smtp_require_tls: true/smtp_require_tls: false/"
    )
    does(center, f"sed -i '{here}' /etc/alertmanager/alertmanager.yml")
    mailbox = "python3 -m aiosmtpd -n -l 127.0.0.1:2525 -c aiosmtpd.handlers.Mailbox /root/mails"
    does(center, f"systemd-run --unit=mailbox {mailbox}")
    does(center, checks)
    wait_for(lambda: center.run("gpu-exporter", "test-mail", "--wait=1s").returncode != 2, lambda: state(center))
    said = does(center, rehearsal)
    assert "route: oncall\n  mail to gpu-oncall@lab.example.org by 127.0.0.1:2525\nsent: email" in said

    *writing, serving = [part for part in story.split("END\n") if part.strip()]
    does(center, "END\n".join([*writing, ""]))
    does(center, f"systemd-run --unit=hot --working-directory=/root /usr/bin/{serving}")
    named = yaml.safe_load((center.root / "etc/prometheus/nodes.yml").read_text())
    assert [group["labels"]["alias"] for group in named] == [f"gpu-{number}" for number in range(1, 7)]
    (center.root / "etc/prometheus/nodes.yml").write_text("- targets: ['localhost:9437']\n  labels: {alias: gpu-1}\n")
    wait_for(lambda: "GPU 0" in mails(center, "gpu-team@lab.example.org"), lambda: state(center), timeout=900)


def mails(machine: Machine, to: str) -> str:
    """Subjects of what was sent to somebody."""
    texts = [path.read_text("utf-8", "replace") for path in (machine.root / "root/mails/new").glob("*")]
    return "\n".join(
        line for text in texts if f"To: {to}" in text for line in text.splitlines() if line.startswith("Subject:")
    )


def state(machine: Machine) -> str:
    return machine.run("journalctl", "--no-pager", "--lines=60").stdout
