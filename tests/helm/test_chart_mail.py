"""Alertmanager through the chart: as its configuration file in the stack, and as an AlertmanagerConfig."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab.alertmanager import OURS, Alertmanager, amtool
from tools.lab.mailbox import Mailbox, part
from tools.lab.programs import Release

from helm.rendering import CHART, Rendered, named, render, values_of
from mail import PASSWORD, with_holders

MAIL: dict[str, Any] = values_of(CHART / "ci/alertmanager-config-values.yaml")["mail"]
SNAKE = re.compile(r"(?<=[a-z])([A-Z])")
DEPLOYED: dict[str, Any] = yaml.safe_load(with_holders())


def _stack(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.one("ConfigMap", "-alertmanager")["data"]["alertmanager.yml"])
    return found


def _write(rendered: Rendered, folder: Path) -> Path:
    """The stack's files as the pod sees them, in another folder."""
    data = rendered.one("ConfigMap", "-alertmanager")["data"]
    volumes = rendered.one("Deployment", "-alertmanager")["spec"]["template"]["spec"]["volumes"]
    items = next(volume["configMap"]["items"] for volume in volumes if volume["name"] == "config")
    assert {item["key"] for item in items} == data.keys()
    for item in items:
        place = folder / item["path"]
        place.parent.mkdir(exist_ok=True)
        place.write_text(data[item["key"]].replace("/etc/alertmanager/", f"{folder}/"))
    return folder / "alertmanager.yml"


# --- an AlertmanagerConfig, as the operator understands it ------------------------------------------------------------


def _snake(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {SNAKE.sub(r"_\1", key).lower(): _snake(value) for key, value in tree.items()}
    return [_snake(item) for item in tree] if isinstance(tree, list) else tree


def _matchers(found: list[dict[str, str]]) -> list[str]:
    return [f'{item["name"]}{item["matchType"]}"{item["value"]}"' for item in found]


def _route(found: Mapping[str, Any]) -> dict[str, Any]:
    made = {
        key: _snake(value)
        for key, value in _snake({**found, "matchers": None, "routes": None}).items()
        if value is not None
    }
    if "matchers" in found:
        made["matchers"] = _matchers(found["matchers"])
    if "routes" in found:
        made["routes"] = [_route(route) for route in found["routes"]]
    return made


def _as_operator(spec: Mapping[str, Any]) -> dict[str, Any]:
    """alertmanager.yml of the AlertmanagerConfig, where the operator adds no matcher of its own (type None).

    Below the operator's own route, which takes what nobody wants, stand those of all AlertmanagerConfigs.
    """
    receivers = []
    for receiver in spec["receivers"]:
        mails = []
        for found in receiver["emailConfigs"]:
            mail = {key: value for key, value in _snake({**found, "headers": None}).items() if value is not None}
            mail["require_tls"] = mail.pop("require_tls", mail.pop("require_t_l_s", None))
            mail["headers"] = {header["key"]: header["value"] for header in found["headers"]}
            mails.append(mail)
        receivers.append({"name": receiver["name"], "email_configs": mails})
    return {
        "route": {"receiver": "null", "routes": [{**_route(spec["route"]), "continue": True}]},
        "inhibit_rules": [
            {
                "source_matchers": _matchers(rule["sourceMatch"]),
                "target_matchers": _matchers(rule["targetMatch"]),
                "equal": rule["equal"],
            }
            for rule in spec["inhibitRules"]
        ],
        "time_intervals": _snake(spec["muteTimeIntervals"]),
        "receivers": [{"name": "null"}, *receivers],
    }


def _ours(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The AlertmanagerConfig's route, without what the operator and the chart put around it."""
    (found,) = tree["route"]["routes"]
    assert found["matchers"] == ['bundle="gpu-exporter"']
    assert found["continue"] is True
    return {key: value for key, value in found.items() if key not in {"matchers", "continue"}}


def _every_route(route: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield route
    for inner in route.get("routes", []):
        yield from _every_route(inner)


def _local(tree: dict[str, Any], mailbox: Mailbox) -> dict[str, Any]:
    """For a mail server of this machine, at once, at any hour."""
    for route in _every_route(tree["route"]):
        route |= {"group_wait": "1s", "group_interval": "2s"}
        route.pop("active_time_intervals", None)
    for receiver in tree["receivers"]:
        for mail in receiver.get("email_configs", []):
            mail |= {
                "smarthost": f"127.0.0.1:{mailbox.port}",
                "from": MAIL["from"],
                "auth_username": "me",
                "auth_password": PASSWORD,
                "require_tls": False,
            }
    tree.pop("global", None)
    return tree


def test_the_mails_of_both_are_the_same(tmp_path: Path, release: Release) -> None:
    """Two real Alertmanagers: one with the stack's files, one with nothing but the AlertmanagerConfig."""
    stack = render({"stack": {"enabled": True}, "mail": MAIL})
    folders = [tmp_path / "stack", tmp_path / "operator"]
    subjects, texts = [], []
    with ExitStack() as both:
        trees = [yaml.safe_load(_write(stack, _made(folders[0])).read_text())]
        trees.append(_as_operator(named("alertmanager-config").one("AlertmanagerConfig")["spec"]))
        _made(folders[1])
        boxes = [both.enter_context(Mailbox(password=PASSWORD)) for _ in trees]
        for folder, tree, box in zip(folders, trees, boxes, strict=True):
            manager = both.enter_context(Alertmanager(folder, _local(tree, box), release))
            manager.tell(
                [
                    {"alertname": "GPULost", "severity": "critical", "instance": "node-7", "gpu": "3", "model": "H100"},
                    {"alertname": "GPUThermalSlowdown", "severity": "warning", "instance": "node-8", "gpu": "1"},
                    {
                        "alertname": "GPUIdleHeld",
                        "severity": "info",
                        "instance": "node-9",
                        "gpu": "0",
                        "owner_kind": "user",
                        "owner": "alice",
                    },
                ],
                annotations={"summary": 'A <b>"test"</b>.', "description": "Do this."},
            )
        for box in boxes:
            wanted = {"oncall": "node-7", "team": "node-8", "alice": "idle GPU"}
            found = [box.wait(f"{name}@", about) for name, about in wanted.items()]
            subjects.append([mail["Subject"] for mail in found])
            texts.append([_timeless(part(mail, kind)) for mail in found for kind in ("plain", "html")])
    assert subjects[0] == subjects[1]
    assert "node-7: GPU 3 lost" in subjects[0][0]
    assert texts[0] == texts[1]
    assert "Do this." in texts[0][0]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _timeless(text: str) -> str:
    return re.sub(r"\d\d:\d\d:\d\d", "", text)


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ({"alertname": "KubePodCrashLooping", "severity": "critical", "namespace": "payments"}, "null"),
        ({"alertname": "Watchdog", "severity": "none"}, "null"),
        ({"alertname": "InfoInhibitor", "severity": "none"}, "null"),
        ({"alertname": "GPUOfOthers", "severity": "warning", "instance": "node-7"}, "null"),
        ({"alertname": "Watchdog", "severity": "none", **OURS}, "heartbeat"),
        ({"alertname": "GPULost", "severity": "critical", "namespace": "payments", **OURS}, "oncall"),
        ({"alertname": "GPUThermalSlowdown", "severity": "warning", **OURS}, "team"),
        ({"alertname": "GPUIdleHeld", "severity": "info", "owner": "alice", **OURS}, "owner,digest"),
        ({"alertname": "SiteGpuRule", **OURS}, "team"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["alertname"],
)
def test_an_alertmanagerconfig_takes_our_alerts_alone(
    labels: dict[str, str], receivers: str, tmp_path: Path, release: Release
) -> None:
    file = tmp_path / "alertmanager.yml"
    tree = _as_operator(named("alertmanager-config").one("AlertmanagerConfig")["spec"])
    tree["receivers"] = [{"name": receiver["name"]} for receiver in tree["receivers"]]
    file.write_text(yaml.safe_dump(tree))
    pairs = [f"{name}={value}" for name, value in labels.items()]
    done = amtool(
        "config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receivers}", *pairs, release=release
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_inhibition_is_between_our_alerts() -> None:
    for rule in named("alertmanager-config").one("AlertmanagerConfig")["spec"]["inhibitRules"]:
        for side in ("sourceMatch", "targetMatch"):
            assert {"name": "bundle", "matchType": "=", "value": "gpu-exporter"} in rule[side]


def test_alerts_of_ones_own_groups_are_ours_too() -> None:
    groups: list[dict[str, Any]] = [
        {"name": "site", "rules": [{"alert": "SiteA", "expr": "1"}, {"record": "site:a", "expr": "1"},
                                   {"alert": "SiteB", "expr": "1", "labels": {"bundle": "other", "a": "b"}}]}
    ]  # fmt: skip
    values = {"prometheusRule": {"enabled": True}, "rules": {"additionalGroups": groups}}
    (found,) = (item for item in render(values).one("PrometheusRule")["spec"]["groups"] if item["name"] == "site")
    assert [rule.get("labels") for rule in found["rules"]] == [dict(OURS), None, {"bundle": "other", "a": "b"}]


def test_receivers_and_routes_can_be_added_to_the_stack(tmp_path: Path, release: Release) -> None:
    own: dict[str, Any] = {
        "receivers": [{"name": "chat", "webhook_configs": [{"url": "http://chat.example.org/"}]},
                      {"name": "heartbeat", "webhook_configs": [{"url": "http://hc.example.org/"}]}],
        "route": {"routes": [{"receiver": "chat", "matchers": ['severity="critical"'], "continue": True}]},
        "inhibit_rules": [{"source_matchers": ['alertname="A"'], "target_matchers": ['alertname="B"']}],
        "time_intervals": [{"name": "weekend", "time_intervals": [{"weekdays": ["saturday", "sunday"]}]}],
        "global": {"resolve_timeout": "7m"},
    }  # fmt: skip
    rendered = render({"mail": MAIL, "stack": {"enabled": True, "alertmanager": {"extraConfig": own}}})
    found = _stack(rendered)
    names = [receiver["name"] for receiver in found["receivers"]]
    assert len(names) == len(set(names))
    assert {"chat", "oncall", "team"} <= set(names)
    (heartbeat,) = (receiver for receiver in found["receivers"] if receiver["name"] == "heartbeat")
    assert heartbeat == own["receivers"][1], "one of a name replaces ours"
    assert found["route"]["routes"][0]["receiver"] == "chat"
    assert len(found["route"]["routes"]) == len(DEPLOYED["route"]["routes"]) + 1
    assert found["global"]["resolve_timeout"] == "7m"
    assert found["global"]["smtp_smarthost"] == MAIL["smarthost"]
    done = amtool("check-config", str(_write(rendered, tmp_path)), release=release)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stack", "stack-full", "everything-else"])
def test_amtool_takes_the_stacks_configuration(name: str, tmp_path: Path, release: Release) -> None:
    done = amtool("check-config", str(_write(named(name), tmp_path)), release=release)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout, "amtool counts patterns"
    assert len(list(tmp_path.glob("templates/*.tmpl"))) == 2


@pytest.mark.parametrize("name", ["alertmanager-config", "alertmanager-config-files", "everything-else"])
def test_amtool_takes_the_alertmanagerconfig(name: str, tmp_path: Path, release: Release) -> None:
    tree = _as_operator(named(name).one("AlertmanagerConfig")["spec"])
    for receiver in tree["receivers"]:
        for mail in receiver.get("email_configs", []):
            if "auth_password" in mail:
                assert mail["auth_password"] == {"name": "smtp", "key": "password"}
                mail["auth_password"] = PASSWORD
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(tree))
    done = amtool("check-config", str(tmp_path / "alertmanager.yml"), release=release)
    assert done.returncode == 0, done.stdout + done.stderr


def test_routes_and_inhibitions_are_deploys() -> None:
    full = _stack(named("stack-full"))
    assert full["route"] == DEPLOYED["route"]
    assert full["inhibit_rules"] == DEPLOYED["inhibit_rules"]
    assert full["time_intervals"] == DEPLOYED["time_intervals"]
    operator = _as_operator(named("alertmanager-config").one("AlertmanagerConfig")["spec"])
    ours = _ours(operator)
    (warning,) = (route for route in ours["routes"] if route["matchers"] == ['severity="warning"'])
    assert warning.pop("active_time_intervals") == ["office-hours"], "who writes office hours wants them"
    assert ours == DEPLOYED["route"]
    assert operator["inhibit_rules"] == DEPLOYED["inhibit_rules"]
    assert [item["name"] for item in operator["time_intervals"]] == ["office-hours", "morning", "digest"]
    own = MAIL["timeIntervals"]["office-hours"][0]
    assert operator["time_intervals"][0]["time_intervals"] == [own]


def test_everybodys_address_is_the_sites() -> None:
    to = {item["name"]: item["email_configs"][0]["to"] for item in _stack(named("stack-full"))["receivers"]}
    assert to.pop("owner") == '{{ template "gpu.owner.address" . }}'
    assert to.pop("morning") == "team@example.org"
    assert to == {name: f"{name}@example.org" for name in ("oncall", "team", "digest", "heartbeat")}
    owners = named("stack-full").one("ConfigMap", "-alertmanager")["data"]["owners.tmpl"]
    assert '{{ define "gpu.owner.domain" }}users.example.org{{ end }}' in owners
    assert '{{ define "gpu.owner.fallback" }}lost@example.org{{ end }}' in owners
    fewer = {item["name"]: item["email_configs"][0]["to"] for item in _as_operator(
        named("alertmanager-config-files").one("AlertmanagerConfig")["spec"])["receivers"][1:]}  # fmt: skip
    assert fewer == dict.fromkeys(("oncall", "team", "morning", "digest", "heartbeat"), "oncall@example.org")
    assert "everybody@example.org" in named("everything-else").one("ConfigMap", "-alertmanager")["data"]["owners.tmpl"]


def test_passwords_stay_in_their_secrets() -> None:
    settings = _stack(named("stack-full"))["global"]
    assert settings["smtp_auth_password_file"] == "/etc/alertmanager-mail/password"  # noqa: S105 - where it is
    pod = named("stack-full").one("Deployment", "-alertmanager")["spec"]["template"]["spec"]
    secret = next(volume["secret"] for volume in pod["volumes"] if volume["name"] == "mail")
    assert secret["secretName"] == "smtp"
    assert secret["items"] == [{"key": "smtp-password", "path": "password"}]
    assert "/etc/alertmanager-mail" in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    without = _stack(named("everything-else"))["global"]
    assert not {"smtp_auth_username", "smtp_auth_password_file"} & without.keys()


def test_without_a_mail_server_alerts_are_shown_and_nobody_is_mailed() -> None:
    found = _stack(named("stack"))
    assert not any(key.startswith("smtp") for key in found["global"])
    assert [receiver for receiver in found["receivers"] if receiver.keys() != {"name"}] == []
    receivers = {"heartbeat", "oncall", "team", "morning", "digest"}
    assert {route["receiver"] for route in found["route"]["routes"]} == receivers, "nobody who holds a GPU is mailed"


def test_templates_reach_the_operator_only_where_they_are_asked_for() -> None:
    files = named("alertmanager-config-files").one("AlertmanagerConfig")["spec"]["receivers"]
    assert files[0]["emailConfigs"][0]["html"] == '{{ template "gpu.email.html" . }}'
    inline = named("alertmanager-config").one("AlertmanagerConfig")["spec"]["receivers"]
    assert 'define "gpu.email.html"' in inline[0]["emailConfigs"][0]["html"]
    assert len(str(inline)) < 500_000, "etcd takes 1.5 MiB"
