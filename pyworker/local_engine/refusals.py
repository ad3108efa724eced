"""What a call to the engine is turned away with, each with its HTTP status; the body is ``{"msg": …}``."""

from typing import Any

from pyworker.core.errors import Refusal


class EngineRefusal(Refusal):
    """A call that gets an error instead of what it asked for."""

    status = 400

    def body(self) -> dict[str, Any]:
        return {"msg": self.reason}


class BadCall(EngineRefusal):
    """The body is not what the route takes."""


class WrongApiKey(EngineRefusal):
    status = 401

    def __init__(self) -> None:
        super().__init__("wrong API key, or none (body, ?api_key= or Authorization: Bearer)")


class WrongToken(EngineRefusal):
    """A worker's ``mtoken`` is not the one its id is bound to."""

    status = 401

    def __init__(self, worker_id: int) -> None:
        super().__init__(f"wrong mtoken for worker {worker_id}")


class UnknownEndpoint(EngineRefusal):
    status = 404


class PoolFull(EngineRefusal):
    """As many workers report as the engine keeps."""

    status = 503
