"""Runs tasks on a Ray cluster: `pip install .[ray]`. Ray schedules groups of shards; the commits are ours."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from data_scripts.engine.workers import MEMORY


logger = logging.getLogger(__name__)
# After so long without a finished task the log says so: a cluster may be busy, or too small for the task.
PATIENCE_SECONDS = 120.0
Item = TypeVar("Item")


def join_cluster() -> bool:
    """Joins the cluster that `ray start` or RAY_ADDRESS names; without one, starts one on this machine.

    Returns:
        Whether this call did so; False if this process was in a cluster already.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the cluster has no core to run anything on.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs Ray: pip install 'ray[data]' (the `ray` extra)") from None
    joined = not ray.is_initialized()
    if joined:
        ray.init(log_to_driver=False, include_dashboard=False)
    if ray.cluster_resources().get("CPU", 0) < 1:
        raise ValueError("the Ray cluster offers no CPU, so that no shard would ever run; see `ray status`")
    return joined


def leave_cluster() -> None:
    """Ends what `join_cluster` began."""
    import ray

    ray.shutdown()


def run_on_ray(function: Callable[[Item], Any], items: Sequence[Item], *, uses_gpu: bool = False) -> Iterator[Any]:
    """Calls a function on every item on the machines of a cluster, which must share the file system.

    Yields:
        The results, in any order.

    Raises:
        Exception: The first one that an item raised; the others are cancelled.
    """
    import ray

    num_gpus = 1 if uses_gpu and ray.cluster_resources().get("GPU", 0) else 0
    # A shard that fails for its content would fail again; one that was lost with its machine is tried again.
    remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=3, retry_exceptions=False)(function_on_ray)
    waiting = [remote.remote(function, item) for item in items]
    try:
        while waiting:
            finished, waiting = ray.wait(waiting, num_returns=1, timeout=PATIENCE_SECONDS)
            if not finished:
                logger.warning(
                    "no shard finished in %.0f s, %d wait; see `ray status`", PATIENCE_SECONDS, len(waiting)
                )
                continue
            try:
                (result,) = ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError) as error:
                raise ChildProcessError(f"a worker of the cluster died ({error}). {MEMORY}") from None
            yield result
    finally:
        for task in waiting:
            ray.cancel(task)


def function_on_ray(function: Callable[[Item], Any], item: Item) -> Any:
    """What a worker runs; files stay on disk, and a manifest comes back."""
    return function(item)
