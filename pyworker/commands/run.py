"""`pyworker run`: a worker, as an author's file or a shipped handler describes it."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import Any, Final

from pyworker.commands.files import UserError, names_of
from pyworker.config import ConfigError, WorkerConfig
from pyworker.core.redact import excerpt
from pyworker.engine.beacon import MAX_REASON, beacon, known
from pyworker.logs import set_up_logging
from pyworker.official.finder import served
from pyworker.running import Running
from pyworker.server.ports import PortTaken
from pyworker.settings import DEFAULT_ENGINE, SettingsError, setting
from pyworker.worker import Worker

TOLD: Final = (UserError, ConfigError, SettingsError, PortTaken)
"""Errors whose words are for the user: no traceback."""


def add(commands: Any) -> None:
    run = commands.add_parser("run", help="run a worker: a module (handlers.llama) or a file (worker.py)")
    run.add_argument("what", metavar="MODULE_OR_FILE")
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    """Run what the user names. On an instance a worker that cannot start stays to tell the engine why."""
    try:
        with served():
            return _run_worker(options.what)
    except (Exception, SystemExit) as error:
        left = isinstance(error, SystemExit) and not error.code
        if left or options.parent or Running.listened or not setting("CONTAINER_ID", ""):
            raise
        return _stay_to_tell(error)


def _stay_to_tell(error: BaseException) -> int:
    """Say why this worker cannot start, and go on saying it to the engine until told to stop."""
    if isinstance(error, PortTaken) and error.holder_is_healthy():
        print(f"pyworker: {error}: a healthy worker, so this one leaves", file=sys.stderr)
        return 0
    set_up_logging("INFO", "text")
    reason = str(error) if isinstance(error, TOLD) else f"{type(error).__name__}: {error}"
    reason = excerpt(reason, most=MAX_REASON)
    print(f"pyworker: this worker cannot start: {reason} (telling the engine until stopped)", file=sys.stderr)
    if not isinstance(error, (*TOLD, SystemExit)):
        for line in "".join(traceback.format_exception(error)).splitlines():
            indented = line[: len(line) - len(line.lstrip())]
            print(indented + excerpt(line, most=MAX_REASON), file=sys.stderr)
    addresses, number, token, url = known(os.environ, DEFAULT_ENGINE)  # noqa: TID251 - it may be what is wrong
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(
            _until_stopped(beacon(addresses, container_id=number, master_token=token, url=url, reason=reason))
        )
    return 1


async def _until_stopped(telling: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await telling


def _run_worker(what: str) -> int:
    """A file that starts its worker itself has done so when it returns."""
    started = _StartedWorkers()
    names = names_of(what)
    if started.any():
        return 0
    found = names.get("worker") or names.get("config")
    if isinstance(found, WorkerConfig):
        found = Worker(found)
    if not isinstance(found, Worker):
        raise UserError(f"{what} starts no worker and defines no `config = WorkerConfig(...)`")
    found.run()
    return 0


class _StartedWorkers:
    """Notices whether a worker was run since this was made."""

    def __init__(self) -> None:
        self._before = Worker.runs

    def any(self) -> bool:
        return Worker.runs > self._before
