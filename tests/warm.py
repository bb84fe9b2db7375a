"""Commands without the seconds in which an interpreter imports: a process that has imported everything forks one for each.

A forked command is what a shell would start: a process with its own number, session, signals, environment, working directory,
random numbers and exit status, whose module runs as ``__main__`` and is followed by all that it has registered for the exit.
The second rank of a training on two devices is forked from the first one, which is its parent as ever.
Three things differ: ``/proc/PID/cmdline`` and ``/proc/PID/environ`` show those of the server, all commands have the same hashes
of strings, and at its end the interpreter does not take its modules apart.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing.util
import os
import pkgutil
import random
import runpy
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from multiprocessing.forkserver import main as forkserver_main
from multiprocessing.util import spawnv_passfds as spawn_interpreter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure
from pytorch_lightning.strategies.launchers import subprocess_script

from disentangled_ml.training.run_folder import RUN_DIR_VARIABLE
from tests.quick_figures import save_quickly

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("disentangled_ml", "datamodules", "callbacks")
OF_OTHERS = ("WANDB_", "SLURM_", RUN_DIR_VARIABLE)  # what would make a command take itself for a part of another job
LONGEST_REQUEST = 1 << 20
# What is registered first is called last, behind all that the command has registered.
START = "import atexit; atexit.register(lambda: warm.leave()); from tests import warm; warm.main()"


def program(name: str) -> list[str]:
    """Return what follows ``python -m`` for a command."""
    return [f"disentangled_ml.{name}"] if name in ("prepare", "train", "evaluate") else ["disentangled_ml", name]


def cold(name: str, *arguments: object) -> list[str]:
    """Return the command line of a command, for those who start a whole interpreter."""
    return [sys.executable, "-m", *program(name), *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a user who has no W&B and no SLURM, computes on one thread, and sets some variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}
    return {**inherited, "OMP_NUM_THREADS": "1", **variables}


@cache
def server() -> socket.socket:
    """Connect to the server of this run of the tests: the first of its processes starts it, and it ends with the last."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", secrets.token_hex(8))
    address = Path(tempfile.gettempdir(), f"warm-{run}")
    with contextlib.suppress(FileExistsError):
        address.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(address / "socket"))
            listener.listen()
            number = listener.fileno()
            command = [sys.executable, "-c", START, str(number), str(address)]
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
            )
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    until = time.monotonic() + 60
    while control.connect_ex(str(address / "socket")):
        assert time.monotonic() < until, "the first process starts no server"
        time.sleep(0.05)
    return control


class Popen:
    """A forked command, with the methods of ``subprocess.Popen``.

    Args:
        command: As ``cold`` returns it.
        env: Its whole environment; by default ``environment()``.
        cwd: Its working directory.
        stdout: File of its output, by default none. ``PIPE`` keeps it for ``communicate``.
        stderr: The same for errors.
        before: Python source that is run in the new process before the command, to change what it will do.
    """

    def __init__(self, command, *, env=None, cwd=ROOT, stdout=None, stderr=None, before="", **_):
        assert command[:2] == [sys.executable, "-m"], command
        self.args, self.returncode = command, None
        self.stdout, self.stderr = (
            tempfile.TemporaryFile("w+") if to == subprocess.PIPE else None  # noqa: SIM115
            for to in (stdout, stderr)
        )
        request = {"command": command[2:], "env": env or environment(), "cwd": str(cwd), "before": before}
        status, theirs = os.pipe()
        with open(os.devnull, "w") as nowhere:
            files = [
                self.stdout or (nowhere if stdout in (None, subprocess.DEVNULL) else stdout),
                self.stderr or (nowhere if stderr in (None, subprocess.DEVNULL) else stderr),
            ]
            socket.send_fds(server(), [json.dumps(request).encode()], [*(file.fileno() for file in files), theirs])
        os.close(theirs)
        self._status = os.fdopen(status, "rb", buffering=0)
        number = self._status.readline()
        assert number, "the server is gone, its errors are above"
        self.pid = int(number)

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Wait for its end and return what it wrote to each ``PIPE``."""
        self.wait(timeout)
        return tuple(file and (file.seek(0), file.read())[1] for file in (self.stdout, self.stderr))

    def send_signal(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if self.poll() is None:
            # It may end between the two, and the server has waited for it then.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def run(name: str, *arguments: object, timeout: float = 120, check: bool = False, **how) -> subprocess.CompletedProcess:
    """Run a command to its end and return its status and what it wrote: ``run("train", "seed=1", env=environment)``."""
    process = Popen(cold(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    try:
        done = subprocess.CompletedProcess(process.args, process.wait(timeout), *process.communicate())
    finally:
        process.kill()
    if check:
        done.check_returncode()
    return done


def hold_before(ending: str, n: int) -> str:
    """Return what makes a command wait for its end before the n-th file of an ending is put in its place."""
    return f"""
import itertools, os, time

def replace_or_wait(source, target, *, replace=os.replace, numbers=itertools.count(1)):
    if str(target).endswith({ending!r}) and next(numbers) == {n}:
        time.sleep(3600)
    replace(source, target)

os.replace = replace_or_wait
"""


def hold_training(folder: Path, epoch: int, batch: int) -> str:
    """Return what makes ``train`` write ``folder/held`` before a batch, and wait until ``folder/go`` is there."""
    return f"""
import time
from pathlib import Path
from callbacks.preemption import Preemption

def wait(self, trainer, pl_module, data, batch):
    if (trainer.current_epoch, batch) == ({epoch}, {batch}):
        Path({str(folder)!r}, "held").touch()
        while not Path({str(folder)!r}, "go").exists():
            time.sleep(0.01)

assert "on_train_batch_start" not in vars(Preemption)
Preemption.on_train_batch_start = wait
"""


def mark_validation(folder: Path) -> str:
    """Return what makes ``train`` write ``folder/validates`` when it begins to validate."""
    return f"""
from pathlib import Path
from callbacks.preemption import Preemption

assert "on_validation_batch_start" not in vars(Preemption)
Preemption.on_validation_batch_start = lambda *_: Path({str(folder)!r}, "validates").touch()
"""


def import_everything() -> None:
    """Import our packages, and by that theirs."""
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    Figure.savefig = save_quickly
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads run, of which a fork would have one"
    gc.freeze()  # or each end of a command would look through all that is imported


def serve(listener: socket.socket) -> dict | None:
    """Fork for each request, and report number and status; return the request in the new process, None at the end here."""
    clients, running = [listener.accept()[0]], {}
    while clients:
        ready, _, _ = select.select([listener, *clients, *running], [], [])
        for ended in running.keys() & set(ready):
            pid, status = running.pop(ended)
            report(status, os.waitpid(pid, 0)[1])
            os.close(status)
            os.close(ended)
        if listener in ready:
            clients.append(listener.accept()[0])
        for client in set(clients) & set(ready):
            content, files, *_ = socket.recv_fds(client, LONGEST_REQUEST, 3)
            if not content:
                clients.remove(client)
                client.close()
                continue
            if not (pid := os.fork()):
                for other in (listener, *clients):
                    other.detach()
                take_streams(*files[:2])
                return json.loads(content)
            report(files[2], pid)
            running[os.pidfd_open(pid)] = pid, files[2]
            for file in files[:2]:
                os.close(file)
    return None


def report(status: int, number: int) -> None:
    """Write a number to whoever waits for it, if anyone does."""
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"%d\n" % number)


def take_streams(output: int, errors: int) -> None:
    """Read from nowhere, write to two files, and have no other open."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


class ReadyRank(subprocess.Popen):
    """The second rank of a training, forked before the first has begun; it starts when the first would start an interpreter for it."""

    def __init__(self):
        waiting, self.start = os.pipe()
        self.args, self.returncode = [], None
        self.stdin = self.stdout = self.stderr = None
        self._child_created, self._waitpid_lock = True, threading.Lock()
        self.pid = os.fork()
        if self.pid:
            os.close(waiting)
            return
        os.close(self.start)
        with os.fdopen(waiting) as file:
            request = file.readline()
        if not request:
            os._exit(0)  # the first has ended without it
        Path("/proc/self/comm").write_text("rank 1")
        become(**json.loads(request), before="", first=False)
        sys.exit()

    def __call__(self, command: list[str], env: dict[str, str], cwd: str | None) -> "ReadyRank":
        """Start it, as ``subprocess.Popen`` is called by Lightning."""
        assert command[:2] == [sys.executable, "-m"], command
        with os.fdopen(self.start, "w") as file:
            file.write(json.dumps({"command": command[2:], "env": env, "cwd": cwd or os.getcwd()}) + "\n")
        return self


class ReadyForkServer:
    """Python's server of loading and preparing processes, forked before it is asked for: it has imported what they need."""

    def __init__(self):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid:
            return
        self.control.close()
        content, files, *_ = socket.recv_fds(theirs, LONGEST_REQUEST, 2)
        if content:
            Path("/proc/self/comm").write_text("forkserver")
            request = json.loads(content)
            signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
            exec(
                request["call"],
                {"main": lambda _listener, _alive, *rest, **more: forkserver_main(*files, *rest, **more)},
            )
        os._exit(0)

    def spawn(self, path: bytes, arguments: list[str], files: list[int]) -> int:
        """Start it, as ``multiprocessing`` starts an interpreter; return its number."""
        start, _, call = arguments[-1].partition("; ")
        if start != "from multiprocessing.forkserver import main" or self.control is None:
            return spawn_interpreter(path, arguments, files)
        request = {"call": call, "blocked": [*signal.pthread_sigmask(signal.SIG_BLOCK, ())]}
        socket.send_fds(self.control, [json.dumps(request).encode()], files)
        self.control = None
        return self.pid


def become(command: list[str], env: dict[str, str], cwd: str, before: str, first: bool = True) -> None:
    """Run a module as ``__main__`` in this process, as if Python had just been started with it; a further rank for the first one."""
    if first:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if first and "trainer.devices=2" in command:
        subprocess_script.subprocess = SimpleNamespace(Popen=ReadyRank())
    # Behind the other rank, which would hold it open.
    multiprocessing.util.spawnv_passfds = ReadyForkServer().spawn
    random.seed()
    np.random.seed()  # noqa: NPY002 (libraries use it)
    multiprocessing.current_process().authkey = os.urandom(32)
    sys.path[0], sys.argv, sys.orig_argv = cwd, command, [sys.executable, "-m", *command]
    if "." in command[0]:
        sys.modules.pop(command[0], None)  # it is imported as the module that it is, too
    try:
        exec(before, {})
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        statuses.append(0)
    except SystemExit as end:
        statuses.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except Exception:
        statuses.append(1)
        raise


def leave() -> None:
    """End a process that has done all but take its modules apart, which would take longer than many a command."""
    if statuses:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(statuses[0] & 255)


def main() -> None:
    """Import, fork, and in each new process run a command."""
    import_everything()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        shutil.rmtree(sys.argv[2])
    else:
        become(**request)


statuses: list[int] = []
