"""The commands that the tests fork: the same to their callers as those that Python starts."""

import os
import signal
import subprocess
import time

import pytest

from tests import warm


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        (
            "import atexit; atexit.register(print, 'last', file=__import__('sys').stderr); raise SystemExit(2)",
            2,
            "last\n",
        ),
    ],
)
def test_status_and_errors(end, status, said):
    done = warm.run("train", before=end)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_an_exception_shows_its_traceback():
    done = warm.run("train", before="1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


LOOK = """
import os, signal, sys
print(os.getcwd(), os.environ.get("A"), len(os.environ), sys.argv[1:], repr(sys.stdin.read()))
print(os.getpid() == os.getsid(0) == os.getpgid(0), sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")))
print([signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler) for number in (2, 10, 15)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), "torch" in sys.modules)
raise SystemExit
"""


def test_it_has_a_session_an_environment_and_files_of_its_own(tmp_path):
    done = warm.run("train", "b=c", before=LOOK, env={"A": "1"}, cwd=tmp_path)
    first, second, third, fourth = done.stdout.splitlines()
    assert first == f"{tmp_path} 1 1 ['b=c'] ''"
    assert second == "True ['0', '1', '2', '3', '4'] 1"  # 3 reaches the fork server, 4 is the folder that is listed
    assert third == "[True, True, True]"
    assert fourth == "set() True"


def test_it_is_killed_and_waited_for():
    process = warm.Popen(warm.cold("train"), before="import time; time.sleep(600)")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(60) == process.poll() == -signal.SIGKILL
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{process.pid}"):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_random_numbers_are_its_own():
    draw = "import random, numpy; print(random.random(), numpy.random.rand()); raise SystemExit"
    first, second = (warm.run("train", before=draw).stdout.split() for _ in range(2))
    assert not set(first) & set(second)
