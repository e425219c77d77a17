"""Worker processes that are given one item at a time: it is known what a worker was at when it died.

`concurrent.futures` also notices a dead worker, but can say neither which item it had nor how it ended, and its
workers outlive a parent that is killed.
"""

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any


POLL_SECONDS = 0.5
INDEX = "MOFI_WORKER_INDEX"  # The variable that tells a worker which of its pool it is.
MEMORY = (
    "Most often it needed more memory than there is: give fewer --num_processes or a smaller --batch_size and run "
    "again. What was finished stays."
)


class RemoteTraceback(Exception):
    """Where in a worker an error came from; the cause of that error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Workers:
    """Some processes, each with a connection to this one; `close` ends them, and so does the end of this process.

    Args:
        number: Of processes.
        context: How they start.
    """

    def __init__(self, number: int, context: multiprocessing.context.BaseContext) -> None:
        self.processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        for index in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, index), daemon=True)
            process.start()
            theirs.close()  # The only other end is the worker's: when it dies, ours says so.
            self.processes[ours] = process
        atexit.register(self.close)

    def run(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        name_of: Callable[[Any], str] = str,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Any]:
        """Calls a function on every item, in any order; yields the results.

        Args:
            items: One is taken when a worker is free for it.
            name_of: Of an item, for messages.
            is_stopped: Whether to begin nothing more.

        Raises:
            ChildProcessError: If a worker died.
            Exception: The first one that an item raised.
        """
        waiting, free, busy = iter(items), list(self.processes), {}
        try:
            while True:
                while free and not is_stopped() and (item := next(waiting, self)) is not self:
                    connection = free.pop()
                    busy[connection] = item
                    with suppress(ConnectionError):  # It died while it had nothing to do; `receive` says so.
                        connection.send((function, item))
                if not busy:
                    return
                for connection in wait(list(busy), timeout=POLL_SECONDS):
                    result = self.receive(connection, name_of(busy.pop(connection)))
                    free.append(connection)
                    yield result
        finally:
            # What is at work is finished and committed, so that an error or a signal loses nothing.
            for connection in busy:
                with suppress(EOFError, ConnectionError):
                    connection.recv()

    def receive(self, connection: Connection, name: str) -> Any:
        """What a worker made of an item."""
        try:
            result, error, trace = connection.recv()
        except (EOFError, ConnectionError):
            raise ChildProcessError(f"the worker at {name} died{self.end_of(connection)}. {MEMORY}") from None
        if error is not None:
            raise error from RemoteTraceback(trace)
        return result

    def end_of(self, connection: Connection) -> str:
        """How a process ended, in brackets."""
        process = self.processes.pop(connection)
        process.join(timeout=5)
        if process.exitcode is None or process.exitcode >= 0:
            return f" (exit status {process.exitcode})"
        return f" ({signal.Signals(-process.exitcode).name})"

    def close(self) -> None:
        """Ends all processes at once; what they are at is lost."""
        atexit.unregister(self.close)
        for connection, process in self.processes.items():
            process.kill()
            process.join()
            connection.close()
        self.processes = {}


def serve(connection: Connection, index: int) -> None:
    """What a worker does as long as its parent lives: takes a function and an item, and sends back the result."""
    os.environ[INDEX] = str(index)
    # A terminal sends Ctrl-C to workers too, a batch system SIGTERM; their parent decides what is still finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            function, item = connection.recv()
        except EOFError:
            return
        try:
            answer = (function(item), None, "")
        except Exception as error:
            answer = (None, picklable(error), traceback.format_exc())
        connection.send(answer)


def worker_index() -> int:
    """Which of its pool's workers this process is, from 0; 0 also where it is none."""
    return int(os.environ.get(INDEX, "0"))


def end_with_parent() -> None:
    """Waits for the end of the parent, however it comes, and ends this process; also if it is the fork server's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def picklable(error: Exception) -> Exception:
    """The error, or one with its words if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
