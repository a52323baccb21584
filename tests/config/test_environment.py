"""Variables of the environment: which are settings, which nobody knows, and which a platform sets by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.lab import ROOT
from tools.lab.exporter import run

from gpu_exporter.cli.group import cli
from gpu_exporter.config import ConfigError, from_environment, refuse_unknown, settings

KNOWN = frozenset(setting.variable for setting in settings()) | {"GPU_EXPORTER_CONFIG_FILE"}
UNNAMED = "unknown variable; each is named after its flag, as GPU_EXPORTER_WEB_ALLOW is after --web.allow"


def refusal(**variables: str) -> str | None:
    try:
        refuse_unknown({"PATH": "/bin", **variables}, KNOWN)
    except ConfigError as error:
        return str(error)
    return None


def kubernetes(service: str, address: str, *ports: tuple[str, int, str]) -> dict[str, str]:
    """What the kubelet sets for a service (name, number and protocol of each port): pkg/kubelet/envvars."""
    name = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    _, first, protocol = ports[0]
    made = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(first),
        f"{name}_PORT": f"{protocol}://{host}:{first}",
    }
    for port, number, protocol in ports:
        if port:
            made[f"{name}_SERVICE_PORT_{port.upper().replace('-', '_')}"] = str(number)
        link = f"{name}_PORT_{number}_{protocol.upper()}"
        made |= {
            link: f"{protocol}://{host}:{number}",
            f"{link}_PROTO": protocol,
            f"{link}_PORT": str(number),
            f"{link}_ADDR": address,
        }
    return made


DOCKER = {
    "GPU_EXPORTER_NAME": "/prometheus/gpu-exporter",
    "GPU_EXPORTER_PORT": "tcp://172.17.0.2:9435",
    "GPU_EXPORTER_PORT_9435_TCP": "tcp://172.17.0.2:9435",
    "GPU_EXPORTER_PORT_9435_TCP_ADDR": "172.17.0.2",
    "GPU_EXPORTER_PORT_9435_TCP_PORT": "9435",
    "GPU_EXPORTER_PORT_9435_TCP_PROTO": "tcp",
    "GPU_EXPORTER_ENV_GPU_EXPORTER_SOURCE": "fake",
    "GPU_EXPORTER_ENV_NVIDIA_VISIBLE_DEVICES": "all",
}
SERVICES = {
    "docker-link": DOCKER,
    "one-port": kubernetes("gpu-exporter", "10.96.7.8", ("http", 9435, "tcp")),
    "unnamed-port": kubernetes("gpu-exporter", "10.96.7.8", ("", 9435, "tcp")),
    "named-ports": kubernetes("gpu-exporter", "10.96.7.8", ("http-metrics", 9435, "tcp"), ("web", 80, "tcp")),
    "ipv6": kubernetes("gpu-exporter", "fd00:10:96::a", ("https", 443, "tcp")),
    "other-protocols": kubernetes("gpu-exporter", "10.96.7.8", ("dns", 53, "udp"), ("sig", 2905, "sctp")),
    "longer-name": kubernetes("gpu-exporter-hub", "10.96.7.8", ("http", 9436, "tcp")),
    "named-like-a-section": kubernetes("gpu-exporter-web", "10.96.7.8", ("listen-address", 9435, "tcp")),
}


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GPU_EXPORTER_WEB_ALOW", "GPU_EXPORTER_WEB_ALLOW"),
        ("GPU_EXPORTER_ALLOW", "GPU_EXPORTER_WEB_ALLOW"),
        ("GPU_EXPORTER_WEB_LISTEN_ADRESS", "GPU_EXPORTER_WEB_LISTEN_ADDRESS"),
        ("GPU_EXPORTER_WEB_LISTEN-ADDRESS", "GPU_EXPORTER_WEB_LISTEN_ADDRESS"),
        ("GPU_EXPORTER_WEB_CONFIGFILE", "GPU_EXPORTER_WEB_CONFIG_FILE"),
        ("GPU_EXPORTER_CONFIG", "GPU_EXPORTER_CONFIG_FILE"),
        ("GPU_EXPORTER_SOURCES", "GPU_EXPORTER_SOURCE"),
        ("GPU_EXPORTER_web_allow", "GPU_EXPORTER_WEB_ALLOW"),
        ("gpu_exporter_web_allow", "GPU_EXPORTER_WEB_ALLOW"),
        ("GPU_EXPORTER_NO_OWNERS_PROCFS", "GPU_EXPORTER_OWNERS_PROCFS"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest(variable: str, meant: str) -> None:
    assert refusal(**{variable: "10.0.0.0/8"}) == f"{variable}: unknown variable; did you mean {meant}?"
    assert refusal(**{variable: ""}) is not None, "the name is wrong, whatever the value"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPU_EXPORTER_XYZZY", "1"),
        ("GPU_EXPORTER_", ""),
        ("GPU_EXPORTER_PORT", "9435"),  # a person who wants another port, no platform
        ("GPU_EXPORTER_PORT", "tcp://exporter:9435"),
        ("GPU_EXPORTER_PORT", "tcp://10.0.0.1:99999"),
        ("GPU_EXPORTER_PORT_9435_TCP", "yes"),
        ("GPU_EXPORTER_PORT_9435_TCP_PROTO", "http"),
        ("GPU_EXPORTER_PORT_HTTP_TCP_PORT", "9435"),
        ("GPU_EXPORTER_SERVICE_HOST", "localhost"),
        ("GPU_EXPORTER_SERVICE_PORT", "http"),
        ("GPU_EXPORTER_PORT_9435_TCP_ADDR", "node 7"),
        ("GPU_EXPORTER_ENV_XYZZY", "1"),  # without the NAME that Docker sets with it
    ],
)
def test_what_resembles_nothing_is_refused(variable: str, value: str) -> None:
    assert refusal(**{variable: value}) == f"{variable}: {UNNAMED}"


def test_the_name_of_a_link_is_a_path_of_docker() -> None:
    assert refusal(GPU_EXPORTER_NAME="/prometheus/gpu-exporter") is None
    assert str(refusal(GPU_EXPORTER_NAME="node 7")).startswith("GPU_EXPORTER_NAME: unknown variable; ")


@pytest.mark.parametrize("variables", SERVICES.values(), ids=SERVICES)
def test_what_a_platform_sets_for_a_service_is_passed_over(variables: dict[str, str]) -> None:
    assert all(name.startswith("GPU_EXPORTER_") for name in variables)
    assert refusal(**variables) is None
    assert from_environment(variables) == {}, "and none of it is taken for a setting"


def test_other_programs_variables_are_their_own() -> None:
    others = ("GPU_EXPORT", "GPU_EXPORTERS", "MY_GPU_EXPORTER_PORT", "gpu_exporter_home", "DCGM_EXPORTER_LISTEN")
    assert refusal(**dict.fromkeys(others, "9435")) is None


def test_every_setting_is_known_and_an_empty_one_is_not_set() -> None:
    assert refusal(**dict.fromkeys(KNOWN, "x")) is None
    assert from_environment(dict.fromkeys(KNOWN, "")) == {}
    given = {setting.variable: setting.key for setting in settings()}
    assert from_environment(given) == {key: (variable, key) for variable, key in given.items()}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=120), st.text(max_size=40))
def test_whatever_the_name_it_is_one_line_or_nothing(rest: str, value: str) -> None:
    line = refusal(**{f"GPU_EXPORTER_{rest}": value})
    assert line is None or (line.isprintable() and "unknown variable; " in line)


# --- the installed program -------------------------------------------------------------------------------------------

COMMANDS = {
    "serve": ("--source=fake", "--web.listen-address=127.0.0.1:0"),
    "sample": ("sample", "--source=fake"),
    "doctor": ("doctor", "--source=fake"),
    "check-config": ("check-config", "FILE"),
    "check": ("check", "--source=fake"),
    "report": ("report", "--prometheus.url=http://127.0.0.1:1"),
    "hub": ("hub", "--nodes.file=FILE"),
    "record": ("record", "--history.path=FILE", "--source=fake"),
    "export": ("export", "--history.path=FILE"),
    "top": ("top", "--once", "--source=fake"),
    "free": ("free", "--source=fake"),
    "desktop": ("desktop", "--source=fake"),
    "test-mail": ("test-mail", "--wait=1s"),
}


def test_every_command_that_reads_variables_is_tried_here() -> None:
    variables = {setting.flag for setting in settings()}
    reading = {
        name
        for name, command in cli.commands.items()
        if any(option.envvar or variables.intersection(option.opts) for option in command.params)
    }
    assert COMMANDS.keys() == reading | {"check-config"}, "let the command call check_environment, and write it above"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_that_reads_variables_refuses_unknown_ones(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "config.yml").write_text("log: {level: debug}\n")
    arguments = [argument.replace("FILE", str(tmp_path / "config.yml")) for argument in command]
    done = run(*arguments, extra={"GPU_EXPORTER_WEB_ALOW": "10.0.0.0/8"})
    told = "unknown: GPU_EXPORTER_WEB_ALOW: unknown variable" if "check" in command else ""  # 2 is a sick GPU there
    assert (done.returncode, done.stdout[: len(told)]) == (3 if told else 2, told)
    assert told or done.stdout == ""
    expected = "gpu-exporter: GPU_EXPORTER_WEB_ALOW: unknown variable; did you mean GPU_EXPORTER_WEB_ALLOW?\n"
    assert done.stderr == expected


def test_check_config_checks_the_variables_that_would_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("fake: {gpus: 2}\n")
    assert run("check-config", str(file), extra={"GPU_EXPORTER_FAKE_GPUS": "3"}).stdout == f"{file}: ok\n"
    done = run("check-config", str(file), extra={"GPU_EXPORTER_FAKE_GPUS": "many"})
    line = "gpu-exporter: GPU_EXPORTER_FAKE_GPUS: 'many' is not a whole number from 1 to 1024\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_in_a_cluster_with_a_service_of_its_name_it_starts() -> None:
    variables = {name: value for service in SERVICES.values() for name, value in service.items()}
    done = run("sample", "--source=fake", "--fake.gpus=1", "--format=json", extra=variables)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_variable_leaves_file_and_default_in_force(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("source: fake\nfake: {gpus: 2}\n")
    empty = dict.fromkeys(KNOWN, "")
    done = run("sample", f"--config.file={file}", "--format=prometheus", extra=empty)
    assert done.returncode == 0
    assert 'gpu_exporter_gpus{state="found"} 2' in done.stdout


def test_variables_of_the_prolog_and_of_the_report_disturb_no_command() -> None:
    others = {
        option.envvar: "x"
        for command in cli.commands.values()
        for option in command.params
        if isinstance(option.envvar, str) and option.envvar not in KNOWN
    }
    # The hub's web and log variables are the exporter's own as well.
    others = {name: text for name, text in others.items() if name not in {setting.variable for setting in settings()}}
    text = (ROOT / "docs/OWNERS.md").read_text()
    others |= dict.fromkeys(re.findall(r"\bGPU_EXPORTER_SLURM_\w+", text), "x")
    others |= dict.fromkeys(["GPU_EXPORTER_PROMETHEUS_PASSWORD", "GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN"], "x")
    assert {"GPU_EXPORTER_PROMETHEUS_URL", "GPU_EXPORTER_SLURM_DIR"} <= others.keys()
    assert run("sample", "--source=fake", "--fake.gpus=1", extra=others).returncode == 0


def test_no_file_of_ours_sets_a_variable_that_would_be_refused() -> None:
    found: dict[str, str] = {}
    for folder in ("deploy", "helm", "docs", "tools/demo"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in {".png", ".json", ".tgz", ".pyc"}:
                names = re.findall(r"\bGPU_EXPORTER_[A-Z_]+\b", path.read_text())
                found |= dict.fromkeys(names, str(path))
    extra = dict.fromkeys(found.keys() - kubernetes("gpu-exporter", "10.0.0.1", ("http", 9435, "tcp")).keys(), "")
    assert {"GPU_EXPORTER_SOURCE", "GPU_EXPORTER_WEB_LISTEN_ADDRESS"} <= extra.keys()
    done = run("doctor", "--source=fake", "--fake.gpus=1", extra=extra)
    assert (done.returncode == 2, done.stderr) == (False, ""), found
