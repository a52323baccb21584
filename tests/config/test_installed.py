"""Where a library is missing, the command that is named brings it, however the program was installed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpu_exporter.config.installed import Installation, remedy

# Debian's own Python with the package: /usr/bin/gpu-exporter begins with python3 -I.
DEBIAN = Installation(
    python=Path("/usr/bin/python3"),
    prefix=Path("/usr"),
    home=Path("/usr/lib/gpu-exporter"),
    environment=False,
    managed=True,
    isolated=True,
    has_pip=False,
    has_apt=True,
    has_venv=True,
)
ENVIRONMENT = "run: python3 -m venv ~/gpu && ~/gpu/bin/pip install textual msgspec, and from then on: "
WITHOUT = f"{ENVIRONMENT[5:]}PYTHONPATH=/usr/lib/gpu-exporter ~/gpu/bin/python -m gpu_exporter"


def in_environment(prefix: Path, *, has_pip: bool = False) -> Installation:
    packages = prefix / "lib/python3.11/site-packages"
    return replace(
        DEBIAN,
        python=prefix / "bin/python",
        prefix=prefix,
        home=packages,
        environment=True,
        isolated=False,
        has_pip=has_pip,
    )


@pytest.mark.parametrize(
    ("installation", "expected"),
    [
        (DEBIAN, f"run: {WITHOUT}"),
        (
            replace(DEBIAN, has_venv=False),
            f"run: apt-get install python3-venv && {WITHOUT}",
        ),
        (
            replace(DEBIAN, managed=False),
            f"run: {WITHOUT}",
        ),
        (
            replace(DEBIAN, home=Path("/home/a b/exporter"), isolated=False, has_pip=True),
            f"{ENVIRONMENT}PYTHONPATH='/home/a b/exporter' ~/gpu/bin/python -m gpu_exporter",
        ),
        (
            replace(DEBIAN, python=Path("/usr/local/bin/python3.12"), managed=False, isolated=False, has_pip=True),
            "run: /usr/local/bin/python3.12 -m pip install textual msgspec",
        ),
        (
            in_environment(Path("/root/gpu"), has_pip=True),
            "run: /root/gpu/bin/python -m pip install textual msgspec",
        ),
        (
            in_environment(Path("/opt/own")),
            "run: python3 -m pip --python /opt/own/bin/python install textual msgspec",
        ),
    ],
    ids=[
        "deb",
        "deb without python3-venv",
        "deb before PEP 668",
        "checkout",
        "another Python",
        "environment",
        "environment without pip",
    ],
)
def test_what_brings_it(installation: Installation, expected: str) -> None:
    assert installation.remedy(["textual", "msgspec"]) == expected


def test_the_single_file(tmp_path: Path) -> None:
    file = tmp_path / "gpu-exporter.pyz"
    file.touch()
    single = replace(DEBIAN, home=file, isolated=False)
    assert single.remedy(["textual", "msgspec"]) == f"{ENVIRONMENT}~/gpu/bin/python {file}"
    assert single.remedy(["bcrypt"]) == "run: apt-get install python3-bcrypt"
    assert DEBIAN.remedy(["bcrypt"]) == "run: apt-get install python3-bcrypt"


def test_environments_of_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places = (".local/share/pipx/venvs/gpu-exporter", "p/venvs/g", "u", "i")
    usual, ours, uv, image = (tmp_path / name for name in places)
    for prefix, file, text in (
        (usual, "pipx_metadata.json", "{}"),
        (ours, "pipx_metadata.json", "{}"),
        (uv, "pyvenv.cfg", "home = /usr/bin\nuv = 0.9.1\n"),
        (image, "healthcheck.py", ""),
    ):
        prefix.mkdir(parents=True)
        (prefix / file).write_text(text)
    told = [in_environment(prefix).remedy(["textual"]) for prefix in (usual, ours, uv)]
    assert told == [
        "run: pipx inject gpu-exporter textual",
        f"run: PIPX_HOME={tmp_path / 'p'} pipx inject g textual",
        f"run: uv pip install --python {uv / 'bin/python'} textual",
    ]
    assert "outside of the container" in in_environment(image).remedy(["textual"])


def test_of_this_process() -> None:
    here = Installation.here()
    assert (here.home / "gpu_exporter/__init__.py").is_file()
    assert here.environment is (sys.prefix != sys.base_prefix)
    assert remedy(["pyside6-essentials<6.12"]).endswith(" install 'pyside6-essentials<6.12'")
