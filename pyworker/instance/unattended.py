"""Instance mode: the worker, and the model server where ``MODEL_SERVER_CMD`` gives its command, kept running.

Each is started again when it ends, after a growing pause; the one's end never touches the other.
"""

import asyncio
import importlib.util
import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Final

from pyworker.exit import told_by_signals
from pyworker.instance.old_log import put_aside, this_boot
from pyworker.instance.process import Part
from pyworker.logs import set_up_logging
from pyworker.settings import Settings, SettingsError, setting

log = logging.getLogger(__name__)

PAUSES: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before a part that ended is started again; back to the first once it has run for `STEADY` seconds."""

STEADY: Final = 60.0
GRACE: Final = 10.0
"""Seconds the model server has to end on SIGTERM."""

WORKER_GRACE: Final = 25.0
"""Seconds the worker has on top of its DRAIN_TIMEOUT: sessions' callbacks 10, what does not end 8, last reports 5."""


async def run() -> int:
    """Run until SIGTERM or SIGINT. Raises `SettingsError` when the environment does not say what to run."""
    settings = Settings.from_env()
    set_up_logging(settings.log_level, settings.log_format)
    parts = _parts(settings)
    if len(parts) == 1 and settings.model_log:  # the image's own supervisor writes it
        model_log, folder = Path(settings.model_log), settings.workspace
        await asyncio.to_thread(lambda: put_aside(model_log, folder, this_boot()))
    stop, cut = asyncio.Event(), asyncio.Event()
    with told_by_signals(stop, cut):
        async with asyncio.TaskGroup() as group:
            kept = [group.create_task(keep(part)) for part in parts]
            await stop.wait()
            for task in kept:
                task.cancel()
        async with asyncio.TaskGroup() as group:
            hurrying = group.create_task(_hurry(cut, parts[-1]))
            for part in reversed(parts):
                await part.stop(settings.drain_timeout + WORKER_GRACE if part.name == "worker" else GRACE)
            hurrying.cancel()
    log.info("stopped")
    return 0


async def _hurry(cut: asyncio.Event, worker: Part) -> None:
    """A second signal is the worker's, too."""
    await cut.wait()
    worker.terminate()


def _parts(settings: Settings) -> list[Part]:
    environment = dict(os.environ)  # noqa: TID251 - what the started processes inherit
    handler = f"handlers.{_backend()}"
    folder = settings.workspace
    worker = Part(
        "worker",
        [sys.executable, "-m", "pyworker", "run", handler],
        environment=environment,
        log=folder / "pyworker.log",
    )
    command = shlex.split(setting("MODEL_SERVER_CMD", ""))
    if not command:
        return [worker]
    model_log = Path(settings.model_log) if settings.model_log else folder / "model.log"
    environment["MODEL_LOG"] = str(model_log)
    return [Part("model server", command, environment=environment, log=model_log), worker]


def _backend() -> str:
    name = setting("BACKEND", "")
    if not name:
        raise SettingsError(
            ["BACKEND is not set: it names the handler to run (a module of handlers/, such as llama)"]
        )
    if importlib.util.find_spec(f"handlers.{name}") is None:
        raise SettingsError([f"BACKEND={name!r}: there is no handlers/{name}.py"])
    return name


async def keep(part: Part) -> None:
    """Start ``part`` and start it again whenever it ends, until cancelled."""
    ends = 0
    while True:
        began = time.monotonic()
        try:
            await part.start()
        except OSError as error:
            why = f"{part.name} cannot be started: {part.command[0]}: {error.strerror}"
        else:
            log.info("%s started: pid=%d log=%s", part.name, part.pid, part.log)
            why = part.epitaph(await part.ended())
            await part.stop(0)  # orphans of its group are gone before it comes back
        ends = 0 if time.monotonic() - began > STEADY else ends
        pause = PAUSES[min(ends, len(PAUSES) - 1)]
        ends += 1
        log.error("%s; started again in %g s", why, pause)
        await asyncio.sleep(pause)
