"""gpu-exporter test-mail: a test alert through the deployed routes of a real Alertmanager, to a real mail server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from tools.lab.alertmanager import Alertmanager
from tools.lab.exporter import run
from tools.lab.mailbox import Mailbox, part
from tools.lab.ports import free_port
from tools.lab.programs import Release
from tools.lab.web import ask

from gpu_exporter.rehearsal import NAME, RehearsalError, rehearse
from mail import PASSWORD, configuration


@contextmanager
def routed(folder: Path, port: int, release: Release) -> Iterator[Alertmanager]:
    """The deployed routes, the digest's hours never, and one receiver more that has no address."""
    tree = configuration(folder, smtp_port=port, never="digest", holders=True)
    tree["receivers"].append({"name": "nowhere"})
    tree["route"]["routes"].insert(0, {"matchers": ['team="nobody"'], "receiver": "nowhere"})
    with Alertmanager(folder, tree, release) as alertmanager:
        yield alertmanager


def rehearsed(alertmanager: Alertmanager, *, wait: float = 10.0, **labels: str) -> tuple[bool, str]:
    """Whether it was sent, and what was said."""
    lines: list[str] = []
    url = f"http://127.0.0.1:{alertmanager.port}"
    sent = rehearse(url, labels=labels, wait=wait, host="gpu-a", say=lines.append)
    return sent, "\n".join(lines)


def test_a_rehearsal(tmp_path: Path, release: Release) -> None:
    with Mailbox(password=PASSWORD) as mailbox, routed(tmp_path, mailbox.port, release) as alertmanager:
        it_says_where_the_mail_went(alertmanager, mailbox)
        another_severity_takes_another_route(alertmanager, mailbox)
        an_owner_is_mailed_as_well(alertmanager, mailbox)
        a_silence_is_named(alertmanager)
        what_has_no_address_is_named(alertmanager)
        what_waits_for_its_hours_is_not_said_to_be_sent(alertmanager)
        nothing_stands_afterwards(alertmanager)


def it_says_where_the_mail_went(alertmanager: Alertmanager, mailbox: Mailbox) -> None:
    done = run("test-mail", f"--alertmanager.url=http://127.0.0.1:{alertmanager.port}/", "--wait=20s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "route: oncall\n" in done.stdout
    assert f"  mail to gpu-oncall@example.com by 127.0.0.1:{mailbox.port}\n" in done.stdout
    assert "sent: email, after " in done.stdout
    mail = mailbox.wait("gpu-oncall@example.com", "GPU test mail")
    assert "test-mail" in str(mail["Subject"])
    for subtype in ("plain", "html"):
        assert "Nothing is wrong with any GPU" in part(mail, subtype)
    (since,) = re.findall(r"Since:? +\w+ (.+) \w+$", part(mail, "plain"), re.MULTILINE)
    assert datetime.strptime(since, "%d %b %Y %H:%M:%S") <= datetime.now(), "it began before it was told"  # noqa: DTZ005, DTZ007 - as local as the mail


def another_severity_takes_another_route(alertmanager: Alertmanager, mailbox: Mailbox) -> None:
    sent, said = rehearsed(alertmanager, severity="warning")
    assert (sent, "route: team\n" in said) == (True, True), said
    assert mailbox.wait("gpu-team@example.com", "GPU test mail")


def an_owner_is_mailed_as_well(alertmanager: Alertmanager, mailbox: Mailbox) -> None:
    """The digest's hours never come, and the owner's route has none: of both receivers one is mailed."""
    sent, said = rehearsed(
        alertmanager, wait=1.0, severity="info", alertname="GPUIdleHeld", owner="alice", owner_kind="user"
    )
    assert "route: owner, digest\n" in said
    assert "an address that a template makes of the alert" in said
    assert not sent
    assert mailbox.wait("alice@example.com")


def a_silence_is_named(alertmanager: Alertmanager) -> None:
    silence = {
        "matchers": [{"name": "alertname", "value": NAME, "isRegex": False, "isEqual": True}],
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "2099-01-01T00:00:00Z",
        "createdBy": "alice",
        "comment": "a test",
    }
    headers = {"Content-Type": "application/json"}
    answer = ask(alertmanager.port, "/api/v2/silences", method="POST", body=json.dumps(silence), headers=headers)
    name = json.loads(answer.text)["silenceID"]
    sent, said = rehearsed(alertmanager)
    assert (sent, f"not sent: silenced by {name}" in said) == (False, True), said
    assert ask(alertmanager.port, f"/api/v2/silence/{name}", method="DELETE").status == 200


def what_has_no_address_is_named(alertmanager: Alertmanager) -> None:
    sent, said = rehearsed(alertmanager, team="nobody")
    assert (sent, said.splitlines()[1:]) == (False, ["route: nowhere", "not sent: the receiver has no address"])


def what_waits_for_its_hours_is_not_said_to_be_sent(alertmanager: Alertmanager) -> None:
    sent, said = rehearsed(alertmanager, wait=1.0, severity="info")
    assert (sent, "route: digest\n" in said) == (False, True), said
    assert said.splitlines()[-1] == "not known to be sent: outside of its hours (digest) it waits for them"


def nothing_stands_afterwards(alertmanager: Alertmanager) -> None:
    assert [alert["labels"] for alert in alertmanager.alerts()] == []


def test_a_mail_server_that_is_away(tmp_path: Path, release: Release) -> None:
    with routed(tmp_path, free_port(), release) as alertmanager:
        sent, said = rehearsed(alertmanager)
        assert not sent
        last = said.splitlines()[-1]
        assert last.startswith("not sent: email: "), last
        assert last.endswith(" tries failed; Alertmanager's log says why")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--alertmanager.url=localhost:9093"], "is not an http(s) URL; write http://localhost:9093"),
        (["--alertmanager.url=http://a:b@localhost"], "a login in the URL is read by everybody"),
        (["--label=cluster"], "'cluster' is not a label; write cluster=berlin"),
        (["--wait=0s"], "'0s' is out of range"),
    ],
    ids=["url", "login", "label", "wait"],
)
def test_what_cannot_be_tried_is_one_line(arguments: list[str], why: str) -> None:
    done = run("test-mail", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_is_no_alertmanager_is_told(tmp_path: Path, release: Release) -> None:
    with pytest.raises(RehearsalError, match="cannot be reached: Connection refused"):
        rehearse(f"http://127.0.0.1:{free_port()}", labels={}, wait=1.0, host="gpu-a", say=print)
    with routed(tmp_path, 1, release) as alertmanager:
        url = f"http://127.0.0.1:{alertmanager.port}"
        with pytest.raises(RehearsalError, match="404: has no Alertmanager here; write the URL up to"):
            rehearse(f"{url}/elsewhere", labels={}, wait=1.0, host="gpu-a", say=print)
        with pytest.raises(RehearsalError, match="400 Bad Request"):
            rehearse(url, labels={"": "no name"}, wait=1.0, host="gpu-a", say=print)
