"""How the UUID of a GPU says that there is no such GPU.

Of all that is told of a GPU, mails, histories and what a Prometheus kept have its UUID alone in common. So simulated
GPUs have UUIDs whose last 48 bits are these, and whoever tells a person of a GPU can say so, years later as well.
"""

from __future__ import annotations

from typing import Final

# As text; deploy/alertmanager/templates/email.tmpl has it too. A real GPU has such a UUID once in 2^48.
UUID_END: Final = "fa4efa4efa4e"
SIMULATED: Final = "simulated data: no real GPU was read"


def is_simulated(uuid: str) -> bool:
    """Whether the GPU of that UUID is simulated. What was replayed is not: it was read of a real one."""
    return uuid.endswith(f"-{UUID_END}")


def told_model(model: str, uuid: str) -> str:
    """The model, for people and tables, with a word where there is no such GPU."""
    return f"{model} (simulated)" if is_simulated(uuid) else model
