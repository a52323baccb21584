"""What came of the story as pictures: the mailbox beside what happened, and what was opened last."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tools.bad_day.play import Letter
from tools.bad_day.story import ONCALL, STAND
from tools.lab.browser import Browser
from tools.lab.mailbox import part

_WIDE, _NARROW = 1180, 700
# The story begins then, whenever it is played.
_BEGINS = datetime(2026, 11, 24, 10, 0, tzinfo=timezone.utc)
_MOMENT = re.compile(r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?\d{1,2} \w{3} (?:\d{4} )?\d\d:\d\d:\d\d(?= [A-Z]|\b)")
_LASTED = re.compile(r"\(((?:\d+h)?(?:\d+m)?[\d.]+s)\)|(?<=reported XID \d\d )(?:(?:\d+m )?[\d.]+m?s)(?= ago)")
# The first mail that says what then stands; of gpu-b the last, as its exporter died after the links.
_OPENED = {"lost": (ONCALL, "gpu-a", 0), "links": (ONCALL, "gpu-b", -1), "driver": (ONCALL, "gpu-c", 0)}
_PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 22px 26px; font: 14px/20px system-ui, sans-serif; color: #1c2128; background: #fff }}
table {{ border-collapse: collapse; width: 100% }} td {{ padding: 3px 10px; vertical-align: top }}
.at {{ width: 44px; color: #5f6773; font-variant-numeric: tabular-nums; text-align: right }}
.was {{ width: 440px; color: #1c2128 }} .to {{ width: 70px; color: #5f6773 }}
.mail td {{ background: #f4f6f8; border-top: 2px solid #fff }}
.critical {{ color: #b42318; font-weight: 600 }} .over {{ color: #067647; font-weight: 600 }}
h1 {{ font-size: 17px; margin: 0 0 10px }}
</style><h1>What happened, and what was mailed</h1><table>{rows}</table>"""


def draw(
    folder: Path, letters: Sequence[Letter], lines: Iterable[str], *, began: float, pace: float, work: Path
) -> None:
    """PNG files bad-day-*.png. ``began`` is the Unix time at which the story began."""
    pages = {"mailbox": (_mailbox(lines), _WIDE)}
    for name, (to, machine, which) in _OPENED.items():
        told = [
            letter
            for letter in letters
            if (letter.to, letter.machine) == (to, machine)
            and {(each.alert, each.gpu) for each in letter.told() if not each.over} == STAND[to, machine]
        ]
        pages[name] = (_restamped(part(told[which].mail, "html"), began, pace), _NARROW)
    with Browser(work) as browser:
        for name, (page, width) in pages.items():
            file = work / f"{name}.html"
            file.write_text(page)
            browser.look(width, 300)
            browser.open(file.as_uri())
            browser.picture(folder / f"bad-day-{name}.png")


def _mailbox(lines: Iterable[str]) -> str:
    rows = []
    for line in lines:
        at, _, text = line.partition("  ")
        if text.startswith("! "):
            rows.append(
                f'<tr><td class="at">{at}</td><td class="was">{html.escape(text[2:])}</td><td></td><td></td></tr>'
            )
            continue
        to, _, subject = text.strip().removeprefix("mail to ").partition(": ")
        kind = "over" if subject.startswith("[RES") else "critical" if to == ONCALL else ""
        rows.append(
            f'<tr class="mail"><td class="at">{at}</td><td class="was"></td><td class="to">'
            f"{html.escape(to.partition('@')[0].removeprefix('gpu-'))}</td>"
            f'<td class="{kind}">{html.escape(subject)}</td></tr>'
        )
    return _PAGE.format(rows="".join(rows))


def _restamped(page: str, began: float, pace: float) -> str:
    """The mail with the times of the story: it was played faster."""

    def moment(found: re.Match[str]) -> str:
        text = found[0]
        form = next(
            form for form in ("%a %d %b %Y %H:%M:%S", "%d %b %Y %H:%M:%S", "%d %b %H:%M:%S") if _fits(text, form)
        )
        when = datetime.strptime(text, form)  # noqa: DTZ007 - the mail's own zone follows it
        shown = datetime.fromtimestamp(began, tz=timezone.utc).astimezone()
        when = when.replace(year=shown.year, tzinfo=shown.tzinfo)
        moved = _BEGINS + timedelta(seconds=(when.timestamp() - began) * pace)
        return re.sub(r"\b0(?=\d \w{3} )", "", moved.strftime(form))

    def lasted(found: re.Match[str]) -> str:
        bare = found[0].strip("()")
        units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        seconds = sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|[hms])", bare))
        minutes = round(seconds * pace / 60)
        return found[0].replace(bare, f"{max(1, minutes)}m")

    return _LASTED.sub(lasted, _MOMENT.sub(moment, page)).replace(datetime.now().astimezone().tzname() or "UTC", "UTC")


def _fits(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)  # noqa: DTZ007 - only whether it fits
    except ValueError:
        return False
    return True
