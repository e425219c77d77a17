"""Memory that threads share: who would take more than is left waits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """Bytes that threads hold together.

    Args:
        limit: In bytes. What alone is above it waits until it is alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.changed = threading.Condition()

    @contextmanager
    def charge(self, num_bytes: int) -> Iterator[None]:
        """Holds so many bytes while the block runs; waits for them first."""
        with self.changed:
            self.changed.wait_for(lambda: self.held == 0 or self.held + num_bytes <= self.limit)
            self.held += num_bytes
        try:
            yield
        finally:
            with self.changed:
                self.held -= num_bytes
                self.changed.notify_all()
