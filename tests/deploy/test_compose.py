"""The compose stack: as data, and its own configuration files and command lines run natively."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tools.lab import ROOT
from tools.lab.exporter import Exporter
from tools.lab.mailbox import Mailbox, part
from tools.lab.ports import free_port
from tools.lab.programs import Program, Release, program
from tools.lab.wait import wait_for
from tools.lab.web import answers, ask

from gpu_exporter import __version__
from gpu_exporter.cli.group import cli
from gpu_exporter.config import settings
from gpu_exporter.config.parsers import duration
from gpu_exporter.hub.nodes import load

pytestmark = pytest.mark.e2e
FOLDER = ROOT / "deploy"
FILE = FOLDER / "compose.yaml"
SCHEMA = json.loads((ROOT / "tests/deploy/compose-spec.json").read_text())
PROFILES = {
    "node": {"exporter", "node-exporter"},
    "center": {"hub", "prometheus", "alertmanager", "grafana"},
    "demo": {"gpu-a", "gpu-b", "gpu-c", "demo-hub", "demo-prometheus", "demo-alertmanager", "demo-grafana", "mailpit"},
}


def interpolated(tree: Any, environment: Mapping[str, str]) -> Any:
    """What Compose makes of ${NAME:-default}."""
    if isinstance(tree, dict):
        return {name: interpolated(value, environment) for name, value in tree.items()}
    if isinstance(tree, list):
        return [interpolated(item, environment) for item in tree]
    if isinstance(tree, str):
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1]) or found[2], tree)
    return tree


def project(**environment: str) -> dict[str, Any]:
    read: dict[str, Any] = interpolated(yaml.safe_load(FILE.read_text()), environment)
    return read


SERVICES: dict[str, dict[str, Any]] = project()["services"]


@pytest.fixture(params=sorted(SERVICES))
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    found = SERVICES[request.param]
    assert found["profiles"], "what has no profile would run in all of them"
    return found


def binds(service: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Sources that are paths, their targets and options; relative ones begin at the file's folder, as for Compose."""
    found = []
    for volume in service.get("volumes", ()):
        source, target, *options = volume.split(":")
        if source.startswith(("./", "../", "/")):
            found.append((str((FOLDER / source).resolve()) if source[0] == "." else source, target, options))
    return found


# --- as data ----------------------------------------------------------------------------------------------------------


def test_it_is_a_compose_file() -> None:
    checker = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    checker.check_schema(SCHEMA)
    assert [error.message for error in checker.iter_errors(project())] == []
    broken = project()
    broken["services"]["grafana"]["port"] = broken["services"]["grafana"].pop("ports")
    assert list(checker.iter_errors(broken)), "the schema sees a key that nobody knows"


def test_no_variable_is_without_a_default() -> None:
    used = set(re.findall(r"\$\{?(\w+)", re.sub(r"^ *#.*", "", FILE.read_text(), flags=re.MULTILINE)))
    assert used == {"LISTEN", "PROMETHEUS_RETENTION", "PROMETHEUS_URL", "ALERTMANAGER_URL", "GRAFANA_URL", "TZ"}
    assert "${" not in json.dumps(project())
    for name in used:
        assert re.search(rf"^#   .*\b{name}\b", FILE.read_text(), re.MULTILINE), f"{name} is explained at the top"


def test_the_profiles() -> None:
    assert {
        profile: {name for name, service in SERVICES.items() if profile in service["profiles"]} for profile in PROFILES
    } == PROFILES
    assert set().union(*PROFILES.values()) == set(SERVICES)


def test_images_are_pinned(service: dict[str, Any]) -> None:
    repository, _, tag = service["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), service["image"]
    assert repository.count("/") == 2, "with its registry, so that nobody's defaults decide"
    if "build" in service:
        assert tag == service["build"]["args"]["VERSION"] == __version__
        assert (FOLDER / service["build"]["context"] / "Dockerfile").exists()


def test_nothing_is_privileged(service: dict[str, Any]) -> None:
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "devices"} & set(service)
    assert "docker.sock" not in json.dumps(service)


def test_ports_are_those_of_this_machine_unless_asked_otherwise(service: dict[str, Any]) -> None:
    for published in service.get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", published)
    if service.get("network_mode") == "host":
        assert "--web.listen-address=127.0.0.1:9100" in service["command"]
    opened = project(LISTEN="10.0.0.7")["services"]
    assert opened["exporter"]["ports"] == ["10.0.0.7:9435:9435"]
    assert opened["node-exporter"]["command"][-1] == "--web.listen-address=10.0.0.7:9100"
    assert opened["mailpit"]["ports"] == ["127.0.0.1:8025:8025"], "the demo is nobody else's"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_port_is_taken_twice(profile: str) -> None:
    ports = [port for name in PROFILES[profile] for port in SERVICES[name].get("ports", ())]
    hosts = [port.rsplit(":", 1)[0] for port in ports]
    assert len(hosts) == len(set(hosts))


def test_everybody_tells_whether_it_is_well(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    if "build" in service:
        assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text(), "the image brings its own"
        assert "test" not in check
    else:
        assert check["test"][0] == "CMD"
        port = re.search(r":(\d+)/", check["test"][-1])
        published = [binding.rsplit(":", 1)[1] for binding in service.get("ports", ())]
        assert port is None or not published or port[1] in published


def test_nobody_starts_before_what_it_needs_is_well(service: dict[str, Any]) -> None:
    for needed, how in service.get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert set(service["profiles"]) <= set(SERVICES[needed]["profiles"]), f"{needed} would not be started"


def test_who_waits_for_whom() -> None:
    needs = {name: set(service.get("depends_on", ())) for name, service in SERVICES.items()}
    assert needs["grafana"] == {"prometheus"}
    assert needs["prometheus"] == {"alertmanager"}
    assert needs["demo-alertmanager"] == {"mailpit"}
    assert needs["demo-prometheus"] == {"demo-alertmanager", "gpu-a", "gpu-b", "gpu-c"}


def test_what_is_mounted_is_there_and_read_only(service: dict[str, Any]) -> None:
    for source, _, options in binds(service):
        assert options[0].split(",")[0] == "ro"
        if Path(source).is_relative_to(FOLDER):
            assert Path(source).exists()
    named = {volume.split(":")[0] for volume in service.get("volumes", ()) if volume[0] not in "./"}
    assert named <= set(project()["volumes"])


def test_passwords_are_files_that_git_does_not_see() -> None:
    secrets = project()["secrets"]
    for secret in secrets.values():
        path = FOLDER / secret["file"]
        assert subprocess.run(["git", "check-ignore", "--quiet", str(path)], cwd=ROOT, check=False).returncode == 0
        assert f"`{path.name}`" in (FOLDER / "compose/secrets/README.md").read_text()
    for service in SERVICES.values():
        for given in service.get("secrets", ()):
            assert (given if isinstance(given, str) else given["source"]) in secrets
        for name in service.get("environment", {}):
            assert "PASSWORD" not in name or name.endswith("__FILE")
    target = SERVICES["alertmanager"]["secrets"][0]["target"]
    assert f"smtp_auth_password_file: {target}\n" in (FOLDER / "alertmanager/alertmanager.yml").read_text()


def test_exporters_are_given_settings_that_they_know() -> None:
    known = {setting.variable for setting in settings()}
    for name in ("exporter", "gpu-a", "gpu-b", "gpu-c"):
        assert set(SERVICES[name].get("environment", ())) <= known


def test_the_hub_is_given_what_it_knows_and_keeps_its_history() -> None:
    known = {option.envvar for option in cli.commands["hub"].params}
    for name, nodes in (("hub", FOLDER / "prometheus"), ("demo-hub", FOLDER / "compose/nodes.yml")):
        hub = SERVICES[name]
        assert hub["command"] == ["hub"]
        assert set(hub["environment"]) <= known
        (mounted,) = binds(hub)
        listed = load(nodes / "nodes.yml" if nodes.is_dir() else nodes)
        assert (Path(mounted[0]), len(listed.nodes)) == (nodes, 3)
        assert hub["environment"]["GPU_EXPORTER_NODES_FILE"].startswith(mounted[1])
        assert hub["environment"]["GPU_EXPORTER_HISTORY_PATH"] == "/var/lib/gpu-exporter/history.db"
        address = hub["environment"]["GPU_EXPORTER_ALERTMANAGER_URL"]
        assert address == "http://alertmanager:9093", "a service, or an alias, of its network"
        links = hub["environment"]["GPU_EXPORTER_ALERTMANAGER_EXTERNAL_URL"]
        told = SERVICES["alertmanager"]["command"]
        assert f"--web.external-url={links}" in told, "as browsers reach it"
        kept = json.dumps([hub.get("volumes"), hub.get("tmpfs")])
        assert "/var/lib/gpu-exporter" in kept
    assert "/var/lib/gpu-exporter" in (ROOT / "Dockerfile").read_text(), "nobody can write there"


def test_grafana_finds_everything_that_is_provisioned() -> None:
    for name in ("grafana", "demo-grafana"):
        grafana = SERVICES[name]
        targets = {target: Path(source) for source, target, _ in binds(grafana)}
        provisioning = targets["/etc/grafana/provisioning"]
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
        assert source["url"] == "http://prometheus:9090", "the name of a service, or an alias"
        for provider in provisioning.glob("dashboards/*.yml"):
            for entry in yaml.safe_load(provider.read_text())["providers"]:
                assert list(targets[entry["options"]["path"]].glob("*.json"))
        home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        assert (targets[str(home.parent)] / home.name).exists()
    aliases = SERVICES["demo-prometheus"]["networks"]["default"]["aliases"]
    assert aliases == ["prometheus"]


def test_links_in_mails_lead_to_published_ports() -> None:
    rules = "".join(path.read_text() for path in (FOLDER / "prometheus/rules").glob("*.yml"))
    assert set(re.findall(r"http://localhost:(\d+)/d/", rules)) == {"3000"}
    assert SERVICES["demo-grafana"]["ports"] == SERVICES["grafana"]["ports"] == ["127.0.0.1:3000:3000"]


def test_one_setting_is_where_links_in_mails_lead() -> None:
    (config,) = SERVICES["alertmanager"]["configs"]
    assert config["target"].startswith("/etc/alertmanager/site/")
    written = yaml.safe_load((FOLDER / "compose.yaml").read_text())["configs"][config["source"]]["content"]
    assert written == '{{ define "gpu.grafana" }}${GRAFANA_URL:-http://localhost:3000}{{ end }}'
    assert "/etc/alertmanager/site/*.tmpl" in yaml.safe_load(
        (FOLDER / "alertmanager/alertmanager.yml").read_text()
    )["templates"]  # fmt: skip


def test_alerts_outlive_a_restart_of_prometheus() -> None:
    for name in ("prometheus", "demo-prometheus"):
        assert {"--rules.alert.for-grace-period=1m", "--rules.alert.resend-delay=2m"} <= set(SERVICES[name]["command"])


def test_the_demo_mails_within_two_minutes() -> None:
    """By the deployed files as they are, at the worst: the story, a scrape, an evaluation, Alertmanager's wait."""
    story = yaml.safe_load((FOLDER / "compose/incident.yml").read_text())["events"]
    (fallen,) = [duration(event["at"]) for event in story if event.get("xid") == 79]
    scraping = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())["global"]
    rules = yaml.safe_load((FOLDER / "prometheus/rules/alerts-health.yml").read_text())["groups"]
    (group,) = [group for group in rules if any(rule.get("alert") == "GPUXidCritical" for rule in group["rules"])]
    (rule,) = [rule for rule in group["rules"] if rule.get("alert") == "GPUXidCritical"]
    assert rule["labels"]["severity"] == "critical"
    routes = yaml.safe_load((FOLDER / "alertmanager/alertmanager.yml").read_text())["route"]["routes"]
    (route,) = [route for route in routes if 'severity="critical"' in route["matchers"]]
    collection = 5.0  # the default interval
    evaluation = duration(group.get("interval", scraping["evaluation_interval"]))
    wait = duration(rule.get("for", "0s")) + duration(route["group_wait"])
    assert fallen + collection + duration(scraping["scrape_interval"]) + evaluation + wait < 120


# --- run natively -----------------------------------------------------------------------------------------------------

# What makes the test short; that the deployed times are short enough is counted above.
HASTE = {
    r"(scrape_interval|evaluation_interval|scrape_timeout): \w+": r"\1: 1s",
    r"^( +)interval: \w+": r"\1interval: 1s",
    r"group_wait: \w+": "group_wait: 1s",
    r"\{at: (\d+)s, gpu: 3, fault: (xid|lost)": r"{at: 2s, gpu: 3, fault: \2",
}


class Host:
    """Runs services of the stack without containers: their files and commands, with other paths, ports and names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._names: dict[str, str] = {}

    def known_as(self, name: str, port: int) -> None:
        """What others find under host:port in their files is on that port here."""
        self._names[name] = f"127.0.0.1:{port}"

    def root(self, name: str) -> Path:
        return self._folder / name

    def translate(self, name: str, text: str) -> str:
        """Paths of the container become paths below its folder; names become addresses."""
        for known, address in self._names.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(known)}\b", address, text)
        folders = r"(?<![\w./-])/(?=(?:etc|prometheus|alertmanager|tmp)(?:[/\s']|$))"
        return re.sub(folders, f"{self.root(name)}/", text, flags=re.MULTILINE)

    def mount(self, name: str) -> None:
        """Copies of what the service mounts, at its places below the service's folder."""
        for where in ("prometheus", "alertmanager", "tmp"):
            (self.root(name) / where).mkdir(parents=True)
        for source, target, _ in sorted(binds(SERVICES[name]), key=lambda bind: bind[1]):
            place = self.root(name) / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if Path(source).is_dir():
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)
        for given in SERVICES[name].get("secrets", ()):
            (self.root(name) / given["target"].lstrip("/")).write_text("secret")
        for file in self.root(name).rglob("*.yml"):
            text = file.read_text()
            for slow, fast in HASTE.items():
                text = re.sub(slow, fast, text, flags=re.MULTILINE)
            file.write_text(self.translate(name, text))

    def start(self, name: str, binary: str, port: int) -> None:
        """The program with the service's own command line; ready when it says so."""
        command = SERVICES[name]["command"]
        listen = f"--web.listen-address=127.0.0.1:{port}"
        if "entrypoint" in SERVICES[name]:
            assert SERVICES[name]["entrypoint"] == ["sh", "-c"]
            script = self.translate(name, command[0]).replace("exec alertmanager", f"exec {shlex.quote(binary)}")
            line = ["sh", "-c", f"{script} {listen}"]
        else:
            line = [binary, *(self.translate(name, flag) for flag in command), listen]
        running = self._stack.enter_context(Program([*line, "--web.route-prefix=/"], self.root(name) / f"{name}.log"))
        running.wait(lambda: answers(port, "/-/ready"))


@contextmanager
def demo(folder: Path, release: Release) -> Iterator[tuple[Mailbox, int]]:
    """The profile demo: its mailbox, and Prometheus' port."""
    with ExitStack() as stack:
        host = Host(folder, stack)
        manager, prometheus = free_port(), free_port()
        box = stack.enter_context(Mailbox())
        host.known_as("mailpit:1025", box.port)
        host.known_as("alertmanager:9093", manager)
        host.known_as("localhost:9090", prometheus)
        host.mount("demo-alertmanager")
        host.start("demo-alertmanager", program("alertmanager", release), manager)
        for name in ("gpu-a", "gpu-b", "gpu-c"):
            host.mount(name)
            given = {key: host.translate(name, value) for key, value in SERVICES[name]["environment"].items()}
            given |= {"GPU_EXPORTER_COLLECTION_INTERVAL": "1s", "GPU_EXPORTER_COLLECTION_TIMEOUT": "1s"}
            exporter = stack.enter_context(Exporter(host.root(name), extra=given))
            host.known_as(f"{name}:9435", exporter.port)
        host.mount("demo-prometheus")
        host.start("demo-prometheus", program("prometheus", release), prometheus)
        yield box, prometheus


def test_the_demo_ends_in_a_mail(tmp_path: Path, release: Release) -> None:
    with demo(tmp_path, release) as (box, prometheus):
        mail = box.wait("gpu-oncall@example.com", "gpu-b: GPU 3 XID 79")
        assert mail["To"] == "gpu-oncall@example.com"
        assert "GPU 3 (NVIDIA H100 80GB HBM3) of gpu-b" in part(mail, "plain")
        assert "http://localhost:9093/#/silences/new" in part(mail, "plain"), "a link that works on this machine"
        targets = json.loads(ask(prometheus, "/api/v1/targets").text)["data"]["activeTargets"]
        aliases = {target["labels"].get("alias") for target in targets if target["labels"]["job"] == "gpu-exporter"}
        assert aliases == {"gpu-a", "gpu-b", "gpu-c"}


def test_the_demo_changes_nothing_but_the_mail_server(tmp_path: Path) -> None:
    """The line that the demo's Alertmanager starts with, up to where it starts."""
    script = SERVICES["demo-alertmanager"]["command"][0]
    change, _, start = script.partition(" && exec ")
    assert start.startswith("alertmanager --config.file=/tmp/alertmanager.yml ")
    # In this order: the checkout itself may lie in /tmp.
    change = change.replace("/tmp/", f"{tmp_path}/").replace("/etc/alertmanager", str(FOLDER / "alertmanager"))  # noqa: S108
    subprocess.run(["sh", "-c", change], check=True)
    before = (FOLDER / "alertmanager/alertmanager.yml").read_text().splitlines()
    after = (tmp_path / "alertmanager.yml").read_text().splitlines()
    assert [line for line in after if line not in before] == [
        "  smtp_smarthost: mailpit:1025",
        "  smtp_require_tls: false",
    ]
    gone = [line.split(":")[0].strip() for line in before if line not in after]
    assert gone == ["smtp_smarthost", "smtp_auth_username", "smtp_auth_password_file", "smtp_require_tls"]


def test_the_center_starts_with_the_deployed_files(tmp_path: Path, release: Release) -> None:
    with ExitStack() as stack:
        host = Host(tmp_path, stack)
        manager, prometheus = free_port(), free_port()
        host.known_as("alertmanager:9093", manager)
        host.known_as("localhost:9090", prometheus)
        host.mount("alertmanager")
        host.start("alertmanager", program("alertmanager", release), manager)
        host.mount("prometheus")
        host.start("prometheus", program("prometheus", release), prometheus)
        groups = json.loads(ask(prometheus, "/api/v1/rules").text)["data"]["groups"]
        assert "GPUXidCritical" in {rule["name"] for group in groups for rule in group["rules"]}
        wait_for(lambda: f"127.0.0.1:{manager}" in ask(prometheus, "/api/v1/alertmanagers").text)
        status = json.loads(ask(manager, "/api/v2/status").text)
        assert "smtp.example.com:587" in status["config"]["original"], "the mail server is for whoever deploys it"
        nodes = host.root("prometheus") / "etc/prometheus/nodes.yml"
        nodes.write_text("- {targets: ['127.0.0.1:1'], labels: {alias: added}}\n")
        wait_for(lambda: "added" in ask(prometheus, "/api/v1/targets").text)
