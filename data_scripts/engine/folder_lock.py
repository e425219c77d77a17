"""Keeps two runs out of one folder."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_scripts.engine.job_array import ALONE, JobArray


logger = logging.getLogger(__name__)


@contextmanager
def hold_folder(folder: Path, array: JobArray = ALONE) -> Iterator[None]:
    """Holds a folder for this run; tasks of an array hold it together, each place in the array once.

    The operating system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: If another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {".lock": fcntl.LOCK_EX}
    if array.index is not None:
        names = {".lock": fcntl.LOCK_SH, f".lock-{array.index}": fcntl.LOCK_EX}
    files: list[int] = []
    try:
        for name, kind in names.items():
            files.append(os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666))
            lock(files[-1], kind, folder)
        yield
    finally:
        for file in files:
            os.close(file)


def lock(file: int, kind: int, folder: Path) -> None:
    """Locks an open file or says who cannot."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            # Some network file systems know no locks; what is written is the same, whoever writes it.
            logger.warning("%s cannot be locked (%s); take care that no other run works in it", folder, error)
            return
        raise ValueError(
            f"another run is at work in {folder}. Wait for its end, or choose another --output_dir; tasks of one job "
            "array need a --shard_index each."
        ) from None
