"""The model server's answer as a real ``aiohttp.ClientResponse``: what ``response_generator`` hooks are promised."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from pyworker.core.clocks import Clocks
from pyworker.core.errors import ModelTimeout, ModelUnreachable, Refusal
from pyworker.core.heads import Header
from pyworker.model.pool import ModelServer
from pyworker.model.upload import Upload


class HookClient:
    """An aiohttp client towards ``model``, made when the first hook needs it."""

    def __init__(self, model: ModelServer) -> None:
        self._model = model
        self._url = model.url
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def ask(
        self, method: str, path: str, headers: list[Header], body: bytes | Upload, *, clocks: Clocks
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, its body still to be read. Raises `ModelUnreachable` or `ModelTimeout` when none comes."""
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        data = body if isinstance(body, bytes) else _pieces(body)
        if isinstance(body, Upload) and body.length is not None:
            text.append(("Content-Length", str(body.length)))
        timeout = aiohttp.ClientTimeout(total=clocks.total, sock_connect=clocks.connect)
        try:
            async with asyncio.timeout(clocks.first_byte):
                response = await self._open().request(
                    method, self._url + path, data=data, headers=text, allow_redirects=False, timeout=timeout
                )
        except TimeoutError as error:  # aiohttp's are such, too
            raise ModelTimeout(
                f"the model server did not answer within first_byte_timeout={clocks.first_byte} s, "
                f"connect_timeout={clocks.connect} s or total_timeout={clocks.total} s"
            ) from error
        except aiohttp.ClientError as error:
            if isinstance(error.__cause__, Refusal):  # of an upload: what its client did wrong
                raise error.__cause__ from error
            raise ModelUnreachable(
                f"no answer from the model server: {str(error) or type(error).__name__}"
            ) from error
        async with response:
            yield response

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._model.heard),
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
                skip_auto_headers=(
                    "User-Agent",
                    "Accept",
                    "Accept-Encoding",
                ),  # the client's own go on, or none
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Connector(aiohttp.TCPConnector):
    """Tells ``heard`` of every piece of a body that arrives."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__(limit=0)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, heard, loop=self._loop))


class _Connection(ResponseHandler):
    def __init__(self, heard: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        if (
            self._payload is not None
        ):  # the head has come before: a server that is frozen may still send heads
            self._heard()
        super().data_received(data)


async def _pieces(upload: Upload) -> AsyncIterator[bytes]:
    while piece := await upload.piece():
        yield piece
