"""Ends a run at a good moment: what is at work when a signal comes is finished and committed first."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


logger = logging.getLogger(__name__)

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """SIGINT (Ctrl-C) and SIGTERM (a batch system); the first is held back while items are at work, a second not."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._is_held_back = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Begins to take the signals; outside the main thread, where Python gives none, it does nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in NUMBERS}

    def leave(self) -> None:
        """Gives the signals back to who had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def came(self) -> bool:
        """Whether a signal asks to begin nothing more."""
        return self._number is not None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Holds a signal back until the block is through."""
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False
        if self._number is not None:
            self._end(self._number)

    def _take(self, number: int, frame: object) -> None:
        if self._is_held_back and self._number is None:
            self._number = number
            logger.warning("stopping when what is at work is done; a second signal ends at once")
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        logger.warning("stopped by %s; the same command goes on from here", signal.Signals(number).name)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
