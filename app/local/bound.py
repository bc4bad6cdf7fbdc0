"""A program that binds itself to its parent's life, then becomes another program.

``python -I -S bound.py PARENT_PID SIGNAL PROGRAM ARGUMENT...`` asks the kernel to send SIGNAL when the parent is gone, so
that not even a kill -9 of the supervisor leaves an orphan. A program of its own, because a preexec_fn runs between fork
and exec of a threaded process, where anything may deadlock. The request outlives exec and ``unshare --user``; a
change of user clears it, so ``setpriv`` must ask again.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_ORPHANED = 125


def _main(parent: int, death_signal: int, command: list[str]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        sys.exit(f"{command[0]}: prctl failed: {os.strerror(ctypes.get_errno())}")
    # The parent may have died before the request was made; then nobody will ever send the signal.
    if os.getppid() != parent:
        sys.exit(_ORPHANED)
    # A shell that runs the supervisor in the background leaves SIGINT ignored, and exec would hand that on.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as problem:
        sys.exit(f"{command[0]}: {problem.strerror}")


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
