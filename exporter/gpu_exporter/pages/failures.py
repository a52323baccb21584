"""What each reason for a failure means, and what to do about it: words for the status page and for the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gpu_exporter.model import Reason


@dataclass(frozen=True, slots=True)
class Words:
    """``meaning`` stands beside the GPU; ``advice`` is for someone with a shell on the host; ``{gpu}`` is the index."""

    meaning: str
    advice: str


WORDS: Final[dict[Reason, Words]] = {
    "lost": Words(
        "lost: the driver cannot reach it",
        "it fell off the bus: look for XID 79 in dmesg, drain the node, power-cycle it",
    ),
    "timeout": Words(
        "the driver does not answer for it",
        "its driver call hangs: look for the GPU in dmesg; the exporter goes on without it",
    ),
    "reset_required": Words("it needs a reset", "stop what uses it, then: nvidia-smi --gpu-reset -i {gpu}"),
    "permission": Words("no permission to read it", "give this user access to its device node"),
    "unknown": Words(
        "the driver reports an unknown error",
        "compare with nvidia-smi; in a container after systemctl daemon-reload, restart it",
    ),
    "partial": Words(
        "it answers, but most of its driver calls fail",
        "look for the GPU in dmesg and compare with nvidia-smi -q -i {gpu}; drain it and reset it",
    ),
}
