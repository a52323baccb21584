"""What the templates of deploy/alertmanager make of many alerts: one block for equal ones, never too long a mail."""

from __future__ import annotations

import html
import quopri
import re
from pathlib import Path

import pytest
from tools.lab.programs import Release

from mail import Told, ill, render


def sorted_as_told(alerts: list[Told]) -> list[Told]:
    """As Alertmanager sorts them: by instance, then by the other labels as text."""
    return sorted(alerts, key=lambda each: (each["labels"]["instance"], sorted(each["labels"].items())))


CROWDS = {
    "one kind on one host": [ill(number) for number in range(200)],
    "thirty kinds on one host": [ill(number % 8, f"GPUIllness{number // 8}") for number in range(240)],
    "one kind on many hosts": [ill(number % 8, host=number) for number in range(200)],
    "half of it resolved": [
        {**ill(number % 64, f"GPUIllness{number // 64}"), "status": ("firing", "resolved")[number % 2]}
        for number in range(400)
    ],
}


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_no_mail_is_cut_off(tmp_path: Path, release: Release, name: str, crowd: str) -> None:
    """Gmail cuts off what is above 102 kB; both parts together, as they are sent, stay below 100."""
    alerts = sorted_as_told(CROWDS[crowd])
    page = render(tmp_path, f"gpu.{name}.html", *alerts, kind="html", release=release)
    text = render(tmp_path, f"gpu.{name}.text", *alerts, release=release)
    sent = len(quopri.encodestring(page.encode())) + len(quopri.encodestring(text.encode()))
    assert sent < 100_000
    assert page.count("<table") == page.count("</table>")
    for shown in (html.unescape(page), text):
        for each in {each["annotations"]["summary"] for each in alerts if each["status"] == "firing"}:
            assert each in shown, "no kind is left out"


@pytest.mark.parametrize("name", ["email", "owner", "digest"])
def test_equal_alerts_are_one_block_in_the_order_of_numbers(tmp_path: Path, release: Release, name: str) -> None:
    alerts = sorted_as_told([ill(number) for number in range(20)])
    page = html.unescape(render(tmp_path, f"gpu.{name}.html", *alerts, kind="html", release=release))
    text = render(tmp_path, f"gpu.{name}.text", *alerts, release=release)
    for shown in (re.sub(r"<[^>]*>", "", page), text):
        assert "gpu-node-7 GPU " + ", ".join(map(str, range(20))) in shown
        assert shown.count("What GPUTemperatureNearSlowdown says in a sentence of its own.") == 1


def test_gpus_of_several_machines_are_told_by_machine(tmp_path: Path, release: Release) -> None:
    alerts = sorted_as_told([ill(number, host=host) for host in (7, 8) for number in (0, 2, 10, 11, 12, 13, 14)])
    for kind, template in (("html", "gpu.owner.html"), ("text", "gpu.owner.text")):
        shown = re.sub(r"<[^>]*>", "", render(tmp_path, template, *alerts, kind=kind, release=release))
        assert "gpu-node-7 GPU 0, 2, 10, 11, 12, 13, 14; gpu-node-8 GPU 0, 2, 10, 11, 12, 13, 14" in shown


def test_a_few_alerts_are_told_one_by_one_the_cause_first(tmp_path: Path, release: Release) -> None:
    alerts = sorted_as_told(
        [
            ill(10),
            ill(2),
            ill(3, "GPULost", severity="critical"),
            ill(3, "GPUXidCritical", severity="critical", xid="79"),
            ill(4, "GPURowRemapFailure", severity="critical"),
        ]
    )
    for kind, template in (("html", "gpu.email.html"), ("text", "gpu.email.text")):
        shown = render(tmp_path, template, *alerts, kind=kind, release=release)
        order = re.findall(r"What (\w+) says", shown)
        assert order == ["GPUXidCritical", "GPULost", "GPURowRemapFailure", *["GPUTemperatureNearSlowdown"] * 2]
        assert shown.index("GPU 2 of gpu-node-7") < shown.index("GPU 10 of gpu-node-7")
