# Starts only as the main program; its handler and payloads are classes of its own.
import dataclasses
import os
from typing import Any, Dict, Optional, Type

from aiohttp import ClientResponse, web
import vastai
from vastai.serverless.server import worker as sdk
from vastai.serverless.server.lib.data_types import ApiPayload, AuthData, EndpointHandler, JsonDataException


@dataclasses.dataclass
class Picture(ApiPayload):
    prompt: str
    steps: int = 4

    @classmethod
    def for_test(cls):
        return cls(prompt="a lighthouse")

    def generate_payload_json(self) -> Dict[str, Any]:
        return {"inputs": self.prompt, "steps": self.steps}

    def count_workload(self) -> float:
        return float(self.steps)

    @classmethod
    def from_json_msg(cls, json_msg):
        if "prompt" not in json_msg:
            raise JsonDataException({"prompt": "missing parameter"})
        return cls(prompt=json_msg["prompt"], steps=json_msg.get("steps", 4))


class Upload(Picture):
    def generate_payload_multipart(self):
        return {"file": ("a.txt", self.prompt.encode(), "text/plain"), "steps": self.steps, "left_out": None}


@dataclasses.dataclass
class Painter(EndpointHandler[Picture]):
    benchmark_runs: int = 1
    concurrency: int = 2
    allow_parallel_requests: bool = True

    @property
    def endpoint(self) -> str:
        return "/v2/paint"

    @property
    def healthcheck_endpoint(self) -> Optional[str]:
        return "/health"

    @classmethod
    def payload_cls(cls) -> Type[Picture]:
        return Picture

    def make_benchmark_payload(self) -> Picture:
        return Picture.for_test()

    async def generate_client_response(self, client_request: web.Request, model_response: ClientResponse):
        made = web.StreamResponse(status=model_response.status)
        await made.prepare(client_request)
        async for piece in model_response.content.iter_any():
            await made.write(b"> " + piece)
        return made

    async def call_remote_dispatch_function(self, params: dict):
        raise NotImplementedError


if __name__ == "__main__":
    assert AuthData.from_json_msg(
        {"cost": "1", "endpoint": "e", "reqnum": 1, "request_idx": 2, "signature": "s", "url": "u", "more": 1}
    ).reqnum == 1
    try:
        Painter.get_data_from_request({"auth_data": {"cost": "1"}, "payload": {}})
    except JsonDataException as error:
        assert error.message["payload"] == {"prompt": "missing parameter"}
        assert error.message["auth_data"]["url"] == "missing parameter"
    actions = sdk.LogActionConfig(["model loaded"], [], ["loading"])
    assert [action.name for action, _ in actions.log_actions] == ["ModelLoaded", "Info"]
    config = vastai.WorkerConfig(
        "http://127.0.0.1",
        int(os.environ["MODEL_PORT"]),
        os.environ["MODEL_LOG"],
        handlers=[
            sdk.HandlerConfig(route="/paint", handler_class=Painter),
            sdk.HandlerConfig(route="/upload", payload_class=Upload, healthcheck=""),
        ],
        model_healthcheck_url="",
        log_action_config=actions,
    )
    vastai.Worker(config).run()
