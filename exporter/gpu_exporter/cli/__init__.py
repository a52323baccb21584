"""The command line: the only reader of arguments and environment."""

from __future__ import annotations

import signal

TYPE_CHECKING = False  # without importing it: until main() has begun Ctrl-C would print a traceback
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    # Ctrl-C while modules are read ends the process as it ends any program, without a traceback.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gpu_exporter.cli import group  # noqa: PLC0415 - see above

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    group.main()
