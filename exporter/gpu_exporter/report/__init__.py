"""``gpu-exporter report``: who uses the GPUs, and who wastes them, from a Prometheus or a history file."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import click

from gpu_exporter.config.parsers import RefusedError, duration, moment, percentage, price, shown
from gpu_exporter.report import render
from gpu_exporter.report.client import Access, Client, ReportError
from gpu_exporter.report.history import Grid, History
from gpu_exporter.report.stored import StoredHistory
from gpu_exporter.report.waste import Accounts, Prices, report

__all__ = ["Options", "ReportError", "access", "run"]

_SHORTEST: Final = 600.0
_LONGEST: Final = 400 * 86400.0
# Not the hop's own, and no login: that would stand in every list of processes.
_TAKEN: Final = {"authorization", "accept-encoding", "content-length", "content-type", "host", "transfer-encoding"}
_WRONG_HEADER: Final = "is not a header; write 'X-Scope-OrgID: tenant'"


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, as it was written."""

    source: Access | Path  # a Prometheus, or a history file
    window: str = "24h"
    end: str | None = None
    by: str = "user"
    form: str = "table"
    match: str = ""
    fail_over: str | None = None
    price_kwh: str | None = None
    price_gpu_hour: str | None = None


def run(options: Options) -> int:
    """Write the report; 1 where more than ``fail_over`` of the held hours were idle, else 0. Raises ReportError."""
    window = _parsed("--window", options.window, duration, "write 24h, 7d or 90m")
    if not _SHORTEST <= window <= _LONGEST:
        raise ReportError(f"--window: '{options.window}' is out of range; write 10m to 400d")
    over = options.fail_over
    limit = None if over is None else _parsed("--fail-over", over, percentage, "write 20%")
    prices = Prices(
        kwh=_price("--price.kwh", options.price_kwh), gpu_hour=_price("--price.gpu-hour", options.price_gpu_hour)
    )
    end = options.end
    until = time.time() if end is None else _parsed("--end", end, moment, "write 2026-11-01 or 2026-11-01T08:00:00Z")
    grid, match = Grid.of(window, until), _matchers(options.match)
    accounts: Accounts
    if isinstance(options.source, Path):
        if match:
            raise ReportError("--match: narrows what a Prometheus is asked; a history file is taken whole")
        accounts, warnings = StoredHistory(options.source, grid), []
    else:
        client = Client(options.source)
        accounts, warnings = History(client, grid, match=match), client.warnings
    made = report(accounts, by=options.by, grid=grid, warnings=warnings, prices=prices)
    click.echo({"table": render.table, "json": render.as_json, "csv": render.as_csv}[options.form](made))
    # A table has it in its last line. The columns of CSV are fixed, and JSON does not say how many.
    noted = () if options.form == "table" or not made.simulated else (made.simulated,)
    for warning in (*noted, *made.warnings):
        click.echo(f"gpu-exporter: {warning}", err=True)
    if limit is None or made.idle_held_share <= limit:
        return 0
    click.echo(
        f"gpu-exporter: {made.idle_held_share:.1%} of the held hours were idle, more than {limit * 100:g}%", err=True
    )
    return 1


def access(
    url: str,
    *,
    headers: Iterable[str] = (),
    username: str | None = None,
    password: tuple[str | None, Path | None] = (None, None),
    token: tuple[str | None, Path | None] = (None, None),
    ca_file: Path | None = None,
    timeout: str = "60s",
) -> Access:
    """Check what was written. Password and token are (text, file); raises ReportError."""
    return Access(
        url=url,
        headers=tuple(_header(text) for text in headers),
        username=username,
        password=_secret("password", *password),
        token=_secret("bearer-token", *token),
        ca_file=ca_file,
        timeout=_parsed("--prometheus.timeout", timeout, duration, "write 60s")
        or _refuse("--prometheus.timeout", timeout, "write 60s"),
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not colon or not re.fullmatch("[ -~\t]*", value):
        # The text may hold a secret: it is not repeated.
        raise ReportError(f"--prometheus.header: what was written {_WRONG_HEADER}")
    if name.lower() == "authorization":
        raise ReportError("--prometheus.header: Authorization is not taken here; use --prometheus.bearer-token-file")
    if name.lower() in _TAKEN:
        raise ReportError(f"--prometheus.header: {name} is not yours to set")
    return name, value.strip()


def _secret(name: str, text: str | None, file: Path | None) -> str | None:
    """A secret from the environment or a file; what stands in the file wins."""
    place = f"GPU_EXPORTER_PROMETHEUS_{name.replace('-', '_').upper()}"
    if file is not None:
        place = f"--prometheus.{name}-file: {file}"
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            raise ReportError(f"{place}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ReportError(f"{place}: is not text") from None
    if text is None:
        return None
    text = text.strip()
    if not text or not text.isprintable() or (name != "password" and not text.isascii()):
        raise ReportError(f"{place}: holds no {name.replace('-', ' ')}; write it on one line")
    return text


def _parsed(flag: str, text: str, parse: Callable[[str], float], accepted: str) -> float:
    try:
        return parse(text)
    except RefusedError:
        _refuse(flag, text, accepted)


def _price(flag: str, text: str | None) -> float | None:
    return None if text is None else _parsed(flag, text, price, "write 0.30")


def _matchers(text: str) -> str:
    """PromQL label matchers, with or without braces; the server judges the rest."""
    text = text.strip()
    inner = text[1:-1].strip() if text.startswith("{") and text.endswith("}") else text
    if inner and not re.fullmatch(
        r'(?:\s*[A-Za-z_]\w*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\\n]|\\.)*"\s*(?:,|$))+', inner, re.ASCII
    ):
        _refuse("--match", text, """write 'cluster="berlin",instance=~"gpu-.+"'""")
    return inner


def _refuse(flag: str, text: str, accepted: str) -> NoReturn:
    raise ReportError(f"{flag}: '{shown(text, 80)}' cannot be used; {accepted}")
