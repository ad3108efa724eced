"""Processes: started, measured from outside, and ended with all that they started."""

import contextlib
import ctypes
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from benchmarks.jobs import Job, Result

ROOT: Final = Path(__file__).parents[1]

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)

GRACE: Final = 8.0
"""Seconds a process may take to end: a worker delivers its last report within five."""

SAMPLE_PAUSE: Final = 0.02
"""Seconds between two looks at what a process does while it works."""

LINE_TIMEOUT: Final = 120.0
"""Seconds the load process may take beyond what it was told to."""


class Broken(Exception):
    """Something that should be measured does not work; the message says what was seen."""


def free_port() -> int:
    """A port with two free ones above it (a worker takes three), below those that outgoing connections take."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError):
            for one in (port, port + 1, port + 2):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
            return port


def _die_with_us() -> None:
    """In the new process: SIGTERM when the one that started it dies, even by kill -9."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class Child:
    """A process in a session of its own: a Ctrl-C is ours to hear, and it ends when we end it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        pipes: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                [str(word) for word in command],
                cwd=cwd,
                env={"PATH": _path(), "HOME": str(cwd), "LANG": "C.UTF-8", **env},
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - no threads here, and one system call
            )

    def tree(self) -> list[psutil.Process]:
        """The process and all it started that are alive. Raises `Broken` when it has ended."""
        if self.process.poll() is not None:
            raise Broken(f"it ended with status {self.process.returncode}; {self.last_words()}")
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of CPU that the tree has used so far, user and system, as the kernel counts them.

        The clock of a process has nanoseconds where `cpu_times` has hundredths of a second; it is the same account.
        """
        total = 0.0
        for one in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                total += _cpu_of(one)
        return total

    def rss(self) -> int:
        """Bytes of resident memory of the tree."""
        total = 0
        for one in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
        return total

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-3:]
        return f"its log ends with: {' | '.join(lines)}" if lines else "its log is empty"

    def ask_to_end(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()

    def end(self) -> None:
        """Wait until the process has ended; kill it and its tree when it takes too long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def end_all(children: Iterable[Child]) -> None:
    """End them side by side."""
    ending = list(children)
    for child in ending:
        child.ask_to_end()
    for child in ending:
        child.end()


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _cpu_of(process: psutil.Process) -> float:
    return time.clock_gettime(
        (~process.pid << 3) | 2
    )  # CPUCLOCK_SCHED of another process: clock_getcpuclockid(3)


def python(*words: str | Path, log: Path, env: Mapping[str, str] | None = None, pipes: bool = False) -> Child:
    """A Python process that sees this checkout before anything installed."""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    return Child([sys.executable, *words], log=log, cwd=log.parent, env=environment, pipes=pipes)


class LoadProcess:
    """The process that asks (`load.py`), as seen by the one that measures."""

    def __init__(self, log: Path) -> None:
        self.child = python("-m", "benchmarks.load", log=log, pipes=True)
        self._rest = b""

    def prepare(self, job: Job) -> None:
        """Open all connections and warm them. Raises `Broken`."""
        self._say(msgspec.json.encode(job))
        self._answer(LINE_TIMEOUT)

    def go(self, job: Job, sample: Callable[[], None] | None = None) -> Result:
        """Do what was prepared; ``sample`` is called all the while. Raises `Broken` unless all was answered as it should."""
        self._say(b"go")
        found = self._answer(LINE_TIMEOUT + job.seconds, sample)
        result = msgspec.convert(found, Result)
        if result.failures:
            raise Broken(f"{result.failures} of {result.failures + result.answers} failed: {result.failure}")
        return result

    def let_go(self) -> None:
        """End what a job with ``hold`` holds."""
        self._say(b"let go")

    def _say(self, line: bytes) -> None:
        assert self.child.process.stdin is not None
        try:
            self.child.process.stdin.write(line + b"\n")
            self.child.process.stdin.flush()
        except OSError as error:
            raise Broken(f"the load process is gone; {self.child.last_words()}") from error

    def _answer(self, timeout: float, sample: Callable[[], None] | None = None) -> Any:
        assert self.child.process.stdout is not None
        output = self.child.process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            wait = SAMPLE_PAUSE if sample else deadline - time.monotonic()
            if select.select([output], [], [], max(0.0, wait))[0]:
                piece = os.read(output, 2**16)
                if not piece:
                    raise Broken(f"the load process is gone; {self.child.last_words()}")
                self._rest += piece
            elif time.monotonic() > deadline:
                raise Broken(f"no end after {timeout:.0f} s")
            elif sample:
                sample()
        line, _, self._rest = self._rest.partition(b"\n")
        found = msgspec.json.decode(line)
        if isinstance(found, dict) and "error" in found:
            raise Broken(found["error"])
        return found
