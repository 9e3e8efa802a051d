"""Child processes end with their parent; folders have one user; queues lose nothing."""

import os
import subprocess
import sys
import time

import pytest

from medsa_model.child import start, stop
from medsa_model.errors import ConfigError
from medsa_model.locked import Lock

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
PARENT = """
import sys
from pathlib import Path
from medsa_model.child import start
child = start([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1]), {})
print(child.pid, flush=True)
import time
time.sleep(60)
"""


def is_there(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(done, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(done())


def test_output_goes_to_a_private_file_and_stop_ends_it(tmp_path):
    log = tmp_path / "log"
    child = start(SLEEP, log, {})
    assert eventually(lambda: log.read_text() == "up\n")
    assert log.stat().st_mode & 0o777 == 0o600
    stop(child)
    assert child.returncode == -15


def test_what_ignores_sigterm_is_killed(tmp_path):
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN);" + SLEEP[2]
    child = start([sys.executable, "-c", stubborn], tmp_path / "log", {})
    assert eventually(lambda: (tmp_path / "log").read_text() == "up\n")
    stop(child, 0.2)
    assert child.returncode == -9


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_child_does_not_outlive_a_parent_that_was_killed(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_there(pid)
        parent.kill()
        parent.wait()
        assert eventually(lambda: not is_there(pid))


def test_a_folder_has_one_user_at_a_time(tmp_path):
    lock = Lock(tmp_path / "state" / "lock", "client/run.py")
    with pytest.raises(ConfigError, match=r"state is in use by another client/run.py process"):
        Lock(tmp_path / "state" / "lock", "client/run.py")
    lock.release()
    Lock(tmp_path / "state" / "lock", "client/run.py").release()
    assert os.stat(tmp_path / "state").st_mode & 0o777 == 0o700
