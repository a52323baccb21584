"""The log lines of XID events: one a GPU and number, and no storm of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gpu_exporter.model import OTHER_XID, Xid

log = logging.getLogger(__name__)

_MOST_LINES: Final = 20  # a reading


def log_xids(events: Sequence[Xid]) -> None:
    """Log what came since the previous reading; of a storm only the first few, and how many there were."""
    for event in events[:_MOST_LINES]:
        told = {"gpu": event.device.index, "xid": "other" if event.xid == OTHER_XID else event.xid}
        often = {"count": event.count} if event.count > 1 else {}
        log.warning("XID event", extra={**told, "uuid": event.device.uuid, **often})
    rest = events[_MOST_LINES:]
    if rest:
        log.warning("more XID events", extra={"count": sum(event.count for event in rest), "numbers": len(rest)})
