"""Divides work among the tasks of a job array, and waits for what the others do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar


# Short steps are noticed at once, and long ones asked about seldom.
FIRST_POLL_SECONDS, MAX_POLL_SECONDS = 0.05, 5.0
Item = TypeVar("Item")


class OthersAtWork(Exception):
    """Other tasks of the array have not done their shares; the message says which."""


@dataclass(frozen=True)
class JobArray:
    """This task's place among those that build a data set together; by default it is the only one.

    Attributes:
        num_tasks: Tasks of the array.
        index: Which of them this one is; None does the work of all.
        wait_seconds: How long to wait for the others, at each step where all of their work is needed.
    """

    num_tasks: int = 1
    index: int | None = None
    wait_seconds: float = 0.0

    @property
    def is_first(self) -> bool:
        """Whether this task does what only one can do."""
        return self.index in (None, 0)

    @property
    def for_short_work(self) -> "JobArray":
        """How short work is divided: among tasks that wait for one another, else the first one does it alone."""
        return JobArray() if self.is_first and self.wait_seconds == 0 else self

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this task does."""
        return items if self.index is None else items[self.index :: self.num_tasks]

    def wait(self, is_done: Callable[[Item], bool], items: Sequence[Item], *, name: str) -> None:
        """Waits until all items are done, whoever does them.

        Raises:
            OthersAtWork: If some are missing when the time is up.
        """
        deadline = time.monotonic() + self.wait_seconds
        pause = FIRST_POLL_SECONDS
        missing = [item for item in items if not is_done(item)]
        while missing and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(1.5 * pause, MAX_POLL_SECONDS)
            missing = [item for item in missing if not is_done(item)]
        if missing:
            raise OthersAtWork(
                f"{name}: {len(missing)} of {len(items)} parts that other tasks do are not done yet. Run this again "
                "when they are, or give --wait_seconds."
            )
