"""A fence around functions of a handler's author: whatever they do costs the request they were called for, and no more.

They may raise anything, ``SystemExit`` included; be cancelled and go on all the same; or block for good.
"""

import asyncio
import contextlib
import json
import logging
import queue
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pyworker.core.errors import HandlerFailed, InvalidRequest, JsonDataException, Refusal

log = logging.getLogger(__name__)

PATIENCE: Final = 1.0
"""Seconds that a cancelled function may take to end, before it is left behind."""

THREADS: Final = 8
"""For functions that are slow. One that never returns takes a thread for good."""

TOLD: Final = 100
"""Different troubles of one route that are told, each once."""

_LEFT: Final = "left_behind"

_T = TypeVar("_T")


def left_behind(error: BaseException | None) -> "asyncio.Task[Any] | None":
    """The author's code that goes on, if ``error`` came of leaving it behind."""
    while error is not None:
        task: asyncio.Task[Any] | None = getattr(error, _LEFT, None)
        if task is not None:
            return None if task.done() else task
        error = error.__cause__ or error.__context__
    return None


class Fence:
    """Around the functions of ``route``."""

    def __init__(self, route: str) -> None:
        self.route = route
        self._told: set[str] = set()

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Calls of the function ``name``. Raises `InvalidRequest` for a `JsonDataException`, else `HandlerFailed`."""
        try:
            yield
        except JsonDataException as error:
            raise InvalidRequest({"payload": as_json(error.message)}) from error
        except (Refusal, GeneratorExit):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            raise self.blame(name, error) from error

    def blame(self, name: str, error: BaseException) -> HandlerFailed:
        """What the client is told of ``error``; the log says where it came from, once.

        The error's own text stays out of both: it may quote the request.
        """
        what = f"{name} of {self.route} raised {type(error).__name__}"
        told = f"{what}: {where(error)}"
        if told not in self._told and len(self._told) < TOLD:
            self._told.add(told)
            log.warning("%s (said once; PYWORKER_LOG_LEVEL=DEBUG tells all)", told)
        log.debug("%s", what, exc_info=error)
        return HandlerFailed(f"the {what}")

    async def run(self, name: str, code: Coroutine[Any, Any, _T]) -> _T:
        """What ``code``, a coroutine of the function ``name``, returns. Raises what `around` does.

        Cancelled, it is given `PATIENCE` to end, then left behind (`left_behind`).
        """
        task = asyncio.get_running_loop().create_task(self._fenced(name, code))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            if not await end(task, f"{name} of {self.route}"):
                setattr(error, _LEFT, task)  # no class of its own: asyncio.timeout wants just this one
            raise
        return task.result()

    async def _fenced(self, name: str, code: Coroutine[Any, Any, _T]) -> _T:
        with self.around(name):
            return await code


async def end(task: "asyncio.Task[Any]", what: str) -> bool:
    """Cancel ``task``, an author's; says whether it has ended within `PATIENCE`, and leaves it behind if not."""
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=PATIENCE)
    finally:
        if not task.done():
            log.warning("%s goes on though it was cancelled: left behind", what)
            _leave_behind(task)
        elif not task.cancelled():
            task.exception()  # nobody is left to be told
    return task.done()


_left: Final[set["asyncio.Task[Any]"]] = set()


def _leave_behind(task: "asyncio.Task[Any]") -> None:
    """The end of the event loop must not wait for ``task`` either."""
    _left.add(task)
    task.add_done_callback(_left.discard)
    task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - it has been told already
    asyncio._unregister_task(task)  # noqa: SLF001 - public by asyncio's manual


def _is_cancelled() -> bool:
    """Whether the task that runs here, if there is one, has been told to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        return False
    return task is not None and task.cancelling() > 0


def where(error: BaseException) -> str:
    """``worker.py:12 in load_of``: where the author's code was, and where in what it called the error was raised."""
    places = [
        f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "") not in {__name__, "pyworker.handler"}
    ]
    return " -> ".join(dict.fromkeys([*places[:1], *places[-1:]])) or "when it was called"


def as_json(message: Any) -> Any:
    """An author's words, if they can be sent."""
    try:
        json.dumps(message, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return f"refused (with a {type(message).__name__} that is no JSON)"
    return message


# Functions that block...


class _Threads:
    """Threads that the end of the process does not wait for."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0

    async def run(self, call: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put(partial(_call, call, loop, future))
        if self._count < THREADS:
            self._count += 1
            threading.Thread(target=self._work, name=f"slow-{self._count}", daemon=True).start()
        return await future

    def _work(self) -> None:
        while True:
            self._jobs.get()()


def _call(call: Callable[[], _T], loop: asyncio.AbstractEventLoop, future: "asyncio.Future[_T]") -> None:
    if future.cancelled():  # whoever asked is gone
        return
    try:
        settle = partial(_succeed, future, call())
    except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
        settle = partial(_fail, future, error)
    with contextlib.suppress(RuntimeError):  # the event loop has closed meanwhile
        loop.call_soon_threadsafe(settle)


def _succeed(future: "asyncio.Future[_T]", result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


_threads = _Threads()


async def in_thread(call: Callable[[], _T]) -> _T:
    """What ``call`` returns, which may take its time, or never return; it raises nothing but an Exception."""
    return await _threads.run(call)
