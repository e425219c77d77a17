"""Runs tasks on a Ray cluster: `pip install .[ray]`. Ray schedules shards, one task each; commits are ours."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar


Item = TypeVar("Item")


def run_on_ray(function: Callable[[Item], Any], items: Sequence[Item], *, uses_gpu: bool = False) -> Iterator[None]:
    """Calls a function on every item on the machines of a cluster, which must share the file system.

    Joins the cluster that `ray start` or RAY_ADDRESS names; without one, starts one on this machine.

    Yields:
        Once per finished item.

    Raises:
        ImportError: If Ray is not installed.
        Exception: The first one that an item raised; the others are cancelled.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs Ray: pip install 'ray[data]' (the `ray` extra)") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    # A shard that fails for its content would fail again; one that was lost with its machine is tried again.
    num_gpus = 1 if uses_gpu and ray.cluster_resources().get("GPU", 0) else 0
    remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=3, retry_exceptions=False)(function_on_ray)
    waiting = [remote.remote(function, item) for item in items]
    try:
        while waiting:
            finished, waiting = ray.wait(waiting, num_returns=1)
            try:
                ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            yield
    finally:
        for task in waiting:
            ray.cancel(task)


def function_on_ray(function: Callable[[Item], Any], item: Item) -> None:
    """What a worker runs; the result stays on disk."""
    function(item)
