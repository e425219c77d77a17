"""SIGTERM and Ctrl-C end a run after the step under way, with a checkpoint to go on from."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption(TrainerCallback):
    """Notes a signal, and once every process knows of one, has the step's end save and stop.

    Attributes:
        number: Of the signal that this process got, or None.
        is_agreed: Whether any process got one, as all of them know.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_agreed = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals while a run trains; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone.
            return
        handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        logger.warning("%s: a checkpoint is saved at the end of this step", signal.Signals(number).name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        if self.is_agreed:
            control.should_save = control.should_training_stop = True

    def end_process(self) -> None:
        """Ends an interrupted process as its signal would have.

        Raises:
            SystemExit: With 128 and the signal's number, as shells count.
        """
        if self.is_agreed:
            raise SystemExit(128 + (self.number or signal.SIGTERM))
