"""Who is who: boards that move, are replaced, hang, or share a UUID."""

from __future__ import annotations

import logging

import pytest

from gpu_exporter.model import Device, Failure, Reading
from gpu_exporter.sampling.roster import Roster


def told(index: int, uuid: str) -> Reading:
    return Reading(Device(index, uuid, "H100"))


def nameless(count: int) -> list[Device]:
    """What a source lists that was just opened."""
    return [Device(index, "", "") for index in range(count)]


def settled(roster: Roster, *read: Reading) -> dict[tuple[int, str], str]:
    """Index and UUID of every device, and what is wrong with it."""
    readings = roster.settle(read, ())
    return {(each.device.index, each.device.uuid): each.failure.reason if each.failure else "" for each in readings}


@pytest.fixture
def roster() -> Roster:
    """Of a machine whose four boards have told their names."""
    made = Roster()
    made.enlist(nameless(4))
    settled(made, *(told(index, f"GPU-{name}") for index, name in enumerate("abcd")))
    made.moves()
    return made


def test_a_board_that_moved_is_the_same_board(roster: Roster) -> None:
    roster.enlist(nameless(3))
    known = settled(roster, told(0, "GPU-a"), told(1, "GPU-b"), told(2, "GPU-d"))
    assert known == {(0, "GPU-a"): "", (1, "GPU-b"): "", (2, "GPU-c"): "lost", (2, "GPU-d"): ""}, "no ghost at index 3"
    assert roster.moves() == [("3 d", "2 d")]
    roster.enlist(nameless(4))
    known = settled(roster, *(told(index, f"GPU-{name}") for index, name in enumerate("abcd")))
    assert known == {(index, f"GPU-{name}"): "" for index, name in enumerate("abcd")}
    assert ("2 d", "3 d") in roster.moves()


def test_a_board_that_was_replaced_is_gone_and_the_new_one_begins_anew(roster: Roster) -> None:
    roster.enlist(nameless(4))
    known = settled(roster, *(told(index, f"GPU-{name}") for index, name in enumerate("abxd")))
    assert known[2, "GPU-c"] == "lost"
    assert known[2, "GPU-x"] == ""
    assert roster.moves() == []


def test_a_uuid_is_the_same_however_it_is_written(roster: Roster) -> None:
    roster.enlist(nameless(4))
    known = settled(roster, told(0, "gpu-A"), told(1, "B"), told(2, "GPU-C"), told(3, "GPU-d"))
    assert len(known) == 4
    assert roster.moves() == []


def test_two_boards_with_one_uuid_are_both_there(caplog: pytest.LogCaptureFixture) -> None:
    roster = Roster()
    for _ in range(3):
        roster.enlist(nameless(2))
        assert settled(roster, told(0, "GPU-a"), told(1, "GPU-a")) == {(0, "GPU-a"): "", (1, "GPU-a"): ""}
    assert len(caplog.messages) == 1, "told once"
    roster.enlist(nameless(2))
    assert settled(roster, told(1, "GPU-a"), Reading(Device(0, "", ""), failure=Failure("lost", ""))) == {
        (0, "GPU-a"): "lost",
        (1, "GPU-a"): "",
    }


def test_a_hang_belongs_to_the_board_and_not_to_its_index(roster: Roster) -> None:
    board = Device(2, "GPU-c", "H100")
    roster.park(board)
    assert [device.index for device, _ in roster.enlist(nameless(4))] == [0, 1, 3], "it may hang again"
    asked = roster.enlist(nameless(3))
    assert [device.index for device, _ in asked] == [0, 1, 2], "another number: somebody else may be there"
    known = settled(roster, told(0, "GPU-a"), told(1, "GPU-b"), told(2, "GPU-d"))
    assert known == {(0, "GPU-a"): "", (1, "GPU-b"): "", (2, "GPU-c"): "timeout", (2, "GPU-d"): ""}
    listed = [Device(index, f"GPU-{name}", "H100") for index, name in enumerate("abd")]
    assert [device.index for device, _ in roster.enlist(listed)] == [0, 1, 2], "read from now on"
    assert roster.hanging == 1
    roster.returned(board, None)
    assert roster.hanging == 0
    assert settled(roster, *(Reading(device) for device in listed))[2, "GPU-c"] == "lost"


def test_no_more_than_two_calls_of_a_board_hang(roster: Roster) -> None:
    roster.park(Device(2, "GPU-c", "H100"))
    for count in (3, 2, 3, 2):
        roster.enlist(nameless(4))
        for device, named in roster.enlist(nameless(count + 1)):
            if device.index == 2:
                roster.park(named)
    assert roster.hanging <= 2


def test_a_board_that_moved_away_is_not_the_silent_one_at_its_former_index(roster: Roster) -> None:
    roster.enlist(nameless(4))
    silent = Reading(Device(3, "GPU-d", "H100"), failure=Failure("timeout", ""))
    readings = roster.settle([told(0, "GPU-a"), told(1, "GPU-b"), told(2, "GPU-d")], [silent])
    assert [(each.device.index, each.device.uuid) for each in readings] == [
        (0, "GPU-a"),
        (1, "GPU-b"),
        (2, "GPU-c"),
        (2, "GPU-d"),
        (3, ""),
    ]


def test_a_lost_board_without_a_name_keeps_the_one_it_had(roster: Roster) -> None:
    listed = nameless(4)
    roster.enlist(listed)
    lost = Reading(Device(3, "", ""), failure=Failure("lost", ""))
    settled(roster, told(0, "GPU-a"), told(1, "GPU-b"), told(2, "GPU-c"), lost)
    roster.forget_but([Device(0, "GPU-a", ""), Device(1, "GPU-b", ""), Device(2, "GPU-c", ""), Device(3, "", "")])
    roster.enlist(listed)
    known = settled(roster, told(0, "GPU-a"), told(1, "GPU-b"), told(2, "GPU-c"), lost)
    assert known[3, "GPU-d"] == "lost"


def test_a_board_that_gets_its_name_takes_along_what_it_did_without(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    roster = Roster()
    roster.enlist(nameless(1))
    settled(roster, Reading(Device(0, "", ""), failure=Failure("unknown", "")))
    roster.enlist(nameless(1))
    assert settled(roster, told(0, "GPU-a")) == {(0, "GPU-a"): ""}
    assert roster.moves() == [("0 ", "0 a")]
    assert caplog.messages == []
