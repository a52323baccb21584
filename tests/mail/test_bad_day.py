"""Ten things break within an hour on 24 GPUs while exporters restart: who reads the mailbox knows what is true."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tools.bad_day.play import Engine, Letter, Told, day, latest
from tools.bad_day.story import FAULTS, RESTARTS, STAND, Fault
from tools.lab.mailbox import part
from tools.lab.programs import Release

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PACE = 20.0


def is_about(told: Told, letter: Letter, fault: Fault) -> bool:
    return letter.machine == fault.machine and told.alert in fault.alerts and told.gpu == fault.gpu


@pytest.mark.parametrize("engine", ["prometheus", "vmalert"])
@pytest.mark.parametrize("release", ["shipped"], indirect=True)
def test_who_reads_the_mailbox_knows_what_is_true(tmp_path: Path, release: Release, engine: Engine) -> None:
    assert len(FAULTS) == 10
    assert RESTARTS
    lines: list[str] = []
    with day(tmp_path, pace=PACE, release=release, engine=engine, say=lines.append) as told:
        told.play()
    letters = [letter for letter in told.letters if letter.machine]
    story = "\n".join(lines)

    for fault in FAULTS:
        mine = [(letter, each) for letter in letters for each in letter.told() if is_about(each, letter, fault)]
        first = next((letter for letter, each in mine if not each.over), None)
        assert first, f"nobody is told that {fault.what}\n{story}"
        assert first.to == fault.to, f"{fault.what}\n{story}"
        assert first.minute > fault.at, story
        over = [letter.minute for letter, each in mine if each.over]
        if fault.until is None:
            assert not over, f"an all-clear for what stands: {fault.what}\n{story}"
        else:
            assert over, f"nobody is told that it is over: {fault.what}\n{story}"
            assert min(over) > fault.until, f"an all-clear too early: {fault.what}\n{story}"

    believed = {
        place: {(each.alert, each.gpu) for each in letter.told() if not each.over}
        for place, letter in latest(letters).items()
    }
    assert believed == STAND, f"what the last mails say, and what is true\n{story}"
    nothing = [
        f"{letter.subject}: {each}"
        for letter in letters
        for each in letter.told()
        if not any(is_about(each, letter, fault) for fault in FAULTS)
    ]
    assert nothing == [], f"mails about what did not happen\n{story}"
    assert not [letter.subject for letter in letters if "Before it came 79" in part(letter.mail, "plain")]
    for place in STAND:
        in_turn = [letter.told() for letter in letters if (letter.to, letter.machine) == place]
        assert all(before != after for before, after in pairwise(in_turn)), f"{place}: the same mail twice\n{story}"
