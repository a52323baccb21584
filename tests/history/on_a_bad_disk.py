"""Writes a history on a disk that fails; test_bad_disk.py runs it with the library preloaded. One JSON line a case."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from tools.lab.bad_disk import BadDisk

from gpu_exporter.history import Reader, usage
from gpu_exporter.history.file import Writer
from history_story import START, Clock, Machine, recorder

MINUTES = 4
OWNERS = {("user", "alice", ""): 0.5, ("pod", "train-0", "ml"): 0.5}


def write(path: Path, machine: Machine, clock: Clock, minutes: int = MINUTES) -> None:
    made = recorder(path, clock)
    made.add(machine.alias, machine.document(), machine.at)
    for _ in range(minutes):
        for _ in range(12):
            made.add(machine.alias, machine.step(owners=OWNERS), machine.at)
        clock.now = machine.at + 10
        made.flush()
        assert made.trouble is None
    made.close()


def killed(path: Path, disk: BadDisk, after: int) -> bool:
    """Whether a process that begins to write there dies at that call; its minutes follow those that are there."""
    machine, clock = Machine(at=START + 86400 * (1 + after)), Clock()
    child = os.fork()
    if child == 0:
        disk.kill("history.db", after)
        write(path, machine, clock)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def state(path: Path) -> dict[str, Any]:
    """What is in the file after it was opened for writing, as the next process does."""
    writer = Writer(path)
    check = [row[0] for row in writer.connection.execute("PRAGMA integrity_check")]
    orphans = writer.connection.execute(
        "SELECT count(*) FROM gpu_minute_owner WHERE id NOT IN (SELECT id FROM gpu_minute)"
    ).fetchone()[0]
    writer.close()
    with closing(Reader(path)) as reader:
        sums = usage(reader, start=0, end=1e11)
    return {
        "check": check,
        "orphans": orphans,
        "seconds": sum(gpu.seconds for gpu in sums.gpus),
        "held": sum(sum(hold.states.values()) for hold in sums.holds),
    }


def tell(case: dict[str, Any]) -> None:
    """Write a case's line."""
    sys.stdout.write(json.dumps(case) + "\n")


def kill_new(folder: Path, disk: BadDisk) -> None:
    """A new file: the process dies before each of its writes, until there is none left."""
    after, going_on = 0, True
    while going_on:
        path = folder / str(after) / "history.db"
        path.parent.mkdir()
        going_on = killed(path, disk, after)
        tell({"after": after, "killed": going_on, **state(path)})
        after += 1


def kill_again(folder: Path, disk: BadDisk) -> None:
    """One file: a hundred processes die over it, one after the other."""
    path = folder / "history.db"
    write(path, Machine(), Clock())
    for after in range(100):
        before = state(path)["seconds"]
        dead = killed(path, disk, after)
        tell({"after": after, "killed": dead, "before": before, **state(path)})


def full(folder: Path, disk: BadDisk) -> None:
    """The disk is full, or ill, for a while, from any write on: it is told, nothing is lost, and it goes on."""
    for error in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        for after in range(12):
            path = folder / f"{error}-{after}" / "history.db"
            path.parent.mkdir()
            machine, clock = Machine(), Clock()
            made = recorder(path, clock)
            made.add(machine.alias, machine.document(), machine.at)
            troubles: list[str | None] = []
            for minute in range(12):
                for _ in range(12):
                    made.add(machine.alias, machine.step(owners=OWNERS), machine.at)
                if minute == 4:
                    disk.fail("history.db", after, error)
                if minute == 8:
                    disk.heal()
                clock.now = machine.at + 10
                made.flush()
                troubles.append(made.trouble)
            made.close()
            tell({"error": errno.errorcode[error], "after": after, "troubles": troubles, **state(path)})


if __name__ == "__main__":
    {"kill_new": kill_new, "kill_again": kill_again, "full": full}[sys.argv[1]](Path(sys.argv[2]), BadDisk())
