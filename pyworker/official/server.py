"""``vastai.serverless.server.lib.server``: starts what the older `Backend` and aiohttp's routes say."""

from collections.abc import Iterable
from typing import Any

from pyworker.official.backend import Backend

__all__ = ["Backend", "start_server", "start_server_async"]


def start_server(backend: Backend, routes: Iterable[Any], **kwargs: Any) -> None:
    """Serve until told to stop. Keyword arguments are the official package's, and ignored."""
    backend.worker(routes).run(**kwargs)


async def start_server_async(backend: Backend, routes: Iterable[Any], **kwargs: Any) -> None:
    """`start_server`, in a loop that runs already."""
    await backend.worker(routes).run_async(**kwargs)
