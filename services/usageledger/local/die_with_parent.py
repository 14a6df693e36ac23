"""Run a command that cannot outlive its parent:
``python die_with_parent.py PARENT_PID PIPE_FD COMMAND...``.

It needs only the standard library.

The command keeps this process's id. On Linux the kernel kills it with its parent. Elsewhere a small
fork reads a pipe whose writing end the parent holds, and kills the command when the pipe ends.
"""

from __future__ import annotations

import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, pipe, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform == "linux":
        os.close(pipe)
        die_with_the_parent()
    else:
        kill_when_the_pipe_ends(pipe)
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} ended before {command[0]} was started")
    os.execvp(command[0], command)


def die_with_the_parent() -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def kill_when_the_pipe_ends(pipe: int) -> None:
    """Fork a watcher; return in the process that will run the command."""
    watched = os.getpid()
    if os.fork() != 0:
        os.close(pipe)
        return
    os.setsid()
    while os.getppid() == watched:
        readable, _, _ = select.select([pipe], [], [], 1.0)
        if readable and not os.read(pipe, 1):
            if os.getppid() == watched:
                os.kill(watched, signal.SIGKILL)
            break
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
