"""Ten things break within an hour on 24 simulated GPUs, while exporters restart: see what the mailbox says of it.

usage: python -m tools.bad_day [--pace 20] [--pictures FOLDER] [--mails FOLDER]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tools.bad_day.pictures import draw
from tools.bad_day.play import day, latest
from tools.lab.mailbox import part


def main() -> int:
    """Play it, print what happens and what is mailed; as pictures as well, where they are wished for."""
    parser = argparse.ArgumentParser(prog="bad_day", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pace", type=float, default=20, help="how many times faster than the clock; 1 takes the hour (default 20)"
    )
    parser.add_argument("--mails", type=Path, help="a folder that the mails are written to")
    parser.add_argument("--pictures", type=Path, help="a folder that pictures are drawn to")
    parser.add_argument("--release", choices=["debian", "shipped"], default="shipped")
    parser.add_argument("--engine", choices=["prometheus", "vmalert"], default="prometheus")
    wishes = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bad-day-") as name:
        with day(Path(name), pace=wishes.pace, release=wishes.release, engine=wishes.engine, say=say) as told:
            told.play()
        if wishes.mails:
            wishes.mails.mkdir(parents=True, exist_ok=True)
            for number, letter in enumerate(told.letters, 1):
                (wishes.mails / f"{number:02d}.eml").write_bytes(bytes(letter.mail))
        if wishes.pictures:
            draw(wishes.pictures, told.letters, lines, began=told.began, pace=wishes.pace, work=Path(name))
        for letter in latest(told.letters).values():
            print(f"\n{letter.to}: {letter.subject}\n{part(letter.mail, 'plain')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
