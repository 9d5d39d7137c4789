"""`python -m monitor.personalization.low_priority PARENT CORES COMMAND...`: becomes COMMAND with the lowest priority there is.

Runs in the new process before the command, because what is done here between fork and exec is not safe in a program with threads. What
this system does not know or allow is left out: each measure stands for itself.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PROC_SELF = Path("/proc/self")


def main(arguments: list[str]) -> None:
    """PARENT: the process that it must not survive. CORES: how many it may use."""
    parent, cores, *command = arguments
    die_with_parent(int(parent))
    lower_priority(int(cores))
    disable_core_dumps()
    os.execv(command[0], command)


def die_with_parent(parent: int) -> None:
    """From now on this process is killed when the thread that started it ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("error: what started this has ended")


def lower_priority(cores: int) -> None:
    """Take only `cores` processors, and those and the disk only while nobody else wants them; be the first to go when memory is short."""
    for step in (_limit_processors, _idle_cpu_class, _idle_io_class, _lower_autogroup, _prefer_oom_kill):
        with contextlib.suppress(OSError):
            step(cores)


def disable_core_dumps() -> None:
    """What is in memory here is somebody's voice: a crash writes none of it to a disk, nor to who collects crashes."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        (_PROC_SELF / "coredump_filter").write_text("0")


def _limit_processors(cores: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def _idle_cpu_class(_cores: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _idle_io_class(_cores: int) -> None:
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def _lower_autogroup(_cores: int) -> None:
    # A session of its own is a group of its own to the scheduler, and between groups the niceness of their processes counts nothing.
    (_PROC_SELF / "autogroup").write_text("19")


def _prefer_oom_kill(_cores: int) -> None:
    (_PROC_SELF / "oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(sys.argv[1:])
