"""The log lines of XIDs and other events: one a GPU and number, and no storm of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gpu_exporter.model import OTHER_XID, Event, GpuEvent, XidDetail

log = logging.getLogger(__name__)

_MOST_LINES: Final = 20  # a reading


def log_events(events: Sequence[Event]) -> None:
    """Log what came since the previous reading; of a storm only the first few, and how many there were."""
    for event in events[:_MOST_LINES]:
        often = {"count": event.count} if event.count > 1 else {}
        if isinstance(event, GpuEvent):
            kind = {"gpu": event.device.index, "event": event.event}
            log.warning("GPU event", extra={**kind, "uuid": event.device.uuid, **often})
            continue
        told = {"gpu": event.device.index, "xid": "other" if event.xid == OTHER_XID else event.xid}
        earlier = {"before_start": "yes"} if event.earlier else {}
        detail = _detail(event.detail) if event.detail else {}
        log.warning("XID event", extra={**told, "uuid": event.device.uuid, **often, **detail, **earlier})
    rest = events[_MOST_LINES:]
    if rest:
        log.warning("more XID events", extra={"count": sum(event.count for event in rest), "numbers": len(rest)})


def _detail(detail: XidDetail) -> dict[str, object]:
    """What the kernel log says of it."""
    told = {
        "severity": detail.word,
        "unit": detail.unit,
        "sub_code": detail.sub_code,
        "link": detail.link,
        "pid": detail.pid,
        "process_name": detail.process,
    }
    return {name: value for name, value in told.items() if value not in ("", None)}
