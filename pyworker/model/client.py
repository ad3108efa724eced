"""The model server's answer as a real ``aiohttp.ClientResponse``: what ``response_generator`` hooks are promised."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from pyworker.core.errors import ModelUnreachable
from pyworker.model.connection import CONNECT_TIMEOUT, Header


class HookClient:
    """An aiohttp client towards the model server at ``url``, made when the first hook needs it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def post(
        self, path: str, headers: list[Header], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a POST. Raises `ModelUnreachable` when none comes."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),  # one client's cookies are not another's
            )
        text = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        try:
            response = await self._session.post(
                self._url + path, data=body, headers=text, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ModelUnreachable(
                f"no answer from the model server: {str(error) or type(error).__name__}"
            ) from error
        async with response:
            yield response

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
