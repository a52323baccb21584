"""The command line of ``gpu-exporter record``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpu_exporter.cli.arenas import bound_arenas
from gpu_exporter.cli.history import parsed, with_history
from gpu_exporter.cli.options import load_config, with_settings
from gpu_exporter.config.parsers import duration_between, size_between

_DAY = 86400.0
_MIB = 1024.0**2


@click.command(short_help="Keep a history of GPUs and their holders in one file.")
@with_history(required=True)
@click.option(
    "--target",
    "targets",
    multiple=True,
    envvar="GPU_EXPORTER_TARGET",
    metavar="HOST:PORT",
    help="An exporter to record; may be given again (in the environment: with blanks).  [default: this machine]",
)
@click.option(
    "--history.retention",
    "retention",
    default="30d",
    show_default=True,
    envvar="GPU_EXPORTER_HISTORY_RETENTION",
    metavar="DURATION",
    help="How long minutes are kept; then they become quarter hours.",
)
@click.option(
    "--history.quarters-retention",
    "quarters",
    default="730d",
    show_default=True,
    envvar="GPU_EXPORTER_HISTORY_QUARTERS_RETENTION",
    metavar="DURATION",
    help="How long quarter hours are kept.",
)
@click.option(
    "--history.size-limit",
    "limit",
    default="4GiB",
    show_default=True,
    envvar="GPU_EXPORTER_HISTORY_SIZE_LIMIT",
    metavar="SIZE",
    help="How large the file may get; beyond it the oldest days go.",
)
@with_settings(
    shown=("source", "collection.", "processes.", "owners.", "accounting.", "smi.", "dcgm.", "fake.", "log.")
)
def record(
    *,
    history: Path,
    targets: tuple[str, ...],
    retention: str,
    quarters: str,
    limit: str,
    config_file: Path | None,
    **given: Any,
) -> None:
    """Keep a history of GPUs and their holders in one SQLite file, until told to stop.

    Without --target this machine is read as "serve" reads it, and with the same settings. The status is 0 after SIGTERM
    or SIGINT, and 2 where the file cannot be used; a disk that fills up later is told in the log, and waited for.
    """
    from gpu_exporter import logs  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.history import HistoryError, Retention  # noqa: PLC0415
    from gpu_exporter.recording import record as run  # noqa: PLC0415
    from gpu_exporter.recording.targets import parse_target  # noqa: PLC0415

    config, _ = load_config(config_file, given)
    logs.configure(config.log, waits=False)
    kept = Retention(
        minutes=parsed("--history.retention", retention, duration_between(_DAY, 3660 * _DAY)),
        quarters=parsed("--history.quarters-retention", quarters, duration_between(_DAY, 3660 * _DAY)),
        size=parsed("--history.size-limit", limit, size_between(16 * _MIB, 1024**2 * _MIB)),
    )
    wanted = [parsed("--target", text, parse_target) for text in dict.fromkeys(targets)]
    bound_arenas()
    try:
        run(config, path=history, retention=kept, targets=wanted)
    except HistoryError as error:
        raise click.ClickException(f"--history.path: {error}") from None
    finally:
        logs.flush()
