"""``vastai.serverless.server.lib.data_types``: the classes that an author derives from. `pyworker.handler` runs them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Generic, Self, TypeVar

from aiohttp import ClientResponse, web

from pyworker.core.errors import JsonDataException

__all__ = ["ApiPayload", "ApiPayload_T", "AuthData", "EndpointHandler", "JsonDataException", "LogAction"]

ApiPayload_T = TypeVar("ApiPayload_T", bound="ApiPayload")


class LogAction(Enum):
    """What a line of the model server's log means."""

    ModelLoaded = 1
    ModelError = 2
    Info = 3


@dataclass
class ApiPayload(ABC):
    """A client's payload, as the model server wants it and as it is priced."""

    @classmethod
    @abstractmethod
    def for_test(cls) -> Self:
        """One for the benchmark."""

    @abstractmethod
    def generate_payload_json(self) -> dict[str, Any]:
        """What the model server is sent as JSON..."""

    def generate_payload_multipart(self) -> dict[str, Any] | None:
        """... unless these form fields are sent instead; None for JSON."""
        return None

    @abstractmethod
    def count_workload(self) -> float:
        """Its load."""

    @classmethod
    @abstractmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> Self:
        """The payload that a client sent. Raises `JsonDataException` for a bad one."""


@dataclass
class AuthData:
    """A grant, as it comes in the envelope."""

    cost: str
    endpoint: str
    reqnum: int
    request_idx: int
    signature: str
    url: str

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> Self:
        """Raises `JsonDataException`, which names each field that is missing."""
        names = [one.name for one in fields(cls)]
        if missing := {name: "missing parameter" for name in names if name not in json_msg}:
            raise JsonDataException(missing)
        return cls(**{name: json_msg[name] for name in names})


@dataclass
class EndpointHandler(ABC, Generic[ApiPayload_T]):
    """A route: where its requests go, what payloads it takes, how it answers."""

    has_benchmark: bool = True
    concurrency: int = 10
    benchmark_runs: int = 8
    allow_parallel_requests: bool = False
    max_queue_time: float | None = None
    remote_function: Callable[..., Awaitable[Any]] | None = None
    do_warmup_benchmark: bool = True

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Path on the model server."""

    @property
    @abstractmethod
    def healthcheck_endpoint(self) -> str | None:
        """Health path of the model server."""

    @classmethod
    @abstractmethod
    def payload_cls(cls) -> type[ApiPayload_T]:
        """The class of its payloads."""

    @abstractmethod
    def make_benchmark_payload(self) -> ApiPayload_T:
        """One request of the benchmark."""

    @abstractmethod
    async def generate_client_response(
        self, client_request: web.Request, model_response: ClientResponse
    ) -> web.StreamResponse:
        """The client's answer, made from the model server's."""

    async def call_remote_dispatch_function(self, params: dict[str, Any]) -> Any:
        """The answer to ``params`` where there is a ``remote_function``, in place of a model server's."""
        assert self.remote_function is not None
        return await self.remote_function(**params)

    @classmethod
    def get_data_from_request(cls, req_data: dict[str, Any]) -> tuple[AuthData, ApiPayload_T, str | None]:
        """Grant, payload and session id of an envelope. Raises `JsonDataException`, which names what is wrong."""
        wrong: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for name, read in (
            ("auth_data", AuthData.from_json_msg),
            ("payload", cls.payload_cls().from_json_msg),
        ):
            try:
                found[name] = read(req_data[name]) if name in req_data else None
            except JsonDataException as error:
                wrong[name] = error.message
            if name not in req_data:
                wrong[name] = "field missing"
        if wrong:
            raise JsonDataException(wrong)
        return found["auth_data"], found["payload"], req_data.get("session_id")
