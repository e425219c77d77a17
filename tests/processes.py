"""Runs a function of a test file in several processes that talk over gloo, or in one that may be killed."""

import importlib.util
import inspect
import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


TIMEOUT_SECONDS = 240
ROOT = Path(__file__).parent.parent
PRELOADED = ["train", "processes"]  # `train` imports torch, transformers, datasets and the package.


def run_processes(function: Callable[..., Any], num_processes: int, *args: Any) -> list[Any]:
    """Calls `function(*args)` in `num_processes` new processes, joined over gloo, and returns what each returned.

    The processes are forked from a server that has imported torch once, so starting one takes a fraction of a second.
    A process that kills itself returns its exit code.

    Args:
        function: Defined at the top of a test file.
        args: Can be pickled.

    Raises:
        AssertionError: If a process raised, with its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])  # The server reads it when it starts.
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(num_processes):
        receiver, sender = context.Pipe(duplex=False)
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": num_processes,
            "LOCAL_WORLD_SIZE": num_processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        call = inspect.getfile(function), function.__name__, args, environment, sender
        worker = context.Process(target=_call, args=call, daemon=False)
        worker.start()
        sender.close()
        workers.append((worker, receiver))
    return [_result(worker, receiver) for worker, receiver in workers]


def _call(file: str, name: str, args: tuple[Any, ...], environment: dict[str, Any], sender: Any) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # As in a process that no server forked.
    try:
        if environment["WORLD_SIZE"] > 1:
            os.environ.update({key: str(value) for key, value in environment.items()})
            torch.distributed.init_process_group("gloo")
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sender.send((True, getattr(module, name)(*args)))
    except (Exception, SystemExit):
        sender.send((False, traceback.format_exc()))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _result(worker: multiprocessing.Process, receiver: Any) -> Any:
    try:
        if not receiver.poll(TIMEOUT_SECONDS):
            worker.kill()
            raise AssertionError(f"The process did not end within {TIMEOUT_SECONDS} s.")
        succeeded, result = receiver.recv()
    except EOFError:
        worker.join()
        return worker.exitcode
    worker.join()
    assert succeeded, result
    return result
