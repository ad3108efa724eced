"""Where the model server is, and where its health route: as its author, the handlers and the instance say."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from pyworker.config import WorkerConfig
from pyworker.handler import Handler
from pyworker.model.pool import ModelServer
from pyworker.settings import Settings, SettingsError


def model_server_of(config: WorkerConfig, handlers: Sequence[Handler]) -> ModelServer | None:
    """None where every handler is a remote function. Raises ValueError when one is needed and not named."""
    if config.model_server_url is None:
        if all(handler.call is not None for handler in handlers):
            return None
        raise SettingsError(
            ["WorkerConfig.model_server_url=None: only handlers with a remote_function can do without"]
        )
    url = config.model_server_url.rstrip("/")
    return ModelServer(f"{url}:{config.model_server_port}" if config.model_server_port else url)


def health_route_of(
    config: WorkerConfig, settings: Settings, handlers: Sequence[Handler], model: ModelServer | None
) -> tuple[ModelServer, str] | None:
    """The health route, over connections of its own: traffic must not starve the probe."""
    named = [
        settings.model_health,
        config.model_healthcheck_url,
        *(handler.healthcheck for handler in handlers),
    ]
    found = next((one for one in named if one), None)
    if found is None:
        return None
    if found.startswith("/"):
        return (ModelServer(model.url), found) if model is not None else None
    parts = urlsplit(found)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return ModelServer(f"{parts.scheme}://{parts.netloc}"), path
