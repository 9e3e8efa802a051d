"""A child process that logs into a file and does not outlive its parent.

On Linux the kernel ends the child when the parent dies, even by SIGKILL. Our own workers also look
for themselves whether their parent is still there (`end_with_parent`).
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK = 1.0  # seconds between looks for the parent


def start(
    command: Sequence[str], log: Path | None, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start `command` with `environment` added to this process's.

    Its output is appended to `log`; `None` gives it this process's own. The thread that calls
    this must live as long as the child: Linux ties the child to it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptor = os.open(log, flags, 0o600) if log else None
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=None if descriptor is None else subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    finally:
        if descriptor is not None:
            os.close(descriptor)


def stop(child: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """End a child: SIGTERM, and SIGKILL when it is still there after `seconds`."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_with_parent() -> None:
    """Let this process end, without further ado, when its parent has."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    Thread(target=look, daemon=True).start()


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Between fork and exec: only async-signal-safe calls."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
