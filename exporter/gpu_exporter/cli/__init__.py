"""The command line: the only reader of arguments and environment."""

# Nothing is imported here that Python has not read by itself: until main() has begun, Ctrl-C would print a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal


def main() -> "NoReturn":
    """Run the command line."""
    # Ctrl-C while modules are read ends the process as it ends any program, without a traceback.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gpu_exporter.cli import group  # noqa: PLC0415 - see above

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    group.main()
