"""Sends the handler's own requests to the model server: one to prove it works, many to measure perf."""

import asyncio
import logging
import time
from typing import Final

from pyworker.core.answers import error_inside, first_line, kind_of
from pyworker.core.benchmark import Run, Sample
from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.fence import in_thread
from pyworker.handler import JSON_TYPE, Handler, Work
from pyworker.model.form import encode_form
from pyworker.model.pool import ModelServer

log = logging.getLogger(__name__)

ANSWER_TIMEOUT: Final = 300.0
"""Seconds for one answer: a first request may have to compile kernels, but a server that never answers must be told."""


class Measure:
    """Requests of ``handler``'s benchmark, sent as a client's would be, their bodies read to the end."""

    def __init__(self, handler: Handler, model: ModelServer | None) -> None:
        self._handler = handler
        self._model = model

    async def one(self, limit: float = ANSWER_TIMEOUT) -> Sample:
        """Send one request; never raises for what the model server or the handler does wrong, but says it."""
        work = await self._sample()
        return await self._sent(work, limit) if isinstance(work, Work) else work

    async def run(self, concurrency: int) -> Run:
        """One round: ``concurrency`` requests at once, timed from when they are made until the last body was read."""
        made = [await self._sample() for _ in range(concurrency)]
        unmade = tuple(one for one in made if isinstance(one, Sample))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._sent(one, ANSWER_TIMEOUT)) for one in made if isinstance(one, Work)
            ]
        return Run(time.monotonic() - began, tuple(task.result() for task in tasks) + unmade)

    async def _sample(self) -> Work | Sample:
        """A request, made in a thread as an author's generator may take its time; or the failure to make one."""
        try:
            return await in_thread(self._handler.sample)
        except Refusal as refusal:
            return Sample(0.0, ok=False, why=refusal.reason)

    async def _sent(self, work: Work, limit: float) -> Sample:
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                kind, size, why = await self._send(work)
        except TimeoutError:
            return Sample(work.load, ok=False, why=f"no whole answer in {limit:g} s")
        except (Refusal, AnswerBroken) as error:
            return Sample(work.load, ok=False, why=str(error))
        return Sample(work.load, not why, why, time.monotonic() - began, size, kind)

    async def _send(self, work: Work) -> tuple[str, int, str]:
        """Content type and size of the answer, and what was wrong with it; empty when nothing was."""
        if self._handler.call is not None:
            answered = await self._handler.answer(work.body)
            return JSON_TYPE, len(answered), ""
        assert self._model is not None
        path = self._handler.model_path
        content_type, body = (
            (JSON_TYPE, work.body) if work.form is None else await encode_form(work.form, route=path)
        )
        answer = await self._model.ask(
            "POST", path, [(b"Content-Type", content_type.encode())], body, clocks=self._handler.clocks
        )
        try:
            content = await answer.read()
        finally:
            answer.close()
        kind = next((value for name, value in answer.headers if name.lower() == b"content-type"), b"")
        return kind_of(kind.decode("latin-1")), len(content), _wrong(path, answer.status, content)


def _wrong(path: str, status: int, content: bytes) -> str:
    """What makes an answer no success; empty when it is one."""
    if status != 200:  # noqa: PLR2004 - the one status that is an answer to a benchmark
        return f"POST {path} answered {status}: {first_line(content) or '(no body)'}"
    if not content.strip():
        return f"POST {path} answered 200 with an empty body"
    error = error_inside(content)
    return f"POST {path} answered 200 with an error inside: {error}" if error else ""
