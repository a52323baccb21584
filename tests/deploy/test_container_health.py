"""The image's health check, as the container runs it, against a real exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tools.lab import ROOT
from tools.lab.exporter import Exporter, environment
from tools.lab.ports import free_port

from certificates import Site, hashed
from serving import serving

CHECK = ROOT / "deploy/container/healthcheck.py"


def check(settings: Mapping[str, str]) -> tuple[int, str]:
    """Status and output; -I as in the image."""
    done = subprocess.run(
        [sys.executable, "-I", str(CHECK)], env=environment(settings), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def exporter(folder: Path, settings: Mapping[str, str]) -> Exporter:
    """One that the environment alone tells where to listen."""
    return Exporter(folder, "--source=fake", "--fake.gpus=1", extra=settings)


def test_it_asks_where_the_environment_says(tmp_path: Path) -> None:
    with exporter(tmp_path, {}) as running:
        for address in (f"127.0.0.1:{running.port}", f"0.0.0.0:{running.port}", f"localhost:{running.port}"):
            assert check({"GPU_EXPORTER_WEB_LISTEN_ADDRESS": address}) == (0, "")
            assert check({"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"{address}, 127.0.0.1:1"}) == (0, "")
    status, output = check({"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f":{running.port}"})
    assert status == 1
    assert output == f"127.0.0.1:{running.port} does not answer: [Errno 111] Connection refused\n"


def test_it_asks_where_the_file_says(tmp_path: Path) -> None:
    with exporter(tmp_path, {}) as running:
        (tmp_path / "config.yml").write_text(json.dumps({"web": {"listen_address": f"127.0.0.1:{running.port}"}}))
        file = {"GPU_EXPORTER_CONFIG_FILE": str(tmp_path / "config.yml")}
        assert check(file) == (0, "")
        several = {"web": {"listen_address": [f"localhost:{running.port}", ":1"]}}
        (tmp_path / "config.yml").write_text(json.dumps(several))
        assert check(file) == (0, "")
        elsewhere = {"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}"}
        assert check({**file, **elsewhere})[0] == 1, "the environment goes over the file"
        (tmp_path / "config.yml").write_text("collection: {interval: 7s}")
        assert check({**file, "GPU_EXPORTER_WEB_LISTEN_ADDRESS": f":{running.port}"}) == (0, "")


@pytest.mark.parametrize("client", ["NoClientCert", "RequireAndVerifyClientCert"])
def test_tls_passwords_and_certificates_are_signs_of_life(tmp_path: Path, client: str) -> None:
    site = Site(tmp_path)
    ca = "" if client == "NoClientCert" else "\nclient_ca_file: ca.pem"
    web = site.write(f"client_auth_type: {client}{ca}", rest=f"basic_auth_users: {{alice: {hashed('secret')}}}\n")
    settings = {"GPU_EXPORTER_WEB_CONFIG_FILE": str(web)}
    with exporter(tmp_path, settings) as running:
        address = {"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{running.port}"}
        assert check({**settings, **address}) == (0, "")
        (tmp_path / "config.yml").write_text(json.dumps({"web": {"config_file": str(web)}}))
        assert check({"GPU_EXPORTER_CONFIG_FILE": str(tmp_path / "config.yml"), **address}) == (0, "")
        assert check(address)[0] == 1, "without TLS it would be no sign of life"
    assert check({**settings, **address})[0] == 1, "nobody turns anybody away any more"


@pytest.mark.parametrize(
    ("answer", "status"), [("200 OK", 0), ("401 Unauthorized", 0), ("503 Service Unavailable", 1), ("404 Not Found", 1)]
)
def test_what_the_answer_means(answer: str, status: int) -> None:
    asked: list[str] = []

    def application(request: dict[str, str], start_response: object) -> list[bytes]:
        asked.append(request["PATH_INFO"])
        assert callable(start_response)
        start_response(answer, [])
        return [b""]

    with serving(application) as server:
        found, output = check({"GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{server.port}"})
    assert asked == ["/livez"]
    assert found == status
    assert output == ("" if status == 0 else f"127.0.0.1:{server.port}/livez answers {answer[:3]}\n")


def test_it_starts_quickly_because_it_imports_little() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", str(CHECK)],
        env={**os.environ, "GPU_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "socket" in imported
    assert not {"ssl", "yaml", "click", "http.client", "gpu_exporter"} & imported
