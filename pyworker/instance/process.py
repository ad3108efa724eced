"""One process that is started, watched and stopped: in a process group of its own, writing straight to its log."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pyworker.core.redact import excerpt

KEEP: Final = 20
"""Lines at the end of a log in which the cause of a death is looked for."""

_MENTIONS: Final = ("error", "failed", "cannot", "could not", "refused", "denied", "no such", "not found")


class Part:
    """A named part of the system. ``environment`` is the whole environment it gets."""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Raises OSError when the command cannot be started."""
        await asyncio.to_thread(self._put_old_log_aside)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def _put_old_log_aside(self) -> None:
        """Lines from before this start must not be taken for news."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_name(self.log.name + ".old"))

    async def ended(self) -> int:
        """Return its exit status once it ends; negative: the signal that ended it."""
        assert self._process is not None
        return await self._process.wait()

    def terminate(self) -> None:
        """SIGTERM, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def stop(self, grace: float) -> None:
        """SIGTERM, then after ``grace`` seconds SIGKILL; whatever is left of its group is killed with it."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        with contextlib.suppress(ProcessLookupError):  # the usual case: nothing is left
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def epitaph(self, status: int) -> str:
        """Why it ended, in one line: how it exited and the last line of its log that sounds like a cause."""
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
        if status == -signal.SIGILL:
            return f"{self.name} {how}: this CPU lacks instructions it was compiled for"
        return f"{self.name} (pid {self.pid}) {how}: {self._cause() or 'its log says nothing'} [{self.log}]"

    def _cause(self) -> str:
        try:
            text = self.log.read_bytes()[-64 * 1024 :].decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()][-KEEP:]
        telling = [line for line in lines if any(word in line.lower() for word in _MENTIONS)]
        return excerpt((telling or lines or [""])[-1])
