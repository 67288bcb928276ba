"""Become another program that ends when its parent does: python leash.py PARENT COMMAND...

A process that is killed cannot end its children; on Linux the kernel does it for this one. It is
a program of its own, of the standard library only, so that it takes no time.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def hold(parent: int) -> None:
    """Be killed when the parent ends; at once when it has ended already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    hold(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - becoming the command is its purpose
