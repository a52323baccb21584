"""The source's life: opened with backoff, closed, paused, and left behind where a call hangs in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from gpu_exporter.sampling.poller import Outcome, Poller
from gpu_exporter.sources import Source, SourceError

log = logging.getLogger(__name__)

# Without persistence mode the driver initialises every GPU as it is opened, 1 to 2 s each.
_OPEN_TIMEOUT: Final = 60.0
_CLOSE_TIMEOUT: Final = 5.0
# That may hang, each with a thread of its own; beyond, the driver is not opened again until one has returned.
_MOST_CLOSINGS: Final = 4
_RETRY_FIRST: Final = 1.0
_RETRY_MOST: Final = 60.0
_NO_GPU: Final = "the driver lists no GPU"


class Lifecycle:
    """Opens and closes the source. Belongs to the sampler's thread; all times are monotonic seconds.

    ``hanging`` tells how many calls hang in the source: the driver must not be shut down beneath them. ``closing`` is
    called with each source that is about to be closed. ``wake`` is notified when an opening that hung has ended.
    """

    def __init__(
        self,
        *,
        open_source: Callable[[], Source],
        poller: Poller,
        monotonic: Callable[[], float],
        hanging: Callable[[], int],
        closing: Callable[[Source], None],
        wake: threading.Condition,
    ) -> None:
        self._open_source = open_source
        self._poller = poller
        self._monotonic = monotonic
        self._hanging = hanging
        self._closing = closing
        self._wake = wake
        self.source: Source | None = None
        self.trouble: str | None = None
        self.error: SourceError | None = None  # why there is no source
        self.opening = False  # a call to open the source hangs
        self.retry_in = _RETRY_FIRST
        self._retry_at = 0.0
        self._opened_late: Source | None = None
        self._abandoned: Source | None = None  # the first that was closed beneath calls that still hang
        self.closings = 0  # that hang
        self._paused_until: float | None = None

    # --- opening -----------------------------------------------------------------------------------------------------

    def opened(self, now: float) -> Source | None:
        """The open source; opened here, where that is due and succeeds.

        One without any GPU is opened anew now and then: some may have been plugged in, or bound to the driver.
        """
        if self.source is not None:
            if self.source.devices or now < self._retry_at:
                return self.source
            self._close()
        with self._wake:
            late, self._opened_late = self._opened_late, None
        if late is not None:
            return self._adopt(late)
        if self.opening or now < self._retry_at:
            return None
        if self.closings >= _MOST_CLOSINGS:
            self.error = None
            self._tell("the driver does not answer: closing it hangs")
            return None
        self.opening = True
        (outcome,) = self._poller.run([self._open_source], timeout=_OPEN_TIMEOUT, late=self._opening_returned)
        if outcome is None:
            self.error = None
            self._tell("the driver does not answer: opening it hangs")
            return None
        self.opening = False
        try:
            return self._adopt(outcome.get())
        except SourceError as error:
            self._fail(error)
            return None

    def failed(self, error: SourceError) -> None:
        """The open source cannot be used any more: close it; it is opened again with backoff."""
        self._fail(error)
        self._close()

    def reopen(self, why: str) -> None:
        """GPUs have come or gone: close the source, to be opened again at once."""
        log.info("reopening the source", extra={"why": why})
        self._close()

    def works(self) -> None:
        """The open source has just answered: should it fail, it is tried again soon."""
        self.retry_in = _RETRY_FIRST

    def _opening_returned(self, _position: int, outcome: Outcome[Source]) -> None:
        with self._wake:
            self.opening = False
            self._opened_late = outcome.result
            self._wake.notify_all()

    def _adopt(self, source: Source) -> Source:
        """Take an open source into use; the backoff goes on until it has answered."""
        self.source, self.error = source, None
        if not source.devices:
            self._back_off()
            if self.trouble != _NO_GPU:
                log.warning(_NO_GPU)
            self.trouble = _NO_GPU
            return source
        self.trouble = None
        log.info(
            "source opened",
            extra={"source": source.name, "gpus": len(source.devices), "driver": source.driver.driver_version},
        )
        return source

    def _fail(self, error: SourceError) -> None:
        self.error = error
        self._back_off()
        self._tell(str(error))

    def _back_off(self) -> None:
        self._retry_at = self._monotonic() + self.retry_in
        self.retry_in = min(2 * self.retry_in, _RETRY_MOST)

    def _tell(self, why: str) -> None:
        """Log a trouble once, not once a retry."""
        if why != self.trouble:
            log.error("no readings: %s", why)
        self.trouble = why

    # --- pausing -----------------------------------------------------------------------------------------------------

    def toggle_pause(self, now: float, *, seconds: float) -> None:
        """Close the driver for so many seconds; or, where it is paused already, end that."""
        if self._paused_until is not None:
            self._resume()
            return
        self._paused_until = now + seconds
        log.warning("paused: the driver is closed", extra={"seconds": seconds})
        self._close()

    def paused(self, now: float) -> bool:
        """Whether the driver is to stay closed; a pause whose time is over ends here."""
        if self._paused_until is not None and now >= self._paused_until:
            self._resume()
        return self._paused_until is not None

    def _resume(self) -> None:
        self._paused_until = None
        self._retry_at, self.retry_in = 0.0, _RETRY_FIRST
        log.info("resumed")

    # --- closing -----------------------------------------------------------------------------------------------------

    def close_abandoned(self) -> None:
        """Shut down what was left open beneath calls that hung: only then does the driver forget a failed session."""
        if self._abandoned is not None and not self._hanging():
            source, self._abandoned = self._abandoned, None
            self._call_close(source, hung=False)

    def left_open(self) -> list[Source]:
        """What is to be closed at the end, when nothing is opened any more."""
        with self._wake:
            found = (self._abandoned, self._opened_late, self.source)
        return [source for source in found if source is not None]

    def _close(self) -> None:
        """Close it; where a call still hangs inside, without shutting the driver down until that has returned."""
        source, self.source = self.source, None
        if source is None:
            return
        self._closing(source)
        hanging = self._hanging()
        if hanging:
            log.warning("the driver stays open: calls still hang in it", extra={"stuck": hanging})
            # One that stays open is enough: it holds the driver for all that hangs, and none is piled upon it.
            self._abandoned = self._abandoned or source
        self._call_close(source, hung=bool(hanging))

    def _call_close(self, source: Source, *, hung: bool) -> None:
        # Counted before the call: it may return at any moment from its deadline on.
        self._count_closings(1)
        close = partial(source.close, hung=hung)
        (outcome,) = self._poller.run([close], timeout=_CLOSE_TIMEOUT, late=lambda _, __: self._count_closings(-1))
        if outcome is None:
            log.warning("closing the driver hangs; going on without")
            return
        self._count_closings(-1)
        if outcome.error is not None:
            log.info("closing the driver failed", extra={"error": str(outcome.error)})

    def _count_closings(self, count: int) -> None:
        with self._wake:
            self.closings += count
