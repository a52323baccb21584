"""The command line of ``gpu-exporter free``."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import click

from gpu_exporter.catalog.simulated import SIMULATED
from gpu_exporter.cli.history import parsed
from gpu_exporter.cli.origin import beat, missing_libraries, origin, with_origin
from gpu_exporter.config.parsers import duration_between, size
from gpu_exporter.ending import quit_now

if TYPE_CHECKING:
    from gpu_exporter.hub.client.view import View
    from gpu_exporter.hub.state import Gpu
    from gpu_exporter.top.free import Wanted

QUICK: Final = 1.0  # seconds between two readings where only two are needed
PATIENCE: Final = 15.0  # seconds for machines that are slow to answer, beside two intervals
_LONGEST: Final = 30 * 86400.0
_FOR_EVER: Final = "for ever"


@click.command()
@click.option("--min-memory", metavar="SIZE", help="Only GPUs with so much memory that nobody uses, such as 40GiB.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="TEXT",
    help="Only GPUs whose model has this in its name, such as h100, in any case; may be given again.",
)
@click.option("--count", type=click.IntRange(1, 100_000), help="So many, or none.  [default: all there are]")
@click.option("--same-host", is_flag=True, help="All on one machine.")
@click.option(
    "--cuda",
    type=click.Choice(["index", "uuid"]),
    is_flag=False,
    flag_value="index",
    help="Write them for CUDA_VISIBLE_DEVICES, such as 0,3, or with --cuda=uuid by UUID. Implies --same-host.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--wait",
    is_flag=False,
    flag_value=_FOR_EVER,
    metavar="[TIMEOUT]",
    help="Until there are, or for so long: --wait, --wait=30m.",
)
@click.option(
    "--interval",
    metavar="DURATION",
    envvar="GPU_EXPORTER_FREE_INTERVAL",
    help="How often --wait looks.  [default: 5s, or hub.yml's]",
)
@with_origin
def free(
    *,
    min_memory: str | None,
    models: tuple[str, ...],
    count: int | None,
    same_host: bool,
    cuda: str | None,
    form: str,
    wait: str | None,
    interval: str | None,
    **where: Any,
) -> int:
    """Write the GPUs that nobody holds, one a line: machine, GPU, model, free memory.

    The status is 0 where there are, 1 where there are none or fewer than --count, 2 where none could be looked at. It
    reserves nothing: whoever starts first has them. docs/TOP.md tells more.
    """
    if cuda is not None and form == "json":
        raise click.UsageError("--cuda and --format=json cannot be given together; write one of them")
    missing_libraries("free")
    from gpu_exporter.top.free import Wanted  # noqa: PLC0415 - other commands start faster without

    wanted = Wanted(
        count=count,
        memory=0.0 if min_memory is None else parsed("--min-memory", min_memory, size),
        models=tuple(filter(None, models)),
        same_host=same_host or cuda is not None,
    )
    timeout = 0.0
    if wait is not None:
        timeout = _LONGEST if wait == _FOR_EVER else parsed("--wait", wait, duration_between(0, _LONGEST))
    return _look(wanted, timeout=timeout, waits=wait is not None, cuda=cuda, form=form, interval=interval, where=where)


def _look(
    wanted: Wanted,
    *,
    timeout: float,
    waits: bool,
    cuda: str | None,
    form: str,
    interval: str | None,
    where: dict[str, Any],
) -> int:
    from gpu_exporter.hub.client.client import Client  # noqa: PLC0415
    from gpu_exporter.top.free import find, shortage  # noqa: PLC0415

    began = time.monotonic()
    end_at_once()
    pace = beat(interval)
    client = Client(origin(interval=pace or (None if waits else QUICK), **where))
    with closing(client):
        client.start()
        # A reading alone does not tell that a GPU is idle.
        view = client.settled(2 * client.origin.interval + PATIENCE)
        found = find(view, wanted)
        if waits and not found:
            tell(f"waiting: {shortage(view, wanted)}")
            view = client.wait(lambda now: bool(find(now, wanted)), timeout - (time.monotonic() - began))
            found = find(view, wanted)
    if found:
        _write(view, found, cuda=cuda, form=form)
        status = 0
    elif trouble := blindness(view):
        tell(trouble)
        status = 2
    else:
        tell(shortage(view, wanted))
        status = 1
    if view.simulated():
        tell(SIMULATED)
    if client.hung:
        quit_now(status)
    return status


def blindness(view: View) -> str:
    """Why no GPU can be looked at; empty where one can."""
    if any(state.online and state.gpus for state in view):
        return ""
    if view.trouble:
        return view.trouble
    for state in view:
        if why := state.trouble if state.online else state.message or "it did not answer in time":
            more = f" (and {len(view) - 1} more machine{'s' if len(view) > 2 else ''})" if len(view) > 1 else ""
            return f"no GPU can be looked at: {state.node.name} {why}{more}" if not state.online else f"no GPU: {why}"
    return "no GPU: the driver lists none" if len(view) else "no GPU: there is no machine to look at"


def tell(what: str) -> None:
    """A line beside the findings."""
    click.echo(f"gpu-exporter: {what}", err=True)


def end_at_once() -> None:
    """Have Ctrl-C end the process as SIGTERM does, whatever hangs: there is nothing to put in order."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _write(view: View, gpus: tuple[Gpu, ...], *, cuda: str | None, form: str) -> None:
    from gpu_exporter.hub.documents import gpu_document  # noqa: PLC0415
    from gpu_exporter.hub.words import size as shown_size  # noqa: PLC0415
    from gpu_exporter.top.cells import fit, width  # noqa: PLC0415
    from gpu_exporter.top.free import memory_free  # noqa: PLC0415
    from gpu_exporter.top.terminal import spells_ascii  # noqa: PLC0415

    if cuda is not None:
        click.echo(",".join(str(gpu.index) if cuda == "index" or not gpu.uuid else gpu.uuid for gpu in gpus))
        if len(view) > 1:
            tell(f"these are GPUs of {gpus[0].node}")
        return
    if form == "json":
        told = [{**gpu_document(gpu), "memory_free_bytes": memory_free(gpu)} for gpu in gpus]
        told = [{name: value for name, value in each.items() if value is not None} for each in told]
        document = {"timestamp_seconds": round(view.taken, 3), "simulated": view.simulated(), "gpus": told}
        click.echo(json.dumps(document, indent=2))
        return
    rows = [(gpu.node, str(gpu.index), gpu.model or "unknown", shown_size(memory_free(gpu))) for gpu in gpus]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    plain = spells_ascii()
    for row in rows:
        cells = zip(row, widths, (False, True, False, True), strict=True)
        click.echo("  ".join(fit(cell, columns, right=right, ascii_only=plain) for cell, columns, right in cells))
