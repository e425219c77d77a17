"""Divides work among the tasks of a job array, and waits for what the others do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar


# Short steps are noticed at once, and long ones asked about seldom.
FIRST_POLL_SECONDS, MAX_POLL_SECONDS = 0.05, 5.0
Item = TypeVar("Item")


@dataclass(frozen=True)
class JobArray:
    """This task's place among those that build a dataset together; by default it is the only one.

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

    def share(self, items: Sequence[Item], *, is_short: bool = False) -> Sequence[Item]:
        """The items that this task does; short work is shared only by tasks that wait for one another."""
        if self.index is None:
            return items
        if is_short and self.wait_seconds == 0:
            return items if self.is_first else items[:0]
        return items[self.index :: self.num_tasks]

    def wait(self, is_done: Callable[[Item], bool], items: Sequence[Item]) -> int:
        """Waits until all items are done, whoever does them; returns how many are not when the time is up."""
        deadline = time.monotonic() + self.wait_seconds
        pause = FIRST_POLL_SECONDS
        missing = [item for item in items if not is_done(item)]
        while missing and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(1.5 * pause, MAX_POLL_SECONDS)
            missing = [item for item in missing if not is_done(item)]
        return len(missing)


ALONE = JobArray()
