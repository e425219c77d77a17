"""What the fork server imports first, so that neither it nor what it forks outlives the process that started it.

It would notice only when all that it preloads is imported, which takes seconds, and workers not before they have
imported the program.
"""

import ctypes
import os
import signal
import sys


PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies.


def end_with_parent() -> None:
    """Asks for SIGKILL at the end of the parent; where the system cannot, workers watch it themselves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


end_with_parent()
os.register_at_fork(after_in_child=end_with_parent)
# A batch system sends SIGTERM to all processes; the first of them decides what is still finished.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
