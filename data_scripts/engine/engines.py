"""Runs jobs: in this process, in several, or on Ray. An engine knows no stage, a stage knows no engine."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import takewhile
from multiprocessing import forkserver
from typing import Any, TypeVar

from tqdm import tqdm

from data_scripts.engine.job_array import ALONE, JobArray
from data_scripts.engine.jobs import Group, Job, Result, Steps, run_group
from data_scripts.engine.row_counts import MIN_ROWS_TO_JUDGE, Totals, check_readable
from data_scripts.engine.stop_signals import StopSignals
from data_scripts.engine.workers import Workers


logger = logging.getLogger(__name__)

SILENT_SECONDS = 5.0
Item = TypeVar("Item")


class Engine:
    """How to run; a context that ends its workers, and in which a first signal to stop lets what is at work finish.

    Args:
        kind: `local` or `ray`.
        num_processes: Workers of `local`, kept from job to job; with 1 there is no other process.
        num_threads: Threads a worker's PyTorch may use; the same everywhere, or sums would round differently.
        preload: Modules that workers need; imported once, and their memory shared, where the system can fork.
    """

    def __init__(
        self, kind: str = "local", *, num_processes: int = 1, num_threads: int = 1, preload: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self.num_processes = num_processes
        self.num_threads = num_threads
        self.preload = tuple(preload)
        self.signals = StopSignals()
        self._pools: dict[int, Workers] = {}
        self._joined_cluster = False

    def __enter__(self) -> "Engine":
        if self.kind == "local" and self.num_processes > 1 and self.context.get_start_method() == "forkserver":
            # Its imports take seconds, in which this process plans.
            forkserver.ensure_running()
        self.signals.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for workers in self._pools.values():
            workers.close()
        self._pools = {}
        self.signals.leave()
        if self._joined_cluster:
            from data_scripts.engine.ray_engine import leave_cluster

            leave_cluster()
            self._joined_cluster = False

    def run(
        self,
        function: Callable[[Item], Any],
        items: Iterable[Item],
        *,
        name_of: Callable[[Item], str] = str,
        uses_gpu: bool = False,
    ) -> Iterator[Any]:
        """Calls a function on every item, in any order; yields the results.

        Args:
            items: Taken one at a time, when there is room for it.
            name_of: Of an item, for messages.

        Raises:
            ChildProcessError: If a worker died.
            KeyboardInterrupt, SystemExit: After a signal to stop, when what was at work is done.
            Exception: The first one that an item raised.
        """
        task = partial(run_limited, function, num_threads=self.num_threads)
        is_small = isinstance(items, Sequence) and len(items) < 2
        if self.kind == "ray":
            from data_scripts.engine.ray_engine import join_cluster, run_on_ray

            self._joined_cluster |= join_cluster()
            yield from run_on_ray(task, items, uses_gpu=uses_gpu)
            return
        with self.signals.held_back():
            if self.num_processes > 1 and not is_small:
                workers = self.workers(uses_gpu=uses_gpu)
                yield from workers.run(task, items, name_of=name_of, is_stopped=self.signals.came)
            else:
                yield from map(task, takewhile(lambda _: not self.signals.came(), items))

    def workers(self, *, uses_gpu: bool) -> Workers:
        """The worker processes; where each shall have a GPU, no more of them than there are GPUs, if there are any."""
        torch = sys.modules.get("torch")
        num_gpus = torch.cuda.device_count() if uses_gpu and torch is not None else 0
        size = min(self.num_processes, num_gpus) if num_gpus else self.num_processes
        if size not in self._pools:
            self._pools[size] = Workers(size, self.context)
        return self._pools[size]

    @cached_property
    def context(self) -> multiprocessing.context.BaseContext:
        """How worker processes start: a plain fork would copy the locks of threads that do not exist in the child."""
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["data_scripts.engine.end_with_parent", *self.preload])
        return context


def run_steps(steps: Steps[Result], *, engine: Engine, array: JobArray = ALONE) -> Result | None:
    """Runs the jobs that a generator gives, and returns what it returns.

    Returns:
        None if other tasks of the array have to do their share before this one can go on.

    Raises:
        Exception: Whatever an item raised; what was done stays done.
    """
    while True:
        try:
            job, groups = next(steps)
        except StopIteration as end:
            return end.value
        run_job(job, array.share(groups, is_short=job.is_short), engine=engine)
        if missing := array.wait(job.is_done, groups):
            logger.info(
                "%s: %d of %d parts that other tasks do are not done yet. Run this again when they are, or give "
                "--wait_seconds.",
                job.name,
                missing,
                len(groups),
            )
            return None


def run_job(job: Job, groups: Sequence[Group], *, engine: Engine) -> None:
    """Does those groups of items that are not done, with a progress bar if it takes long.

    Raises:
        Exception: Whatever an item raised; what was done stays done.
        ValueError: If nearly nothing can be read.
    """
    pending = [group for group in groups if not job.is_done(group)]
    if len(pending) < len(groups):
        logger.info("%s: %d of %d parts are already there", job.name, len(groups) - len(pending), len(groups))
    totals = Totals(job.stages)
    run = engine.run(partial(run_group, job), pending, name_of=partial(group_name, job), uses_gpu=job.uses_gpu)
    with closing(run) as done:
        for manifests in tqdm(done, total=len(pending), desc=job.name, unit="part", delay=SILENT_SECONDS):
            for manifest in manifests:
                totals.add(manifest)
            check_readable(job, totals, min_rows=MIN_ROWS_TO_JUDGE)


def group_name(job: Job, group: Group) -> str:
    """What a worker is at, for people."""
    return f"{', '.join(item.name for item in group)} of {job.name}"


def run_limited(function: Callable[[Item], Any], item: Item, *, num_threads: int) -> Any:
    """Calls a function with the number of threads of PyTorch fixed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Who needs no PyTorch is spared the seconds; one that is imported later, as spaCy does, reads the variable.
    torch = sys.modules.get("torch")
    if torch is None:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
    elif torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    return function(item)
