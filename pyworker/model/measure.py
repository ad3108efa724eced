"""Sends the handler's own requests to the model server: one to prove it works, many to measure perf."""

import asyncio
import logging
import time
from typing import Final

from pyworker.core.benchmark import Run, Sample
from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.handler import JSON_TYPE, Handler, Work
from pyworker.model.form import encode_form
from pyworker.model.pool import ModelServer

log = logging.getLogger(__name__)

ANSWER_TIMEOUT: Final = 300.0
"""Seconds for one answer: a first request may have to compile kernels, but a server that never answers must be told."""

_EXCERPT: Final = 200


class Measure:
    """Requests of ``handler``'s benchmark, sent as a client's would be, their bodies read to the end."""

    def __init__(self, handler: Handler, model: ModelServer | None) -> None:
        self._handler = handler
        self._model = model

    async def one(self) -> Sample:
        """Send one request; never raises for what the model server or the handler does wrong, but says it."""
        work = await self._sample()
        return await self._sent(work) if isinstance(work, Work) else work

    async def _sample(self) -> Work | Sample:
        """A request, made in a thread as an author's generator may take its time; or the failure to make one."""
        try:
            return await asyncio.to_thread(self._handler.sample)
        except Refusal as refusal:
            return Sample(0.0, ok=False, why=refusal.reason)

    async def _sent(self, work: Work) -> Sample:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                why = await self._send(work)
        except TimeoutError:
            why = f"no whole answer in {ANSWER_TIMEOUT:g} s"
        except (Refusal, AnswerBroken) as error:
            why = str(error)
        return Sample(work.load, ok=not why, why=why)

    async def _send(self, work: Work) -> str:
        """What was wrong with the answer; empty when nothing was."""
        if self._handler.call is not None:
            await self._handler.answer(work.body)
            return ""
        assert self._model is not None
        content_type, body = (JSON_TYPE, work.body) if work.form is None else await encode_form(work.form)
        path = self._handler.model_path
        answer = await self._model.ask(
            "POST", path, [(b"Content-Type", content_type.encode())], body, clocks=self._handler.clocks
        )
        try:
            content = await answer.read()
        finally:
            answer.close()
        if answer.status == 200:  # noqa: PLR2004 - the one status that is an answer to a benchmark
            return _error_in_stream(content)
        first_line = content.decode("utf-8", "replace").strip().partition("\n")[0][:_EXCERPT]
        return f"POST {path} answered {answer.status}: {first_line}"

    async def run(self, concurrency: int) -> Run:
        """One round: ``concurrency`` requests at once, timed from when they are made until the last body was read."""
        made = [await self._sample() for _ in range(concurrency)]
        unmade = tuple(one for one in made if isinstance(one, Sample))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._sent(one)) for one in made if isinstance(one, Work)]
        return Run(time.monotonic() - began, tuple(task.result() for task in tasks) + unmade)


def _error_in_stream(content: bytes) -> str:
    """llama.cpp and vLLM report what goes wrong after the 200 as an event ``data: {"error": …}``."""
    at = content.find(b'data: {"error"')
    return "" if at < 0 else content[at : at + _EXCERPT].decode("utf-8", "replace").partition("\n")[0]
