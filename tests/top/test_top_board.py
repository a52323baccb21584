"""What stands on the screen, line by line, at several widths; the same lines are `top --once`."""

from __future__ import annotations

import json
import re

import pytest

from gpu_exporter.hub.client.view import View
from gpu_exporter.top import once
from gpu_exporter.top.board import board
from gpu_exporter.top.cells import both_ends, cut, fit, width
from gpu_exporter.top.idle import IdleProcesses
from gpu_exporter.top.lines import PaperPen, Pen
from gpu_exporter.top.look import Look
from gpu_exporter.top.processes import rows
from views import REFUSED, Story, free, gpu, lost, process


def story() -> View:
    """A machine with all states, one that is well, one that was there and one that never was."""
    told = Story("gpu-a", "gpu-b", "gpu-c", "gpu-d")
    sick = [gpu(0), gpu(1, "idle_held", "bob"), free(2), lost(3), gpu(4, "unknown", "carol")]
    hot = gpu(0, who="dave", metrics={"gpu_temperature_celsius": 90.0})
    well = [hot, gpu(1, metrics={"gpu_temperature_celsius": 85.0})]
    processes = [process(0, 7, utilization_ratio=0.9), process(1, 8, "bob", memory_used_bytes=2**30)]
    answers = {"gpu-a": (sick, processes), "gpu-b": (well, [process(1, 70, "root", pod="train", namespace="lab")])}
    told.look({**answers, "gpu-c": [gpu(0)], "gpu-d": REFUSED})
    told.look({**answers, "gpu-c": REFUSED})
    return told.look({**answers, "gpu-c": REFUSED}, after=85.0)


def text(view: View, columns: int, look: Look | None = None, *, ascii_only: bool = False) -> str:
    return once.text(view, look or Look(), Pen(columns, ascii_only=ascii_only), interval=5.0)


EIGHTY = """\
 GPU MODEL           UTIL          MEM GiB  TEMP POWER W HELD BY
  gpu-c offline for 1 min, 1 GPU: refused the connection: nothing listens there
  gpu-d offline for 1 min: refused the connection: nothing listens there
▾ gpu-a  5 H100 80GB HBM3
   3 H100 80GB HBM3 down: lost: the driver cannot reach it · >1 min · XID 79
   0 H100 80GB HBM3   90% ███████▎   40/80 60/89 700/700 alice
   1 H100 80GB HBM3    0%            40/80 35/89  70/700 idle >1 min · bob
   2 H100 80GB HBM3    0%           0.0/80 35/89  70/700 free >1 min
   4 H100 80GB HBM3    0%            40/80 35/89  70/700 unknown: it is not
                                                         known what it does ·
                                                         carol
▾ gpu-b  2 H100 80GB HBM3
   0 H100 80GB HBM3   90% ███████▎   40/80 90/89 700/700 dave
   1 H100 80GB HBM3   90% ███████▎   40/80 85/89 700/700 alice

MACHINE GPU     PID USER            MEM▼  UTIL      IDLE WHAT
gpu-a     0       7 alice       40.0 GiB  90 %           python3
gpu-b     1      70 root        40.0 GiB   n/a           lab/train  python3
gpu-a     1       8 bob          1.0 GiB   n/a    >1 min python3
"""


def test_eighty_columns() -> None:
    title, more, rest = text(story(), 80).split("\n", 2)
    assert title == "nodes.yml · 4 machines, 2 offline · 8 GPUs: 1 free, 3 at work, 1 held but idle,"
    assert re.fullmatch(r"    1 down, 2 unknown  \d\d:\d\d", more), "what does not fit goes on below"
    assert f"{rest}\n" == EIGHTY


@pytest.mark.parametrize("columns", [20, 40, 59, 60, 72, 80, 99, 100, 132, 200, 300])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_line_fits(columns: int, ascii_only: bool) -> None:
    view = story()
    view.machines[0].node = view.machines[0].node.__class__("数据中心的第一台机器" * 9, "a", 1)
    for line in text(view, columns, ascii_only=ascii_only).splitlines():
        assert width(line) <= columns
        assert line.isascii() or not ascii_only


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 300])
def test_on_paper_nothing_that_is_told_is_cut(columns: int) -> None:
    """What a screen would cut, of titles, reasons and holders, a mail or a pipe has whole."""
    words = " ".join(text(story(), columns).split())
    for told in (
        "1 free, 3 at work, 1 held but idle, 1 down, 2 unknown",
        "gpu-c offline for 1 min, 1 GPU: refused the connection: nothing listens there",
        "down: lost: the driver cannot reach it · >1 min · XID 79",
        "unknown: it is not known what it does · carol",
        "lab/train python3",
    ):
        assert told in words


def test_a_line_is_broken_at_blanks_or_where_it_must_be() -> None:
    pen = PaperPen(10, ascii_only=False)
    assert list(pen.broken(pen.line([("fits", "")]))) == ["fits"]
    assert list(pen.broken(pen.line([("one two three four", "")]))) == ["one two", "  three", "  four"]
    assert list(pen.broken(pen.line([("abcdefghijklmnop", "")]))) == ["abcdefghij", "  klmnop"]
    assert list(pen.broken(pen.line([("数据中心的第一台", "")]))) == ["数据中心的", "  第一台"]
    assert list(pen.broken(pen.line([("two abcdefghijklm", "")]))) == ["two abcdef", "  ghijklm"]


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("gpu-a", 7, "gpu-a"),
        ("gpu-node-of-physics-1", 11, "gpu-n…ics-1"),
        ("gpu-node-of-physics-1", 10, "gpu-n…cs-1"),
        ("gpu-node", 6, "gpu-n…"),
        ("機械学習サーバー-東京", 12, "機械学…-東京"),
        ("ééééééééé", 7, "ééé…ééé"),
    ],
)
def test_long_names_keep_both_ends(text: str, columns: int, shown: str) -> None:
    assert both_ends(text, columns) == shown
    assert width(shown) <= columns


def test_a_long_name_leaves_room_for_what_its_gpus_do() -> None:
    names = [f"gpu-node-of-the-institute-of-physics-{number:02}.example.org" for number in range(30)]
    view = Story(*names).look({name: ([gpu(0), free(1)], [process()]) for name in names})
    for columns in (40, 80, 120):
        lines = [line.text for line in board(view, Look(), Pen(columns, ascii_only=False), trails=None, room=40).lines]
        assert all("·] 1 free" in line for line in lines), columns
        assert columns == 40 or len(set(lines)) == len(names), "told apart by their ends"


def test_on_paper_two_long_names_are_not_taken_for_one_another() -> None:
    names = [f"gpu-node-of-the-institute-of-physics-{number}.example.org" for number in (1, 2)]
    users = [f"somebody.with-a-long-name-{number}" for number in (1, 2)]
    view = Story(*names).look(
        {name: ([gpu(who=user)], [process(user=user)]) for name, user in zip(names, users, strict=True)}
    )
    for columns in (60, 80, 120):
        told = "".join(line.strip() for line in text(view, columns).splitlines())
        table = told[told.index("MACHINE") :]
        for word in (*names, *users):
            assert word.replace(" ", "") in table.replace(" ", ""), (columns, word)
        assert all(width(line) <= columns for line in text(view, columns).splitlines())


def test_forty_columns_have_the_most_important() -> None:
    lines = text(story(), 40).splitlines()
    assert lines[3] == " GPU  UTIL     GiB  °C HELD BY"
    assert "   0   90%   40/80  60 alice" in lines
    down = lines.index("   3 down: lost: the driver cannot reach")
    assert lines[down + 1] == "    it · >1 min · XID 79"
    assert "GPU     PID USER          MEM▼ WHAT" in lines


def test_three_hundred_use_the_room() -> None:
    lines = text(story(), 300).splitlines()
    assert any("unknown: it is not known what it does · carol" in line for line in lines)
    assert any(line.count("█") > 50 for line in lines)


def test_tones_are_of_a_gpu_s_own_limit() -> None:
    shown = board(story(), Look(), Pen(80, ascii_only=False), trails=None).lines
    tones = {text.strip(): tone for line in shown for text, tone in line.spans}
    assert (tones["90/89"], tones["85/89"], tones["60/89"]) == ("bad", "warn", "")
    assert tones["700/700"] == "", "to be at the power limit is normal"


def test_machines_fold_by_themselves_where_there_is_no_room() -> None:
    view, look = story(), Look()
    pen = Pen(80, ascii_only=True)
    assert len(board(view, look, pen, trails=None, room=11).lines) == 11
    lines = [line.text for line in board(view, look, pen, trails=None, room=10).lines]
    assert lines[2:] == [
        "+ gpu-a [90.x?] 1 free 1 idle  5 H100 80GB HBM3  alice, bob, carol",
        "   3 H100 80GB HBM3 down: lost: the driver cannot reach it - >1 min - XID 79",
        "+ gpu-b [99]  2 H100 80GB HBM3  dave, alice",
    ]
    look.folded["gpu-b"] = False
    assert len(board(view, look, pen, trails=None, room=10).lines) == 7
    look.all_folded, look.folded = False, {}
    assert len(board(view, look, pen, trails=None, room=1).lines) == 11


def test_one_machine_alone_needs_no_line_of_its_own() -> None:
    view = Story("here", origin="this machine").look({"here": [gpu(0), free(1)]})
    lines = [line.text for line in board(view, Look(), Pen(80, ascii_only=False), trails=None, room=1).lines]
    assert [line[:4] for line in lines] == ["   0", "   1"]


@pytest.mark.parametrize(
    ("look", "gpus", "processes"),
    [
        (Look(words="bob"), ["gpu-a 1"], ["8"]),
        (Look(user="alice"), ["gpu-a 0", "gpu-b 1"], ["7"]),
        (Look(user="lab/train"), [], ["70"]),
        (Look(words="xid 79"), ["gpu-a 3"], []),
        (Look(words="GPU-A free"), ["gpu-a 2"], []),
        (Look(words="nobody at all"), [], []),
        (Look(gpu_order="memory"), [f"gpu-a {n}" for n in (3, 0, 1, 4, 2)] + ["gpu-b 0", "gpu-b 1"], ["7", "70", "8"]),
        (Look(gpu_order="state"), [f"gpu-a {n}" for n in (3, 2, 1, 4, 0)] + ["gpu-b 0", "gpu-b 1"], ["7", "70", "8"]),
        (Look(process_order="pid", processes_reversed=True), None, ["70", "8", "7"]),
        (Look(process_order="user"), None, ["7", "8", "70"]),
        (Look(process_order="util"), None, ["7", "8", "70"]),
        (Look(process_order="gpu"), None, ["7", "8", "70"]),
        (Look(gpus_reversed=True), [f"gpu-a {n}" for n in (3, 4, 2, 1, 0)] + ["gpu-b 1", "gpu-b 0"], ["7", "70", "8"]),
    ],
)
def test_filters_and_orders(look: Look, gpus: list[str] | None, processes: list[str]) -> None:
    view = story()
    shown = board(view, look, Pen(80, ascii_only=False), trails=None).lines
    found = [" ".join(line.subject[1:]) for line in shown if line.subject[0] == "gpu"]
    assert gpus is None or found == gpus
    assert [row.text("pid") for row in rows(view, look, IdleProcesses())] == processes


def test_how_long_a_process_has_been_idle() -> None:
    told, idle = Story("a"), IdleProcesses()

    def look(*processes: dict[str, object], state: str = "active", after: float = 5.0) -> list[tuple[str, float, bool]]:
        view = told.look({"a": ([gpu(0, state)], processes)}, after=after)
        idle.add(view)
        found = [(row.text("pid"), row.idle) for row in rows(view, Look(process_order="pid"), idle)]
        return [(pid, view.taken - since.at, since.seen) for pid, since in found if since is not None]

    at_work = process(0, 1, utilization_ratio=0.5)
    rests = process(0, 1, utilization_ratio=0.0)
    assert look(at_work, process(0, 2, utilization_ratio=0.0)) == [("2", 0.0, False)]
    assert look(rests, process(0, 2, utilization_ratio=0.0)) == [("1", 0.0, True), ("2", 5.0, False)]
    assert look(rests, process(0, 3)) == [("1", 5.0, True)], "of 3 the driver tells nothing"
    assert look(at_work) == []
    assert look(rests, after=60.0) == [("1", 0.0, True)]
    assert look(rests, process(0, 3), state="idle_held") == [("1", 5.0, True), ("3", 0.0, True)]


def test_json_has_the_hub_s_keys() -> None:
    told = json.loads(once.document(story()))
    assert set(told) == {"timestamp_seconds", "simulated", "nodes", "gpus", "processes"}
    assert [node["state"] for node in told["nodes"]] == ["online", "online", "offline", "offline"]
    assert [gpu["state"] for gpu in told["gpus"]][:5] == ["held", "idle", "free", "down", "unknown"]
    assert {process["node"] for process in told["processes"]} == {"gpu-a", "gpu-b"}


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ({"a": [gpu(0)], "b": [free(0)]}, 0),
        ({"a": [gpu(0)], "b": [lost(0)]}, 1),
        ({"a": [gpu(0)], "b": REFUSED}, 1),
        ({"a": [], "b": REFUSED}, 2),
        ({"a": REFUSED, "b": REFUSED}, 2),
    ],
)
def test_status(answers: dict[str, object], status: int) -> None:
    assert once.status(Story("a", "b").look(answers)) == status


def test_text_from_elsewhere_is_text() -> None:
    evil = "\x1b[2J\u202eevil\n"
    view = Story("a").look({"a": ([gpu(0, who=evil, model=evil)], [process(0, 1, evil, process=evil)])})
    shown = text(view, 200)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "evil" in shown
    assert "\x1b" not in text(view, 200, ascii_only=True)


def test_cells() -> None:
    assert (width("abc"), width("机器"), width("e\u0301")) == (3, 4, 1)
    assert (cut("机器名", 4), cut("abc", 2, ascii_only=True), cut("abc", 0)) == ("机…", "a~", "")
    assert (fit("机", 4), fit("机", 4, right=True), fit("abcdef", 4)) == ("机  ", "  机", "abc…")


def test_marks_in_both_alphabets() -> None:
    fine, plain = Pen(80, ascii_only=False), Pen(80, ascii_only=True)
    assert fine.trend([0.0, None, 0.5, 1.0], 6) == "  ▁ ▄█"
    assert plain.trend([0.0, None, 0.5, 1.0], 6) == "  . =%"
    assert (fine.bar(0.5, 4), plain.bar(0.5, 4), fine.bar(None, 2), fine.bar(1.0, 3)) == ("██  ", "||  ", "  ", "███")
    assert (fine.bar(0.0, 3), fine.bar(0.51, 2)) == ("   ", "█▏"[:1] + " ")
